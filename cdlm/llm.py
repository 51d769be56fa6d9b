"""``cdlm.LLM``: text generation from Python, without a server."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cdlm.background import BackgroundApp, Json
from cdlm.outputs import Canvas, Chunk, Completion, RequestOutput, TokenLogprob
from cdlm.sampling_params import SamplingParams

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]

_COMPLETIONS, _CHATS = "/v1/completions", "/v1/chat/completions"
# Responses then contain token ids, also in log-probabilities.
_WITH_IDS: Json = {"return_token_ids": True, "return_tokens_as_token_ids": True}


class LLM:
    """A model in its own engine process.

        with cdlm.LLM("path-or-id") as llm:
            [answer] = llm.generate("Tom has 3 apples.", cdlm.SamplingParams(max_tokens=64))
            print(answer.text)

    Methods may be called from several threads, and in notebooks. The process ends with ``close``, at the end of a
    ``with`` block, or with the program.

    Args:
        model: ``cdlm-smol``, ``cdlm-nano``, a checkpoint directory, a GGUF file, or a Hugging Face Hub id
            ``owner/name``; ``None`` is cdlm-smol, or cdlm-nano where that cannot be fetched.
        settings: engine flags of ``cdlm serve`` with underscores, for example ``adapter``, ``device``, ``dtype``,
            ``threads``, ``max_num_seqs``, or ``kv_cache_memory`` (bytes, or a text like "2GiB").

    Raises:
        LoadError: a setting is wrong, or the model cannot be loaded.
    """

    def __init__(self, model: str | Path | None = None, **settings: Any) -> None:
        given = {name: value for name, value in settings.items() if value is not None}
        self._app = BackgroundApp(given if model is None else {"model": str(model), **given})

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **fields: Any,
    ) -> list[RequestOutput]:
        """Completes prompts in one batch.

        Args:
            prompts: a text, a list of token ids, or a list of either.
            params: one for all prompts, or one per prompt.
            fields: other fields of ``/v1/completions``, for example ``suffix``, ``echo`` or ``return_step_map``.

        Returns:
            One output per prompt, in order.

        Raises:
            RequestError: a prompt cannot be served; none is answered.
            EngineError: the engine failed.
        """
        several: list[Any] = [prompts] if _is_prompt(prompts) else list(prompts)
        bodies = [
            {"prompt": prompt if isinstance(prompt, str) else list(prompt), **own, **fields}
            for prompt, own in zip(several, _fields(params, len(several), chat=False), strict=True)
        ]
        return self._answers(_COMPLETIONS, bodies)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **fields: Any,
    ) -> list[RequestOutput]:
        """Answers one chat, or several in one batch.

        Args:
            messages: a chat, as OpenAI's list of objects with ``role`` and ``content``; or a list of chats.
            params: one for all chats, or one per chat.
            fields: other fields of ``/v1/chat/completions``, for example ``tools``, ``tool_choice`` or
                ``chat_template_kwargs``.

        Returns:
            One output per chat, in order.

        Raises:
            RequestError, EngineError: as ``generate`` does.
        """
        several: list[Any] = [messages] if _is_chat(messages) else list(messages)
        bodies = [
            {"messages": list(chat), **own, **fields}
            for chat, own in zip(several, _fields(params, len(several), chat=True), strict=True)
        ]
        return self._answers(_CHATS, bodies)

    def stream(
        self,
        prompt: Prompt | Messages,
        params: SamplingParams | None = None,
        *,
        granularity: Literal["block", "step"] = "block",
        canvas: bool = False,
        **fields: Any,
    ) -> Iterator[Chunk]:
        """Streams the answer to one prompt or chat. Closing the iterator aborts the request.

        Args:
            prompt: a text, a list of token ids, or the messages of a chat.
            params: how to decode.
            granularity: ``block`` yields one chunk per block; ``step`` yields text as soon as all text before it is
                final.
            canvas: also yield the block after each denoise step (``Chunk.canvas``).
            fields: other fields of the endpoint, as in ``generate`` or ``chat``.

        Raises:
            RequestError, EngineError: as ``generate`` does, at the first chunk or later.
        """
        chat = _is_chat(prompt)
        [own] = _fields(params, 1, chat=chat)
        what = {"messages": list(prompt)} if chat else {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
        how = {"stream": True, "stream_granularity": granularity, "diffusing": canvas}
        for event in self._app.events(_CHATS if chat else _COMPLETIONS, {**what, **own, **how, **fields}):
            chunks = map(_chunk, event["choices"])
            # The first event of a chat is empty.
            yield from (chunk for chunk in chunks if chunk != Chunk(chunk.index, "", []))

    def close(self) -> None:
        """Ends the engine process. Does nothing if closed already."""
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self, path: str, bodies: list[Json]) -> list[RequestOutput]:
        return [_output(answer) for answer in self._app.run(_all(self._app, path, bodies))]


async def _all(app: BackgroundApp, path: str, bodies: list[Json]) -> list[Json]:
    # Enough to keep every row busy; the other requests wait here.
    ready = app.client.ready
    places = asyncio.Semaphore(2 * (app.settings.rows if ready is None else ready.max_num_seqs))

    async def one(body: Json) -> Json:
        async with places:
            return await app.answer(path, body)

    tasks = [asyncio.create_task(one(body)) for body in bodies]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and bool(value) and isinstance(value[0], int))


def _is_chat(value: object) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def _fields(params: SamplingParams | Sequence[SamplingParams] | None, count: int, *, chat: bool) -> list[Json]:
    each = [params or SamplingParams()] * count if not isinstance(params, Sequence) else list(params)
    if len(each) != count:
        raise ValueError(f"there are {len(each)} params for {count} prompts")
    return [{**(one.of_chat() if chat else one.of_completion()), **_WITH_IDS} for one in each]


def _output(answer: Json) -> RequestOutput:
    choices, usage = answer["choices"], answer["usage"]
    prompt = answer["prompt_token_ids"] if "prompt_token_ids" in answer else choices[0]["prompt_token_ids"]
    return RequestOutput(
        prompt_token_ids=prompt,
        outputs=[_completion(choice) for choice in choices],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        denoise_steps=usage["denoise_steps"],
        forward_passes=usage["forward_passes"],
    )


def _completion(choice: Json) -> Completion:
    message = choice.get("message") or {"content": choice.get("text")}
    return Completion(
        index=choice["index"],
        text=message["content"] or "",
        token_ids=choice["token_ids"],
        finish_reason=choice["finish_reason"],
        stop_reason=choice["stop_reason"],
        logprobs=_logprobs(choice, len(choice["token_ids"])),
        tool_calls=message.get("tool_calls", []),
        step_map=choice.get("step_map"),
    )


def _chunk(choice: Json) -> Chunk:
    delta = choice.get("delta", {"content": choice.get("text")})
    ids, shown = choice.get("token_ids", []), choice.get("diffusing")
    return Chunk(
        index=choice["index"],
        text=delta.get("content") or "",
        token_ids=ids,
        finish_reason=choice["finish_reason"],
        stop_reason=choice["stop_reason"],
        logprobs=_logprobs(choice, len(ids)),
        tool_calls=delta.get("tool_calls", []),
        canvas=shown and Canvas(shown["block"], shown["step"], shown["tokens"]),
        step_map=choice.get("step_map"),
    )


def _logprobs(choice: Json, count: int) -> list[TokenLogprob] | None:
    """Log-probabilities of the first ``count`` tokens; the entry of an end token after them is dropped."""
    found = choice.get("logprobs")
    if found is None:
        return None
    if "content" in found:
        return [
            TokenLogprob(
                _ident(each["token"]), each["logprob"], {_ident(t["token"]): t["logprob"] for t in each["top_logprobs"]}
            )
            for each in found["content"][:count]
        ]
    tops = found["top_logprobs"] or [{}] * count
    return [
        TokenLogprob(_ident(token), logprob, {_ident(name): value for name, value in (top or {}).items()})
        for token, logprob, top in zip(found["tokens"], found["token_logprobs"], tops, strict=False)
    ][:count]


def _ident(name: str) -> int:
    return int(name.removeprefix("token_id:"))
