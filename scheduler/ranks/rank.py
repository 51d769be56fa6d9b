"""A follower rank's process: joins the process group, loads its share, runs the leader's commands.

    python -m cdlm.scheduler.ranks.rank DESCRIPTOR

DESCRIPTOR is the file descriptor of a connection to the leader, which sends ``RankStart`` and receives ``RankHere``,
then ``RankReady`` or ``RankFailed``.
"""

import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection

import msgspec
import setproctitle
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from cdlm.model.attention.backends import resolve_attention
from cdlm.model.decoding.logits.reader import find_reader
from cdlm.model.device import free_memory, keep_freed_memory
from cdlm.model.forwards.drafting import attach_drafter
from cdlm.model.parallel.follower import Follower
from cdlm.model.parallel.transformer import RankTransformer
from cdlm.scheduler import child
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.loading import load_weights, rank_device
from cdlm.scheduler.messages import decoder, encode
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.threads import Threads

PROCESS_NAME = "cdlm-rank"
HOST = "127.0.0.1"  # All ranks are on one machine.
MEETING_TIMEOUT = timedelta(minutes=10)


class RankStart(msgspec.Struct, frozen=True):
    """Which rank a process is, and at which port of this machine the ranks meet.

    ``leader`` is the leader's process if the rank is to die with the thread that started it, which then is the main
    thread; a rank that waits in a collective does not see that the leader is gone.
    """

    rank: int
    port: int
    options: EngineOptions
    leader: int | None = None


class RankHere(msgspec.Struct, frozen=True, tag="here"):
    """The rank is about to join the process group: the leader can join too without waiting forever."""


class RankReady(msgspec.Struct, frozen=True, tag="ready"):
    """The rank has loaded its weights, and this many bytes of its device are free."""

    free_memory: int


class RankFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The rank cannot start; ``message`` says why."""

    message: str


RankMessage = RankHere | RankReady | RankFailed


def join(options: EngineOptions, rank: int, meeting: TCPStore) -> None:
    """Makes this process a rank of the group: gloo on CPUs, NCCL on GPUs."""
    device = rank_device(options, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=meeting,
        rank=rank,
        world_size=options.tensor_parallel_size,
        timeout=MEETING_TIMEOUT,
    )


def main() -> int:
    """Entry point of a rank other than the leader."""
    setproctitle.setproctitle(PROCESS_NAME)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # A follower ends with its leader.
    connection = Connection(int(sys.argv[1]))
    start = decoder(RankStart).decode(connection.recv_bytes())
    if start.leader is not None:
        child.die_with(start.leader)
    Threads(start.options)
    with suppress(BrokenPipeError):
        connection.send_bytes(encode(RankHere()))
        try:
            join(start.options, start.rank, TCPStore(HOST, start.port, is_master=False))
            checkpoint = load_weights(start.options, start.rank)
        except EngineStartError as error:
            connection.send_bytes(encode(RankFailed(message=str(error))))
            return 1
        transformer = checkpoint.transformer
        assert isinstance(transformer, RankTransformer)
        device = transformer.lm_head.weight.device
        free = free_memory(device)
        if device.type == "cpu":
            keep_freed_memory()
        connection.send_bytes(encode(RankReady(free_memory=free)))
        reader = find_reader(resolve_attention(start.options.attention_backend, device))
        follower = Follower(transformer, reader.peaks)
        if checkpoint.drafter is not None:
            attach_drafter(transformer, checkpoint.drafter)
        follower.serve(connection)
    return 0
