"""Loads a checkpoint in this process and prints what memory that took: ``-m benchmarks.loading.probe MODEL DTYPE``.

MODEL is a directory or a GGUF file.

The peak is the kernel's own (``VmHWM``), set back right before loading, less what was resident then. It counts pages of
the process's memory and pages of the shard that is mapped. The latter belong to the page cache and can be dropped at
any time; they are counted because a container's memory limit counts them too.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.loading.checkpoint import DTYPES
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.weights import weight_files

_STATUS = Path("/proc/self/status")
_SAMPLE_S = 0.002


def main() -> None:
    """Prints a JSON object: bytes of the model, the largest shard, the peaks above the start, and seconds."""
    directory, dtype = Path(sys.argv[1]), DTYPES[sys.argv[2]]
    load_checkpoint(BUNDLED_STUDENT, dtype=dtype)  # Loads lazy libraries, which are not counted.
    anonymous = _Sampler()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status()
    anonymous.start()
    started = time.monotonic()
    checkpoint = load_checkpoint(directory, dtype=dtype)
    seconds = time.monotonic() - started
    anonymous.stop()
    after = _status()
    sizes = [path.stat().st_size for path in weight_files(directory)]
    figures: dict[str, Any] = {
        "dtype": sys.argv[2],
        "model_bytes": sum(parameter.nbytes for parameter in checkpoint.transformer.parameters()),
        "stored_bytes": sum(sizes),
        "shards": len(sizes),
        "largest_shard_bytes": max(sizes),
        "peak_bytes": after["VmHWM"] - before["VmRSS"],
        "peak_anonymous_bytes": anonymous.peak - before["RssAnon"],
        "after_bytes": after["VmRSS"] - before["VmRSS"],
        "seconds": round(seconds, 2),
    }
    figures["beyond_model_over_largest_shard"] = round(
        (figures["peak_bytes"] - figures["model_bytes"]) / figures["largest_shard_bytes"], 3
    )
    print(json.dumps(figures))  # noqa: T201 - the parent reads it


class _Sampler(threading.Thread):
    """Samples anonymous memory and keeps the peak, which the kernel does not record."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.peak = max(self.peak, _status()["RssAnon"])

    def stop(self) -> None:
        """Takes a last sample and ends."""
        self._over.set()
        self.join()
        self.peak = max(self.peak, _status()["RssAnon"])


def _status() -> dict[str, int]:
    """The process's memory figures in bytes."""
    lines = (line.split() for line in _STATUS.read_text().splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


if __name__ == "__main__":
    main()
