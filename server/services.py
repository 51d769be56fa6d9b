"""State shared by the routes: engine, tokenizer, admission, metrics."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

import msgspec
from pydantic import ValidationError
from starlette.requests import Request

import cdlm
from cdlm.model.config import CANNOT_REPLACE
from cdlm.model.decoding.params import MAX_WORD_LENGTH, MAX_WORDS, DecodingParams, ParameterError, check_token_ids
from cdlm.scheduler.errors import EngineDeadError, EngineError
from cdlm.scheduler.messages import BlockOutput, EngineReady, ScoreRequest
from cdlm.scheduler.process.client import EngineClient
from cdlm.server.errors import ApiError, invalid, too_long
from cdlm.server.gate import Gate
from cdlm.server.observe.metrics import Metrics
from cdlm.server.openai.forms.answer_grammar import AnswerGrammar
from cdlm.server.openai.forms.grammars import GrammarChecker
from cdlm.server.openai.protocol.body import read_body
from cdlm.server.openai.protocol.fields import AnswerFields, ModelFields
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec

Body = TypeVar("Body", bound=ModelFields)


class Services:
    """One server's shared state.

    ``codec`` is set once the tokenizer is loaded. ``leaving`` is set when the readiness probe starts to fail; requests
    are still served until the gate drains.
    """

    def __init__(self, settings: ServerSettings, engine: EngineClient, codec: TextCodec | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.codec = codec
        self.leaving = False
        self.version = cdlm.__version__
        self.created = int(time.time())
        self.model_name = settings.model_name
        self.metrics = Metrics(self.model_name, self.version, settings.metrics_compat)
        self.metrics.watch(engine)
        self.grammars = GrammarChecker()
        self.gate = Gate(self._most_sequences, self.metrics)
        engine.stats_listeners.append(self.metrics.observe_step)

    @property
    def rows(self) -> int:
        """Most sequences in one batch: the number in the settings, else the engine's, once it is ready."""
        ready, asked = self.engine.ready, self.settings.max_num_seqs
        if asked != "auto":
            return asked
        return self.settings.rows if ready is None else ready.max_num_seqs

    def _most_sequences(self) -> int:
        return self.rows + self.settings.max_waiting_requests

    @property
    def ready(self) -> bool:
        """Whether the readiness probe passes."""
        return self.engine.ready is not None and self.codec is not None and not self.stopping

    @property
    def stopping(self) -> bool:
        """Whether the server is shutting down."""
        return self.leaving or self.gate.draining

    @property
    def hung(self) -> bool:
        """Whether the engine has not stepped for ``engine_hang_timeout_s`` seconds with sequences in flight."""
        return self.engine.quiet_s > self.settings.engine_hang_timeout_s

    def require_ready(self) -> tuple[EngineReady, TextCodec]:
        """The engine's description and the tokenizer; raises ``ApiError`` 503 until both are loaded."""
        ready, codec = self.engine.ready, self.codec
        if self.gate.draining:
            self.metrics.rejected("draining")
            raise ApiError(503, "The server is shutting down", retry_after=10)
        if ready is None or codec is None:
            self.metrics.rejected("not_ready")
            raise ApiError(503, self.engine.failure or "The model is still loading; retry later", retry_after=2)
        return ready, codec

    def check_model(self, model: str | None) -> None:
        """Raises ``ApiError`` 404 for a model other than the served one."""
        if model is not None and model != self.model_name:
            raise ApiError(404, f"The model {model[:200]!r} does not exist", param="model", code="model_not_found")

    async def checked_grammar(
        self, grammar: AnswerGrammar | None, stop_token_ids: list[int], ready: EngineReady, codec: TextCodec
    ) -> str | None:
        """Returns the text of ``grammar``.

        Raises ``ApiError`` 400 if it is invalid, answers could not end, or stop token ids are outside the vocabulary.
        """
        if stop_token_ids:
            check_ids(stop_token_ids, ready, "stop_token_ids")
        if grammar is None:
            return None
        if not all(codec.is_special(ident) for ident in stop_token_ids):
            message = f"stop_token_ids: with {grammar.param} only special tokens can end an answer"
            raise invalid(message, "stop_token_ids")
        if not ready.stop_token_ids and not stop_token_ids:
            message = f"{grammar.param} needs an end token, and this model has none; see stop_token_ids"
            raise invalid(message, grammar.param)
        return await self.grammars.check(grammar, codec, ready)

    def decoding_params(
        self, fields: AnswerFields, budget: int, grammar: AnswerGrammar | None, ready: EngineReady, codec: TextCodec
    ) -> DecodingParams:
        """The engine's decoding parameters.

        Raises ``ApiError`` 400 if they do not fit the model, ``grammar``, the other fields or ``budget`` tokens.
        """
        try:
            params = fields.decoding_params(ready.confidence_threshold, codec.spellings)
        except ValidationError:  # All fields are valid as sent; only the tokenizer knows how many ids a text has.
            raise invalid(
                f"bad_words: at most {MAX_WORDS} words of at most {MAX_WORD_LENGTH} tokens; "
                "a text is two, one after a space",
                "bad_words",
            ) from None
        with _naming_the_field():
            stop_ids = [*ready.stop_token_ids, *fields.stop_token_ids]
            params.check_fit(ready.vocab_size, ready.mask_token_id, stop_ids, budget)
        if not params.replaces:
            return params
        if not ready.can_replace:
            raise invalid("edit_threshold: " + CANNOT_REPLACE, "edit_threshold")
        rule = fields.rule(self.settings.default_rule)
        hindrance = params.hinders_replacing(rule, None if grammar is None else grammar.param)
        if hindrance is not None:
            raise invalid(f"edit_threshold cannot be combined with {hindrance}", "edit_threshold")
        return params

    async def score(self, request: ScoreRequest) -> BlockOutput:
        """The log-probabilities that the engine gives for a text; raises ``EngineError`` if it fails or has died."""
        async with aclosing(self.engine.generate(request)) as blocks:
            async for block in blocks:
                if block.finish_reason == "error":
                    raise EngineError(block.error or "no reason was given")
                return block
        raise EngineDeadError("the engine ended the request without a reason")

    def fingerprint(self) -> str:
        """A fingerprint of version and configuration (``system_fingerprint``)."""
        ready = self.engine.ready
        config = msgspec.json.encode(ready) if ready else b""
        return "fp_" + hashlib.sha256(self.version.encode() + config).hexdigest()[:12]


async def receive(request: Request, model: type[Body]) -> tuple[Services, Body]:
    """The server's state, and the body of a request as a ``model``.

    Raises ``ApiError`` and ``ClientGone`` as ``read_body``, and ``ApiError`` 404 for a model that is not served.
    """
    services: Services = request.app.state.services
    body = await read_body(request, model)
    services.check_model(body.model)
    return services, body


def check_ids(ids: list[int], ready: EngineReady, param: str) -> None:
    """Raises ``ApiError`` 400 for an empty prompt, ids outside the vocabulary, and the mask token."""
    if not ids:
        raise invalid(f"{param} must not be empty", param)
    with _naming_the_field():
        check_token_ids(param, ids, ready.vocab_size, ready.mask_token_id)


@contextmanager
def _naming_the_field() -> Iterator[None]:
    """A context that turns ``ParameterError`` into ``ApiError`` 400."""
    try:
        yield
    except ParameterError as error:
        raise invalid(str(error), error.param) from None


def token_budget(prompt_tokens: int, wanted: int | None, ready: EngineReady, param: str, *, guided: bool) -> int:
    """Most tokens to generate: ``wanted``, or if ``None`` the rest of the context.

    Raises ``ApiError`` 400 if prompt plus ``wanted`` tokens exceed the context, or the limit of a ``guided`` request.
    """
    # A KV cache smaller than one context limits requests too; blocks always run whole.
    context = min(ready.max_model_len, ready.num_pages * ready.page_size - ready.block_length)
    rest = context - prompt_tokens
    if rest < 0 or (rest == 0 and wanted != 0):
        raise too_long(context, str(prompt_tokens), param)
    if wanted is not None and wanted > rest:
        raise too_long(context, str(prompt_tokens), param, wanted)
    if guided and ready.mask_token_id >= ready.vocab_size:
        raise invalid("guidance_scale needs a mask token, and this model has none", "guidance_scale")
    if guided:
        rest = min(rest, ready.max_guided_len - prompt_tokens)
        if rest < 1 or (wanted is not None and wanted > rest):
            limit = max(0, ready.max_guided_len)
            raise invalid(
                f"guidance_scale: prompt and answer of a guided request may have {limit} tokens", "guidance_scale"
            )
    return rest if wanted is None else wanted
