"""The events of a streamed answer, on every route."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Protocol

from cdlm.server.errors import ApiError
from cdlm.server.openai.answers.generation import Job
from cdlm.server.text.update import Update


class Writer(Protocol):
    """What a route makes of the pieces of an answer."""

    def write(self, update: Update) -> Iterator[bytes]:
        """The events of a block or a part of one; those of the first one open the stream."""

    def end(self) -> Iterator[bytes]:
        """The events after the last block."""

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """The events that end a stream which has begun, instead of those of ``end``."""


async def answer_events(job: Job, writer: Writer) -> AsyncGenerator[bytes, None]:
    """The events of ``job`` in the words of ``writer``.

    Raises ``ApiError`` for what goes wrong before the first block, so that it keeps its own status.
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
