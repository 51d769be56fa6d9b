"""Shows the progress of reading weights."""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from cdlm.model.progress import Progress

logger = logging.getLogger(__name__)

StoredTensor = tuple[Path, str, Tensor]


def show_progress(tensors: Iterable[StoredTensor], paths: list[Path], total: int) -> Iterator[StoredTensor]:
    """Yields ``tensors``, ``total`` bytes of them from the files ``paths``; one counts as read when the next is asked
    for.
    """
    started = time.monotonic()
    with Progress("weights", total) as progress:
        for path, name, tensor in tensors:
            size = tensor.nbytes
            yield path, name, tensor
            progress.add(size, f"in {path.name}")
    logger.info("weights: %.2f GB from %d files in %.1f s", progress.done / 1e9, len(paths), time.monotonic() - started)
