"""A server of completions and the loads that clients put on it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from benchmarks.speed.contenders.load import BLOCK, Load, Prompts, Sample, Unavailable, sample
from cdlm.cli.bench.client import Completion, complete, make_client, served_model
from cdlm.cli.local_server import stop

VLLM_START_S = 600.0

Result = TypeVar("Result")


class Served:
    """Streamed completions of token-id prompts over HTTP; connections stay open between loads.

    Args:
        url: of a running server.
        diffusion: whether requests carry the parameters of block-wise denoising.
    """

    def __init__(self, url: str, vocab_size: int, *, diffusion: bool) -> None:
        self.prompts, self.diffusion = Prompts(vocab_size), diffusion
        self._loop = asyncio.Runner()
        self.client = make_client(url, None, concurrency=1024)
        self._model = self._loop.run(served_model(self.client))

    def close(self) -> None:
        """Closes the connections."""
        self._loop.run(self.client.aclose())
        self._loop.close()

    def run(self, load: Load) -> Sample:
        """All requests at once, or as many as the load has streams; the clock stops when the last one has ended."""
        return self._loop.run(self._run(load))

    async def _run(self, load: Load) -> Sample:
        prompts = self.prompts.draw_all(load)
        bodies = [self.body(load, ids, tokens) for ids, tokens in zip(prompts, load.new_tokens, strict=True)]
        places = asyncio.Semaphore(load.streams or len(bodies))

        async def ask(body: dict[str, Any]) -> Completion:
            async with places:
                return await complete(self.client, body)

        started = time.perf_counter()
        done = await asyncio.gather(*map(ask, bodies))
        seconds = time.perf_counter() - started
        _check(load, done)
        forwards = max(one.usage.get("forward_passes", one.usage["completion_tokens"]) for one in done)
        first = sum(one.first_chunk for one in done) / len(done)
        return sample(seconds, load.tokens, forwards, first_chunk_s=first)

    def body(self, load: Load, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        """One request."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": new_tokens, "ignore_eos": True, "temperature": 0}
        if self.diffusion:
            body |= {"confidence_threshold": 1.0, "max_steps_per_block": min(load.steps_per_block, BLOCK)}
        return body

    def wait_for(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine that uses ``client``."""
        return self._loop.run(work)


def _check(load: Load, done: list[Completion]) -> None:
    if [completion.usage["completion_tokens"] for completion in done] != list(load.new_tokens):
        raise RuntimeError("the server generated another number of tokens than it was asked for")


@contextlib.contextmanager
def vllm_server(python: Path, model: Path, dtype: str, max_model_len: int) -> Iterator[str]:
    """vLLM's own server of ``model`` on a free port, started with the Python of another environment; yields its URL.

    Raises:
        Unavailable: it did not come up; the message ends with the last line of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", dtype]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(max_model_len)]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", **os.environ}
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        except OSError as error:
            raise Unavailable(f"vLLM was not measured: {error}.") from error
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + VLLM_START_S
            while not _healthy(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").split("\n")
                    last = next((line for line in reversed(lines) if line.strip()), "nothing in its log")
                    raise Unavailable(f"vLLM was not measured, its server did not come up: {last[-300:]}")
                time.sleep(0.5)
            yield url
        finally:
            stop(process, timeout_s=30)


def _healthy(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == 200
    return False
