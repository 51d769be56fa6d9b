"""The response to a completion, whole or as events."""

import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from cdlm.server.errors import ApiError
from cdlm.server.http.sse import DONE, event
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.diffusing import diffusing
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.answers.logprobs import token_name, top_map
from cdlm.server.openai.answers.text import place_prompt
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.completions.response import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    CompletionPiece,
)
from cdlm.server.openai.protocol.response import Usage
from cdlm.server.services import Services
from cdlm.server.text import TextCodec
from cdlm.server.text.update import PlacedToken, Update


class CompletionInProgress:
    """Writes the response to a completion, whole or as events."""

    answer_type: type[Completion] = Completion
    chunk_type: type[CompletionChunk] = CompletionChunk

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
        """Waits for the answers; raises ``ApiError`` as ``Job.finish`` does."""
        choices = [self._choice(choice) for choice in await self._job.finish()]
        return self.answer_type(**self._head, choices=choices, usage=self.usage())

    def usage(self) -> Usage:
        """The usage so far."""
        return self._job.usage()

    def write(self, update: Update) -> Iterator[bytes]:
        """Encodes one event per block or part of one."""
        yield event(self._chunk(update, first=update.index not in self._started))
        self._started.add(update.index)

    def end(self) -> Iterator[bytes]:
        """Encodes the usage, if requested, and ``[DONE]``."""
        if self._body.stream_options.include_usage:
            yield event(self.chunk_type(**self._head, choices=[], usage=self.usage()))
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
        if choice.vote is not None:
            result.vote = choice.vote
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
        chunk, options = self.chunk_type(**self._head, choices=[piece]), self._body.stream_options
        if options.include_usage or options.continuous_usage_stats:
            chunk.usage = self.usage() if options.continuous_usage_stats else None
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
        number = index // self._body.returned
        # Text prompts are echoed unchanged: an added token has no characters. Prompts of ids show all tokens.
        special = isinstance(self._body.prompt[number], list)
        decode = partial(self._codec.decode, keep_special=special)
        return place_prompt(self._job.prompts[number], self._job.prompt_scores[number], decode)

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._body.returned] if self._echoes else ""
