"""The one settings object of a server: flags, ``CDLM_*`` variables, defaults."""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, NoDecode, SettingsConfigDict

from cdlm.model.fetching.names import DEFAULT
from cdlm.scheduler.options import EngineOptions, Location
from cdlm.scheduler.sizes import ByteSize
from cdlm.server.access.keys import EMPTY_SECRET, ApiKey, check_distinct, named_keys, read_keys, split_keys
from cdlm.server.observe.tracing import check_endpoint

ENV_PREFIX = "CDLM_"


SECRETS = ("api_key", "api_key_file")


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class ServerSettings(BaseSettings, EngineOptions):
    """All settings of a server. Frozen; unknown names and invalid values raise at start."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_prog_name="cdlm serve",
        cli_exit_on_error=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        hide_input_in_errors=False,
    )

    model: Location = Field(
        default=DEFAULT,
        description="cdlm-smol, cdlm-nano, a checkpoint directory (safetensors, tokenizer, config), a GGUF file, or an "
        "id owner/name on the Hugging Face Hub. Default: cdlm-smol, or cdlm-nano where it cannot be fetched.",
    )
    revision: str | None = Field(
        default=None, min_length=1, description="Branch, tag or commit of a --model that is an id."
    )
    served_model_name: str | None = Field(
        default=None,
        min_length=1,
        description="Model id that clients send. Default: the name of the adapter's directory, else the model's.",
    )
    chat_template: Path | None = Field(
        default=None,
        description="File with the Jinja template of chats. Default: the tokenizer's, else that of the format.",
    )
    trust_request_chat_template: CliImplicitFlag[bool] = Field(
        default=False,
        description="Let chats bring a template of their own (chat_template); it runs in a sandbox, without a limit of "
        "time.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")
    max_waiting_requests: int = Field(
        default=1024,
        ge=0,
        description="Sequences that may wait beyond max_num_seqs; more are answered with 429.",
    )
    threshold_under_load: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Lower the confidence threshold of requests that set none, down to this one, while sequences wait: "
        "faster, less certain answers. Default: never.",
    )
    load_begins_at: int = Field(
        default=0, ge=0, description="Waiting sequences beyond which --threshold-under-load begins to lower thresholds."
    )
    load_full_at: int | None = Field(
        default=None,
        ge=1,
        description="Waiting sequences at which --threshold-under-load is reached. Default: --load-begins-at and "
        "--max-num-seqs together.",
    )
    max_body_bytes: ByteSize = Field(
        default=10_000_000, ge=1024, description="Largest request body; more is answered with 413."
    )
    request_timeout_s: float = Field(
        default=600.0, gt=0, description="Seconds a request may take before it ends with 504."
    )
    engine_hang_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds without an engine step, while requests run, until the engine is restarted.",
    )
    keep_alive_timeout_s: int = Field(
        default=75,
        ge=1,
        description="Seconds that an idle connection stays open: longer than a proxy before the server keeps it.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that running requests may take to finish after SIGTERM."
    )
    api_key: Annotated[list[SecretStr], NoDecode, BeforeValidator(split_keys)] = Field(
        default_factory=list,
        description="Key that clients must send; repeat it or separate several by commas.",
    )
    api_key_file: Path | None = Field(
        default=None,
        description="File with one key per line, or its hash, name and limits (from cdlm key), beside those of "
        "--api-key; # starts a comment.",
    )
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        default_factory=list,
        description="Origins that browsers may call from, separated by commas; * for any.",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[\w.~-]+)*$",
        description="Prefix that a proxy leaves in the paths it forwards, such as /llm; those without are served too.",
    )
    playground: CliImplicitFlag[bool] = Field(
        default=True, description="Serve a page at / that shows the canvas of an answer as it fills."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP collector that a span of every request goes to, such as http://localhost:4318; needs "
        "the extra tracing. Default: that of the variables OTEL_EXPORTER_OTLP_*, else none.",
    )
    metrics_compat: Literal["vllm"] | None = Field(
        default=None,
        description="vllm: expose the metrics that vLLM has too by its names as well, for dashboards, routers and "
        "benchmarks that know them.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages to log: debug, info, warning or error."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_empty_secret(cls, values: dict[str, object]) -> dict[str, object]:
        for name, value in os.environ.items():
            field = name.lower().removeprefix(ENV_PREFIX.lower())
            if field in SECRETS and name.upper().startswith(ENV_PREFIX) and not value and field not in values:
                raise ValueError(f"{name}: {EMPTY_SECRET}")
        return values

    @field_validator("api_key_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_keys(value)
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _traceable(cls, value: str | None) -> str | None:
        if value is not None:
            check_endpoint(value)
        return value

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> Self:
        for flag, given in (("--adapter", self.adapter), ("--draft-adapter", self.draft_adapter)):
            if given is not None and not self.chosen:
                raise ValueError(f"{flag} {given} needs --model, the checkpoint that it was trained on")
        if self.guide_model is not None and not self.chosen:
            raise ValueError(f"--guide-model {self.guide_model} needs --model, the checkpoint that it guides")
        return self

    @model_validator(mode="after")
    def _load_is_a_range(self) -> Self:
        if self.threshold_under_load is None and self.model_fields_set & {"load_begins_at", "load_full_at"}:
            raise ValueError("--load-begins-at and --load-full-at need --threshold-under-load")
        if self.load_full_at is not None and self.load_full_at <= self.load_begins_at:
            raise ValueError(f"--load-full-at {self.load_full_at} must be above --load-begins-at {self.load_begins_at}")
        return self

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        check_distinct(self.api_keys)
        return self

    def fetched(self) -> "ServerSettings":
        """Fetches models given by name or Hub id; returns the settings with their paths. The model's name stays.

        Without ``model`` this is cdlm-smol, or cdlm-nano if that cannot be fetched; the log says so.

        Raises:
            CheckpointError: a model that was asked for cannot be fetched, or a revision is given for another than one
                on the Hub.
        """
        from cdlm.model.config import CheckpointError
        from cdlm.model.fetching.hub import fetch_checkpoint, is_hub_id
        from cdlm.model.fetching.names import fetch_default, find_named

        changes: dict[str, object] = {}
        named = find_named(self.model)
        if is_hub_id(self.model):
            changes["model"] = str(fetch_checkpoint(self.model, self.revision))
        elif self.revision is not None:
            kind = "a directory" if named is None else "a name"
            raise CheckpointError(f"--revision {self.revision}: {self.model} is {kind}, not an id on the Hub")
        elif self.chosen and named is not None:
            changes["model"] = str(named.fetch())
        elif not self.chosen:
            named, weights = fetch_default()
            changes["model"] = str(weights)
        for name in ("adapter", "draft_adapter", "guide_model"):
            given = getattr(self, name)
            if given is not None and is_hub_id(given):
                changes[name] = str(fetch_checkpoint(given))
        # A named model drafts for what its own adapter makes of it.
        if named is not None and self.adapter is None:
            changes |= {"adapter": named.adapter and str(named.adapter)}
            if self.draft_adapter is None and self.can_draft:
                changes |= {"draft_adapter": named.draft_adapter and str(named.draft_adapter)}
        named_by_path = self.adapter is not None and not is_hub_id(self.adapter)
        if changes.keys() - {"draft_adapter", "guide_model"} and self.served_model_name is None and not named_by_path:
            changes["served_model_name"] = self.adapter or (self.model if named is None else named.name)
        return self.model_copy(update=changes)

    @property
    def can_draft(self) -> bool:
        """Whether an engine with these settings could draft."""
        return self.attention_backend != "flex" and self.guide_model is None

    @property
    def chosen(self) -> bool:
        """Whether a flag or a variable names the model."""
        return "model" in self.model_fields_set

    @property
    def model_name(self) -> str:
        """The model id that clients send."""
        return self.served_model_name or Path(self.adapter or self.model).resolve().name.removesuffix(".gguf")

    @cached_property
    def api_keys(self) -> list[ApiKey]:
        """All accepted keys; empty if no key is needed."""
        keys = named_keys(key.get_secret_value() for key in self.api_key)
        return keys + (read_keys(self.api_key_file) if self.api_key_file else [])

    def engine_options(self) -> EngineOptions:
        """The part of the settings that the engine process needs."""
        return EngineOptions.model_construct(**{name: getattr(self, name) for name in EngineOptions.model_fields})
