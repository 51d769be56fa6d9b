"""The events of a streamed answer, on every route."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Protocol

from cdlm.server.errors import ApiError
from cdlm.server.openai.answers.generation import Job
from cdlm.server.text.update import Update


class Writer(Protocol):
    """Encodes an answer's updates as the events of a route."""

    def write(self, update: Update) -> Iterator[bytes]:
        """Encodes the events of an update; the first update also opens the stream."""

    def end(self) -> Iterator[bytes]:
        """Encodes the events after the last update."""

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """Encodes the events that end a started stream with an error, instead of ``end``."""


async def answer_events(job: Job, writer: Writer) -> AsyncGenerator[bytes, None]:
    """Yields the events of ``job``, encoded by ``writer``.

    Raises ``ApiError`` for errors before the first block, which then have their own HTTP status.
    """
    opened = False
    try:
        async with aclosing(job.updates()) as updates:
            async for update in updates:
                for written in writer.write(update):
                    opened = True
                    yield written
    except ApiError as error:
        if not opened:
            raise
        for written in writer.fail(error):
            yield written
        return
    for written in writer.end():
        yield written
