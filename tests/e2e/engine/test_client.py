"""The engine process through its client: real processes, real sockets, real signals."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import zmq

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.errors import EngineDeadError, EngineStartError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.client import EngineClient
from tests.support.forks import script
from tests.support.models.checkpoints import build_checkpoint

SLOW = DecodingParams(confidence_threshold=1.0)  # One token a step.


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_model_len=4096)


@asynccontextmanager
async def running(model: Path, *, rows: int = 64, hang_timeout_s: float = math.inf) -> AsyncIterator[EngineClient]:
    options = EngineOptions(model=str(model), threads=1, page_size=8, max_num_seqs=rows)
    client = EngineClient(options, hang_timeout_s=hang_timeout_s)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def request(name: str, max_tokens: int = 20, params: DecodingParams = SLOW) -> GenerateRequest:
    return GenerateRequest(request_id=name, prompt_ids=[1, 2, 3], max_tokens=max_tokens, params=params, ignore_eos=True)


async def collect(client: EngineClient, wanted: GenerateRequest) -> list[BlockOutput]:
    return [block async for block in client.generate(wanted)]


async def until(condition: object, limit_s: float = 60.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.02)


def test_blocks_come_one_by_one_leaving_frees_the_pages_and_refusals_have_reasons(directory: Path) -> None:
    async def scenario() -> None:
        async with running(directory) as client:
            ready = await client.wait_ready()
            assert Path(f"/proc/{client.pid}/comm").read_text().strip() == "cdlm-engine"
            blocks = await collect(client, request("a"))
            assert [len(block.token_ids) for block in blocks] == [8, 8, 4]
            assert [block.finish_reason for block in blocks] == [None, None, "length"]
            written: list[int] = []
            client.stats_listeners.append(lambda stats: written.append(stats.finalized_tokens))
            async with aclosing(client.generate(request("b", max_tokens=4000))) as left:
                await anext(left)
            await until(lambda: client.stats.pages_active == 0)
            assert sum(written) < 2000, "nobody told the engine that the client had left"
            assert client.stats.pages_free + client.stats.pages_cached == ready.num_pages
            assert client.stats.running == 0
            await refuse(client)

    asyncio.run(scenario())


async def refuse(client: EngineClient) -> None:
    """A refused request ends with the reason, and others are served."""
    blocks = await collect(client, request("long", max_tokens=5000))
    assert blocks[-1].finish_reason == "error"
    assert "exceed the context" in (blocks[-1].error or "")
    many = GenerateRequest(request_id="many", prompt_ids=[1], max_tokens=4, stop_token_ids=list(range(40)))
    assert "stop_token_ids" in ((await collect(client, many))[-1].error or "")
    assert len(await collect(client, request("after"))) == 3


def test_what_a_killed_engine_had_not_begun_is_served_by_the_next(directory: Path) -> None:
    async def scenario() -> None:
        async with running(directory, rows=1) as client:
            await client.wait_ready()
            alone = [await collect(client, request(f"alone{i}", max_tokens=20 + i)) for i in range(3)]
            async with aclosing(client.generate(request("long", max_tokens=4000))) as long:
                await anext(long)
                waiting = [asyncio.create_task(collect(client, request(str(i), max_tokens=20 + i))) for i in range(3)]
                left = asyncio.create_task(collect(client, request("left")))
                await until(lambda: client.stats.waiting == 4)
                assert client.pid is not None
                os.kill(client.pid, signal.SIGKILL)
                with pytest.raises(EngineDeadError):
                    [block async for block in long]
            left.cancel()
            served = await asyncio.gather(*waiting)
            assert [[b.token_ids for b in blocks] for blocks in served] == [[b.token_ids for b in a] for a in alone]
            assert (client.restarts, client.in_flight) == (1, 0)
            await until(lambda: client.stats.pages_active == 0 and client.stats.waiting == 0)

    asyncio.run(scenario())


def test_stopping_between_two_lives_ends_what_waited_for_the_next(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdlm.scheduler.process.client.FIRST_BACKOFF_S", 60.0)
    monkeypatch.setattr("cdlm.scheduler.process.client.STOP_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        async with running(directory, rows=1) as client:
            await client.wait_ready()
            begun = asyncio.create_task(collect(client, request("long", max_tokens=4000)))
            await until(lambda: client.stats.running == 1)
            queued = asyncio.create_task(collect(client, request("queued")))
            await until(lambda: client.stats.waiting == 1)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError):
                await begun
            assert not queued.done()
        with pytest.raises(EngineDeadError, match="stopped"):
            await asyncio.wait_for(queued, 10)

    asyncio.run(scenario())


def test_an_engine_that_hangs_or_dies_fails_what_ran_and_comes_back(directory: Path) -> None:
    async def scenario() -> None:
        async with running(directory, hang_timeout_s=1.0) as client:
            with pytest.raises(EngineDeadError):
                await collect(client, request("early"))
            await client.wait_ready()
            assert client.pid is not None
            os.kill(client.pid, signal.SIGSTOP)  # Nothing is in flight: nobody misses it.
            await asyncio.sleep(1.5)
            assert client.restarts == 0
            os.kill(client.pid, signal.SIGCONT)
            async with aclosing(client.generate(request("a", max_tokens=4000))) as stream:
                await anext(stream)
                os.kill(client.pid, signal.SIGSTOP)
                with pytest.raises(EngineDeadError):
                    [block async for block in stream]
            await client.wait_ready()
            assert client.restarts == 1
            streams = [asyncio.create_task(collect(client, request(str(i), max_tokens=4000))) for i in range(8)]
            await until(lambda: client.stats.running == 8)
            os.kill(client.pid, signal.SIGKILL)
            for outcome in await asyncio.gather(*streams, return_exceptions=True):
                assert isinstance(outcome, EngineDeadError)
            assert client.ready is None
            await client.wait_ready()
            assert client.restarts == 2
            assert len(await collect(client, request("after"))) == 3

    asyncio.run(scenario())


def test_a_checkpoint_that_cannot_load_is_a_start_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "nowhere") as client:
            with pytest.raises(EngineStartError, match="no such checkpoint directory"):
                await client.wait_ready()

    asyncio.run(scenario())


PARENT = """
import asyncio, sys
from cdlm.scheduler.process.client import EngineClient
from cdlm.scheduler.options import EngineOptions

async def main():
    client = EngineClient(EngineOptions(model=sys.argv[1], threads=1))
    await client.start()
    if sys.argv[2] == "loaded":
        await client.wait_ready()
    while client.pid is None:
        await asyncio.sleep(0.001)
    print(client.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["loaded", "loading"])
def test_the_engine_leaves_when_its_parent_is_killed(directory: Path, moment: str) -> None:
    # Until a spawned engine has imported what it needs, it cannot ask to be ended with its parent.
    loading = [sys.executable, "-c", PARENT]
    command = [*(loading if moment == "loading" else script.command(PARENT)), str(directory), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        parent.kill()
    asyncio.run(until(lambda: not is_alive(engine), limit_s=60))


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()  # A zombie only waits to be reaped.
    except FileNotFoundError:
        return False


def test_stopping_while_the_engine_fails_to_load_is_a_stop(tmp_path: Path) -> None:
    """What was to be sent to it can never be sent: nothing is connected, and the socket is closed."""

    async def scenario() -> None:
        client = EngineClient(EngineOptions(model=str(tmp_path / "none"), threads=1))
        await client.start()
        await until(lambda: client.pid is not None)
        await client.stop()

    asyncio.run(scenario())


def test_a_request_that_cannot_be_sent_any_more_says_so(tmp_path: Path) -> None:
    """The engine never connected, so that the message waits in the socket; then the engine's life ends."""

    async def scenario() -> None:
        client = EngineClient(EngineOptions(model=str(tmp_path / "none"), threads=1))
        inbox = client._context.socket(zmq.PUSH)
        inbox.bind(f"ipc://{tmp_path}/in")
        client._inbox = inbox
        sending = asyncio.create_task(client._send(request("a")))
        await asyncio.sleep(0.05)
        assert not sending.done()
        inbox.close(linger=0)
        with pytest.raises(EngineDeadError):
            await sending
        await client.stop()

    asyncio.run(scenario())
