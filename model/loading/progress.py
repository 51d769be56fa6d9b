"""Shows the progress of reading weights: a bar on a terminal, log lines elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

logger = logging.getLogger(__name__)

# Faster loads show no bar, and log one line.
BAR_AFTER_S = 1.0
LINE_EVERY_S = 5.0

StoredTensor = tuple[Path, str, Tensor]


def show_progress(tensors: Iterable[StoredTensor], paths: list[Path], total: int) -> Iterator[StoredTensor]:
    """Yields ``tensors``, ``total`` bytes of them from the files ``paths``; one counts as read when the next is asked
    for.
    """
    done, started = 0, time.monotonic()
    said = started
    # ``disable=None`` shows the bar on a terminal only.
    with tqdm(
        total=total, desc="weights", unit="B", unit_scale=True, leave=False, disable=None, delay=BAR_AFTER_S
    ) as bar:
        for path, name, tensor in tensors:
            size = tensor.nbytes
            yield path, name, tensor
            done += size
            bar.update(size)
            if bar.disable and time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                logger.info("weights: %.2f of %.2f GB, in %s", done / 1e9, total / 1e9, path.name)
    logger.info("weights: %.2f GB from %d files in %.1f s", done / 1e9, len(paths), time.monotonic() - started)
