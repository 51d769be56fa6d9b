"""Examines the model of the settings: what would be loaded, with which flags, and whether it can be served."""

from pathlib import Path
from typing import Any

from cdlm.cli.doctor.outlook import Outlook, outlook
from cdlm.model.config import CheckpointError
from cdlm.model.fetching.hub import downloaded, is_hub_id
from cdlm.model.fetching.names import DEFAULT, NAMES, SPARE, find_named
from cdlm.model.fetching.wheel import OFFLINE, offline
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.threads import Threads
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec, TextError

Findings = tuple[dict[str, Any] | None, dict[str, Any] | None, str | None, list[str]]


def examine_model(settings: ServerSettings) -> Findings:
    """Returns the model's description, the flags with their values, the problem that prevents serving, and warnings."""
    try:
        found, warnings = _here(settings)
        if found is None:
            return None, None, None, warnings
        seen = outlook(found.engine_options())
        codec = TextCodec.load(Path(found.model), found.chat_template)
    except (CheckpointError, EngineStartError, TextError) as error:
        return None, None, str(error), []
    warnings += [] if codec.has_template else ["there is no chat template: /v1/chat/completions will refuse chats"]
    warnings += _vocabulary_warnings(seen) + _manifest_warnings(seen)
    return _model(found, seen), _flags(found.engine_options(), seen), None, warnings


def _here(settings: ServerSettings) -> tuple[ServerSettings | None, list[str]]:
    """Returns the settings with paths in place of names and ids, and warnings; ``None`` if one is not downloaded yet.

    Without a model in the settings, and without the default one on this machine, they are those of the spare one.
    """
    if not settings.chosen and NAMES[DEFAULT].present() is None:
        why = f"{OFFLINE} forbids to fetch it" if offline() else "cdlm serve fetches it when it starts"
        spare = settings.model_copy(update={"model": SPARE})
        return spare.fetched(), [
            f"{DEFAULT}, the default, is not downloaded yet: {why}; this is {SPARE}, its substitute"
        ]
    ids = {
        "--model": (settings.model, settings.revision),
        "--adapter": (str(settings.adapter or ""), None),
        "--draft-adapter": (str(settings.draft_adapter or ""), None),
        "--guide-model": (str(settings.guide_model or ""), None),
    }
    for flag, (name, revision) in ids.items():
        named = find_named(name) if flag == "--model" else None
        here = named.present() if named else downloaded(name, revision) if is_hub_id(name) else Path(name)
        if here is None:
            if offline():
                raise CheckpointError(f"{flag} {name} is not downloaded, and {OFFLINE} forbids to fetch it")
            source = "from the Hub " if named is None else ""
            return None, [f"{flag} {name} is not downloaded yet: cdlm serve fetches it {source}when it starts"]
    return settings.fetched(), []


def _model(settings: ServerSettings, seen: Outlook) -> dict[str, Any]:
    described = seen.described
    shape, manifest = described.shape, described.manifest
    positions = manifest.max_model_len + manifest.block_length
    return {
        "name": settings.model_name,
        "directory": settings.model,
        "format": described.backbone.name,
        "adapter": None if settings.adapter is None else str(settings.adapter),
        "parameters": seen.parameters,
        "layers": shape.num_layers,
        "vocabulary": shape.vocab_size,
        "tokens": len(described.names.ordinary) + len(described.names.added),
        "prompt_attention": manifest.prompt_attention,
        "mask_token_id": manifest.mask_token_id,
        "stop_token_ids": list(manifest.stop_token_ids),
        "weight_bytes": seen.weight_bytes,
        "free_bytes": seen.free_bytes,
        "pool_bytes": seen.pages * seen.page_bytes,
        "pages": seen.pages,
        "full_contexts": seen.pages // -(-positions // settings.page_size),
    }


def _flags(options: EngineOptions, seen: Outlook) -> dict[str, Any]:
    """Engine flag -> the value that it would have."""
    manifest = seen.described.manifest
    threads = Threads(options)  # Sets torch's maximum.
    chosen = {
        "device": str(seen.device),
        "dtype": str(seen.dtype).removeprefix("torch."),
        "block_length": manifest.block_length,
        "confidence_threshold": manifest.confidence_threshold,
        "decoding": options.default_rule,
        "max_model_len": manifest.max_model_len,
        "kv_cache_memory": seen.pages * seen.page_bytes,
        "pack_weights": seen.packed,
        "attention_backend": seen.attention,
        "cuda_graphs": seen.graphs,
        "threads": threads.most,
    }
    return {name: chosen.get(name, getattr(options, name)) for name in EngineOptions.model_fields}


def _vocabulary_warnings(seen: Outlook) -> list[str]:
    """Warnings of a tokenizer that may not fit the embedding; certain misfits fail at loading."""
    names, rows = seen.described.names, seen.described.shape.vocab_size
    warnings = []
    if unused := names.unused(rows):
        warnings.append(f"the tokenizer has {len(unused)} added tokens that the embedding of {rows} rows does not know")
    tokens = len(names.ordinary) + len(names.added)
    # Embeddings are padded to a round number of rows.
    if tokens and rows - tokens > max(128, rows // 10):
        warnings.append(
            f"the tokenizer has {tokens} tokens and the embedding {rows} rows: it may be that of another model"
        )
    manifest = seen.described.manifest
    named = names.find(names.mask)
    if named and manifest.block_length > 1 and named[0] != manifest.mask_token_id:
        warnings.append(
            f"the tokenizer's mask token {names.mask!r} has id {named[0]}, and the model's mask_token_id is "
            f"{manifest.mask_token_id}"
        )
    return warnings


def _manifest_warnings(seen: Outlook) -> list[str]:
    manifest = seen.described.manifest
    warnings = []
    if not manifest.stop_token_ids:
        warnings.append("the checkpoint names no end token: answers end at max_tokens, or where a stop string is")
    if manifest.bidirectional:
        warnings.append(
            "these are the weights of a bidirectional teacher: decoded block by block its answers will be poor "
            "unless a student is merged into them (--adapter)"
        )
    return warnings
