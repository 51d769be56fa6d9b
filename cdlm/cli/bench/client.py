"""A small streaming client of OpenAI-compatible servers that measures what it receives."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from cdlm.server.http.loopback import is_loopback

Endpoint = Literal["completions", "chat"]

_PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_SHOWN_CHARACTERS = 500


class CompletionError(RuntimeError):
    """The server answered with an error, or broke off."""


@dataclass(slots=True)
class Completion:
    """One finished request: text, usage, and times in seconds since it was sent; ``chunks`` has one time per event.

    ``usage`` is empty if the server does not report it.
    """

    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    first_chunk: float = 0.0
    latency: float = 0.0
    chunks: list[float] = field(default_factory=list)


async def complete(client: httpx.AsyncClient, body: dict[str, Any], endpoint: Endpoint = "completions") -> Completion:
    """Sends one completion or chat, and reads its stream.

    Raises:
        CompletionError: the status is not 200, an event is an error, or the stream is malformed or incomplete.
    """
    result = Completion()
    started = time.perf_counter()
    payload = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", _PATHS[endpoint], json=payload) as response:
            if response.status_code != 200:
                raise CompletionError(
                    f"{response.status_code}: {_shown((await response.aread()).decode(errors='replace'))}"
                )
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    result.latency = time.perf_counter() - started
                    return result
                try:
                    _merge(result, json.loads(data), started)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise CompletionError(f"malformed event ({type(error).__name__}): {_shown(data)}") from error
    except httpx.HTTPError as error:
        raise CompletionError(f"{type(error).__name__}: {error}") from error
    raise CompletionError("the stream ended without [DONE]")


async def complete_whole(
    client: httpx.AsyncClient, body: dict[str, Any], endpoint: Endpoint = "completions"
) -> Completion:
    """Sends one completion or chat that is answered in one piece.

    Raises:
        CompletionError: the status is not 200, or the answer is malformed.
    """
    started = time.perf_counter()
    try:
        response = await client.post(_PATHS[endpoint], json=body)
    except httpx.HTTPError as error:
        raise CompletionError(f"{type(error).__name__}: {error}") from error
    latency = time.perf_counter() - started
    if response.status_code != 200:
        raise CompletionError(f"{response.status_code}: {_shown(response.text)}")
    try:
        answer = response.json()
        choice = answer["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return Completion(text or "", answer["usage"], choice["finish_reason"], latency, latency, [latency])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CompletionError(f"malformed answer ({type(error).__name__}): {_shown(response.text)}") from error


def _merge(result: Completion, event: dict[str, Any], started: float) -> None:
    if event.get("error"):
        error = event["error"]
        raise CompletionError(str(error.get("message")) if isinstance(error, dict) else str(error))
    choices = event.get("choices") or []  # The usage event has no choices.
    # The first event of a chat has the role only.
    if any("delta" not in choice or _says_something(choice["delta"]) for choice in choices):
        result.chunks.append(time.perf_counter() - started)
        result.first_chunk = result.chunks[0]
    result.usage = event.get("usage") or result.usage
    for choice in choices:
        result.text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
        result.finish_reason = choice.get("finish_reason") or result.finish_reason


def _says_something(delta: dict[str, Any]) -> bool:
    return any(value for name, value in delta.items() if name != "role")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def make_client(url: str, api_key: str | None, concurrency: int) -> httpx.AsyncClient:
    """A client with one connection per concurrent request.

    Ignores proxies (HTTP_PROXY and others) for addresses of this machine.
    """
    return httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(600.0, connect=10.0),
        limits=httpx.Limits(max_connections=concurrency + 2),
        trust_env=not is_loopback(url),
    )


async def served_model(client: httpx.AsyncClient) -> str:
    """The id of the server's first model.

    Raises:
        CompletionError: the server cannot be reached, refuses, or offers none.
    """
    try:
        response = await client.get("/v1/models")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CompletionError(f"cannot reach {client.base_url}: {error}") from error
    if response.status_code != 200:
        raise CompletionError(f"/v1/models answered {response.status_code}: {_shown(response.text)}")
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise CompletionError(f"/v1/models lists no model: {_shown(response.text)}") from None
