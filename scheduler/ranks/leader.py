"""The leader rank: starts and ends the follower ranks."""

import os
import subprocess
import threading
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.parallel.followers import Followers
from cdlm.model.parallel.transformer import RankTransformer
from cdlm.scheduler import child
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.loading import load_weights, rank_device
from cdlm.scheduler.messages import decoder, encode
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.ranks.rank import HOST, RankFailed, RankHere, RankMessage, RankReady, RankStart, join

_Message = TypeVar("_Message", RankHere, RankReady)


class Ranks:
    """Starts the follower ranks and joins them in a process group; they load in the background.

    Raises:
        EngineStartError: there are fewer devices than ranks, a rank cannot start, or this process is already in a
            process group.
    """

    def __init__(self, options: EngineOptions) -> None:
        if dist.is_initialized():
            raise EngineStartError("tensor_parallel_size: this process is in a process group already")
        rank_device(options, 0)
        size = options.tensor_parallel_size
        meeting = TCPStore(HOST, 0, size, is_master=True, wait_for_workers=False)
        lasting = threading.current_thread() is threading.main_thread()
        leader = os.getpid() if lasting else None
        started = [start(RankStart(rank, meeting.port, options, leader)) for rank in range(1, size)]
        self._connections, self._processes = zip(*started, strict=True)
        try:
            self._hear(RankHere)
            join(options, 0, meeting)
        except BaseException:
            self.close()
            raise

    def wait(self) -> Followers:
        """Waits until all ranks have loaded; returns the connections to them.

        Raises:
            EngineStartError: a rank cannot load.
        """
        free = [answer.free_memory for answer in self._hear(RankReady)]
        return Followers(self._connections, self._processes, free)

    def close(self) -> None:
        """Ends the followers, in any state, and leaves the process group."""
        for process in self._processes:
            process.kill()
        Followers(self._connections, self._processes, []).close()
        leave()

    def _hear(self, kind: type[_Message]) -> list[_Message]:
        """Receives the next message of each rank."""
        heard = []
        for rank, connection in enumerate(self._connections, start=1):
            try:
                message = decoder(RankMessage).decode(connection.recv_bytes())
            except (EOFError, ConnectionResetError) as error:
                raise EngineStartError(f"rank {rank} ended while it was starting") from error
            if isinstance(message, RankFailed):
                raise EngineStartError(f"rank {rank}: {message.message}")
            assert isinstance(message, kind)
            heard.append(message)
        return heard


def start(message: RankStart) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Starts a follower process and sends it ``message``; returns its connection and process."""
    mine, its = Pipe()
    with its:
        command = child.command("cdlm.scheduler.ranks.rank", str(its.fileno()))
        process = subprocess.Popen(command, env=child.environment(), pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL)
    mine.send_bytes(encode(message))
    return mine, process


def leave() -> None:
    """Leaves the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def load(options: EngineOptions) -> Checkpoint:
    """Loads the checkpoint of ``options``; with ``tensor_parallel_size`` above 1, starts follower ranks for it.

    Raises:
        EngineStartError: it cannot be loaded; the message says why.
    """
    if options.tensor_parallel_size == 1:
        return load_weights(options)
    ranks = Ranks(options)
    try:
        checkpoint = load_weights(options)
        assert isinstance(checkpoint.transformer, RankTransformer)
        checkpoint.transformer.followers = ranks.wait()
        return replace(checkpoint, followers=checkpoint.transformer.followers)
    except BaseException:
        ranks.close()
        raise
