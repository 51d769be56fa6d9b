"""Who may reach the engine's sockets."""

import asyncio
import stat
from pathlib import Path

import pytest
import zmq.asyncio

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.client import EngineClient


def test_the_engine_s_sockets_are_in_a_directory_of_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[str] = []
    bind = zmq.asyncio.Socket.bind

    def watched(socket: zmq.asyncio.Socket, address: str) -> object:
        bound.append(address)
        return bind(socket, address)

    monkeypatch.setattr(zmq.asyncio.Socket, "bind", watched)

    async def check() -> None:
        client = EngineClient(EngineOptions(model=str(BUNDLED_STUDENT), threads=1))
        await client.start()
        try:
            await client.wait_ready()
            assert len(bound) == 2
            for address in bound:
                scheme, _, path = address.partition("://")
                assert scheme == "ipc"
                assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        finally:
            await client.stop()

    asyncio.run(check())
