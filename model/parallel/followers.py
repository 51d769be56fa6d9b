"""The leader's side: what it tells the other ranks, and how it learns that one is lost."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from subprocess import Popen, TimeoutExpired

import msgspec

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory, PagedAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.config import AttentionBackend
from cdlm.model.parallel.messages import Attend, Clear, Command, CopyPage, OpenPool

_LEAVE_S = 2.0


class LostRank(RuntimeError):
    """The ranks no longer run in step: one of them has died or failed. Nothing more can be computed."""


class Followers:
    """Connections to the other ranks, in their order.

    Args:
        connections: one a rank from 1 on; they close when the leader is gone, whichever way it went.
        processes: likewise.
        free_memory: bytes free on each rank's device when its weights were there.
    """

    def __init__(
        self, connections: Sequence[Connection], processes: Sequence[Popen[bytes]], free_memory: Sequence[int]
    ) -> None:
        self.free_memory = free_memory
        self._connections, self.processes = connections, processes
        self._encoder = msgspec.msgpack.Encoder()
        self._numbers: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        self._gone: list[int] = []
        self._next = 0

    def send(self, command: Command) -> None:
        """Tells every follower; raises ``LostRank`` where one is gone."""
        payload = self._encoder.encode(command)
        try:
            for connection in self._connections:
                connection.send_bytes(payload)
        except OSError as error:
            raise LostRank(f"a rank is gone: {error}") from error

    def check(self) -> None:
        """Raises ``LostRank`` if a follower has ended; they say nothing once they have loaded."""
        for rank, connection in enumerate(self._connections, start=1):
            if connection.poll():
                raise LostRank(f"rank {rank} is gone")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around whatever all ranks do in step: an error in it leaves the others waiting, so it is a lost rank."""
        try:
            yield
        except LostRank:
            raise
        except Exception as error:
            raise LostRank(f"the ranks fell out of step: {error}") from error

    def number(self, attention: object) -> int:
        """What the followers know a layout as."""
        return self._numbers[attention]

    def open_pool(self, num_pages: int, page_size: int, attention_backend: AttentionBackend) -> None:
        """Makes the followers' pools."""
        self.send(OpenPool(num_pages=num_pages, page_size=page_size, attention_backend=attention_backend))

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page of the followers' pools."""
        self.send(CopyPage(source=source, target=target))

    def clear(self, pages: list[int], start: int) -> None:
        """Zeroes the end of a page table in the followers' pools."""
        self.send(Clear(pages=pages, start=start))

    def attend_with(self, factory: AttentionFactory) -> AttentionFactory:
        """A factory whose layouts the followers make too, and keep for as long as the leader does."""

        def attend(cache: PagedCache, segments: list[Segment]) -> PagedAttention:
            attention = factory(cache, segments)
            number, self._next = self._next, self._next + 1
            gone, self._gone = self._gone, []
            described = [(each.start, each.length, each.pages, each.causal, each.ahead) for each in segments]
            self.send(Attend(number=number, segments=described, gone=gone))
            self._numbers[attention] = number
            weakref.finalize(attention, self._forget, number)
            return attention

        return attend

    def close(self) -> None:
        """Ends the followers: those that wait for the leader in the middle of a forward do not hear that it is gone."""
        for connection in self._connections:
            connection.close()
        for process in self.processes:
            try:
                process.wait(_LEAVE_S)
            except TimeoutExpired:
                process.kill()
                process.wait()

    def _forget(self, number: int) -> None:
        self._gone.append(number)
