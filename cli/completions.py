"""A small streaming client of /v1/completions that measures what it receives."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx


class CompletionError(RuntimeError):
    """The server answered with an error, or broke off."""


@dataclass(slots=True)
class Completion:
    """One finished request: text, usage, and times in seconds since it was sent; ``chunks`` are those of its events."""

    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    first_chunk: float = 0.0
    latency: float = 0.0
    chunks: list[float] = field(default_factory=list)


async def complete(client: httpx.AsyncClient, body: dict[str, Any]) -> Completion:
    """Streams one completion.

    Raises:
        CompletionError: any status but 200, an error event, or a stream without its end.
    """
    result = Completion()
    started = time.perf_counter()
    payload = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "/v1/completions", json=payload) as response:
            if response.status_code != 200:
                raise CompletionError(f"{response.status_code}: {(await response.aread()).decode(errors='replace')}")
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    result.latency = time.perf_counter() - started
                    return result
                _merge(result, json.loads(line.removeprefix("data: ")), started)
    except httpx.HTTPError as error:
        raise CompletionError(f"{type(error).__name__}: {error}") from error
    raise CompletionError("the stream ended without [DONE]")


def _merge(result: Completion, event: dict[str, Any], started: float) -> None:
    if "error" in event:
        raise CompletionError(str(event["error"].get("message")))
    if event["choices"]:  # The event of the usage has none.
        result.chunks.append(time.perf_counter() - started)
        result.first_chunk = result.chunks[0]
    result.usage = event.get("usage") or result.usage
    for choice in event["choices"]:
        result.text += choice["text"]
        result.finish_reason = choice["finish_reason"] or result.finish_reason


def make_client(url: str, api_key: str | None, concurrency: int) -> httpx.AsyncClient:
    """A client with as many connections as requests will run at once."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(600.0, connect=10.0),
        limits=httpx.Limits(max_connections=concurrency + 2),
    )


async def served_model(client: httpx.AsyncClient) -> str:
    """The id of the model the server offers.

    Raises:
        CompletionError: the server cannot be reached or refuses.
    """
    try:
        response = await client.get("/v1/models")
    except httpx.HTTPError as error:
        raise CompletionError(f"cannot reach {client.base_url}: {error}") from error
    if response.status_code != 200:
        raise CompletionError(f"/v1/models answered {response.status_code}: {response.text}")
    return str(response.json()["data"][0]["id"])
