"""The leader's connections to the follower ranks, and the detection of lost ranks."""

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
from cdlm.model.uploads import Place

_LEAVE_S = 2.0


class LostRank(RuntimeError):
    """A rank has died or failed, and the ranks are out of step. The engine cannot continue."""


class Followers:
    """Connections to the follower ranks, in rank order.

    Args:
        connections: one per rank from 1 on; they close when the leader exits or crashes.
        processes: one per rank from 1 on.
        free_memory: bytes free on each rank's device after its weights were loaded.
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
        """Sends a command to every follower; raises ``LostRank`` if one is gone."""
        payload = self._encoder.encode(command)
        try:
            for connection in self._connections:
                connection.send_bytes(payload)
        except OSError as error:
            raise LostRank(f"a rank is gone: {error}") from error

    def check(self) -> None:
        """Raises ``LostRank`` if a follower process has exited."""
        for rank, connection in enumerate(self._connections, start=1):
            if connection.poll():
                raise LostRank(f"rank {rank} is gone")

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context for work that all ranks do in step; turns errors into ``LostRank``, since the other ranks wait."""
        try:
            yield
        except LostRank:
            raise
        except Exception as error:
            raise LostRank(f"the ranks fell out of step: {error}") from error

    def number(self, attention: object) -> int:
        """The number by which followers know the layout ``attention``."""
        return self._numbers[attention]

    def open_pool(self, num_pages: int, page_size: int, attention_backend: AttentionBackend) -> None:
        """Creates the followers' page pools."""
        self.send(OpenPool(num_pages=num_pages, page_size=page_size, attention_backend=attention_backend))

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page in the followers' pools."""
        self.send(CopyPage(source=source, target=target))

    def clear(self, pages: list[int], start: int) -> None:
        """Zeroes keys and values from position ``start`` of the page table ``pages``, in the followers' pools."""
        self.send(Clear(pages=pages, start=start))

    def attend_with(self, factory: AttentionFactory) -> AttentionFactory:
        """Wraps ``factory``: followers build each layout too, and keep it while the leader does."""

        def attend(cache: PagedCache, segments: list[Segment], place: Place | None = None) -> PagedAttention:
            attention = factory(cache, segments, place)
            number, self._next = self._next, self._next + 1
            gone, self._gone = self._gone, []
            self.send(Attend(number=number, segments=segments, gone=gone))
            self._numbers[attention] = number
            weakref.finalize(attention, self._forget, number)
            return attention

        return attend

    def close(self) -> None:
        """Ends the followers; kills those that do not exit in time: inside a collective they do not see the close."""
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
