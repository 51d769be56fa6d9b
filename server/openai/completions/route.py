"""``POST /v1/completions``."""

import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.scheduler.messages import EngineReady
from cdlm.server.answer import reply
from cdlm.server.errors import ApiError, too_long
from cdlm.server.http.sse import DONE, event, open_stream, unless_gone
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.diffusing import diffusing
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.answers.logprobs import token_name, top_map
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.answers.text import place_prompt
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.completions.response import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    CompletionPiece,
)
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.protocol.body import read_body
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import Services, check_ids, check_stop_ids, decoding_params, token_budget
from cdlm.server.text import TextCodec
from cdlm.server.text.update import PlacedToken, Update

router = APIRouter()


@router.post("/completions")
@Operation(Completion, GENERATE, CompletionRequest, CompletionChunk, "generate")
async def complete(request: Request) -> Response:
    """Continues one or several prompts."""
    services: Services = request.app.state.services
    body = await read_body(request, CompletionRequest)
    services.check_model(body.model)
    body.check_supported(services.settings)
    ready, codec = services.require_ready()
    job, echoes = await _plan(services, body, ready, codec, request.state.record)
    answer = _Answer(services, body, job, codec, echoes)
    if body.stream:
        return await open_stream(request, answer_events(job, answer))
    return reply(await unless_gone(request, answer.whole()))


async def _plan(
    services: Services, body: CompletionRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> tuple[Job, list[str]]:
    # Before encoding, so that a huge list costs no time.
    several = "n" if body.best_of is None else "best_of"
    services.gate.check_size(
        len(body.prompt) * (body.candidates + body.scores_prompts),
        "prompt" if len(body.prompt) > body.candidates else several,
    )
    bound = None if body.constraint is None else constraint_grammar(body.constraint)
    grammar = await services.checked_grammar(bound, body.stop_token_ids, ready, codec)
    texts = [item for item in body.prompt if isinstance(item, str)]
    given = [item for item in body.prompt if isinstance(item, list)]
    pinned: list[int] = []
    if body.suffix:
        [pinned] = await codec.encode([body.suffix], ready.max_model_len, "suffix", special=False)
        check_ids(pinned, ready, "suffix")
        if len(pinned) > ready.max_model_len:
            raise too_long(ready.max_model_len, str(len(pinned)), "suffix")
        prompts = await codec.encode_infill(
            texts, body.suffix, pinned, ready.max_model_len, special=body.add_special_tokens
        )
    else:
        prompts = given or await codec.encode(texts, ready.max_model_len, special=body.add_special_tokens)
    wanted = body.max_tokens if "max_tokens" in body.model_fields_set else None
    budgets = []
    for ids in prompts:
        check_ids(ids, ready, "prompt")
        rest = token_budget(len(ids), wanted, ready, "prompt", guided=body.guidance_scale > 0)
        budgets.append(min(rest, body.max_tokens))
    check_stop_ids(body.stop_token_ids, ready)
    params = decoding_params(body, min(budgets), ready, codec)
    limit = "max_tokens" if min(budgets) == body.max_tokens else None
    await services.check_room(bound, min(budgets), limit, "prompt", ready, codec)
    echoes = [
        item if isinstance(item, str) else codec.decode(item, keep_special=True)
        for item in (body.prompt if body.echo else [])
    ]
    job = Job.plan(
        services, codec, record, body, params, prompts, budgets, echoes=echoes, score_prompts=body.scores_prompts,
        pinned=pinned[: ready.block_length], grammar=grammar,
    )  # fmt: skip
    return job, echoes


class _Answer:
    def __init__(
        self, services: Services, body: CompletionRequest, job: Job, codec: TextCodec, echoes: list[str]
    ) -> None:
        self._body = body
        self._job = job
        self._codec = codec
        self._echoes = echoes
        self._started: set[int] = set()  # Choices that have an event.
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": services.model_name,
            "system_fingerprint": services.fingerprint(),
        }

    async def whole(self) -> Completion:
        choices = [self._choice(choice) for choice in await self._job.finish()]
        return Completion(**self._head, choices=choices, usage=self._job.usage())

    def write(self, update: Update) -> Iterator[bytes]:
        """Encodes one event per block or part of one."""
        yield event(self._chunk(update, first=update.index not in self._started))
        self._started.add(update.index)

    def end(self) -> Iterator[bytes]:
        """Encodes the usage, if requested, and ``[DONE]``."""
        if self._body.stream_options.include_usage:
            yield event(CompletionChunk(**self._head, choices=[], usage=self._job.usage()))
        yield DONE

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """Encodes the error and ``[DONE]``."""
        yield event(error.body())
        yield DONE

    def _choice(self, choice: Choice) -> CompletionChoice:
        result = CompletionChoice(
            index=choice.index,
            text=self._echo(choice.index) + choice.text,
            logprobs=self._logprobs(self._prompt(choice.index) + choice.logprobs),
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
        )
        if self._body.return_token_ids:
            result.token_ids = choice.token_ids
            result.prompt_token_ids = choice.request.prompt_ids
        if self._body.return_step_map:
            result.step_map = choice.step_map
        return result

    def _chunk(self, update: Update, *, first: bool) -> CompletionChunk:
        piece = CompletionPiece(
            index=update.index,
            text=(self._echo(update.index) if first else "") + update.text,
            logprobs=self._logprobs((self._prompt(update.index) if first else []) + update.logprobs),
            finish_reason=update.finish_reason,
            stop_reason=update.stop_reason,
        )
        if self._body.return_token_ids:
            piece.token_ids = update.token_ids
            if first:
                piece.prompt_token_ids = self._job.choices[update.index].request.prompt_ids
        if self._body.return_step_map:
            piece.step_map = update.step_map
        if update.canvas is not None:
            piece.diffusing = diffusing(
                update.block, update.canvas, self._codec, keep_special=not self._body.skip_special_tokens
            )
        chunk, options = CompletionChunk(**self._head, choices=[piece]), self._body.stream_options
        if options.include_usage or options.continuous_usage_stats:
            chunk.usage = self._job.usage() if options.continuous_usage_stats else None
        return chunk

    def _logprobs(self, tokens: list[PlacedToken]) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        codec, as_ids, scores = self._codec, self._body.return_tokens_as_token_ids, [token.score for token in tokens]
        return CompletionLogprobs(
            tokens=[token_name(token.token_id, codec, as_ids=as_ids) for token in tokens],
            token_logprobs=[None if score is None else score.logprob for score in scores],
            top_logprobs=[None if score is None else top_map(score, codec, as_ids=as_ids) for score in scores],
            text_offset=[token.offset for token in tokens],
            denoise_steps=[None if score is None else score.step or None for score in scores],
        )

    def _prompt(self, index: int) -> list[PlacedToken]:
        """The prompt's tokens for choice ``index``, if the response includes them."""
        if not self._body.scores_prompts:
            return []
        number = index // self._body.n
        # Text prompts are echoed unchanged: an added token has no characters. Prompts of ids show all tokens.
        special = isinstance(self._body.prompt[number], list)
        decode = partial(self._codec.decode, keep_special=special)
        return place_prompt(self._job.prompts[number], self._job.prompt_scores[number], decode)

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._body.n] if self._echoes else ""
