"""What a process that serves on a CPU sets for itself."""

import platform
import subprocess
import sys

import pytest

_COUNT_PAGE_FAULTS = """
import resource, sys
import torch
from cdlm.model.device import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
x = torch.ones(1000, 12000)
for index in range(40):
    if index == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = x + 1
    z = y * 2
    del y, z
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_large_blocks_are_used_again_and_not_taken_from_the_system_anew() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", _COUNT_PAGE_FAULTS, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)

    assert faults("keep") < faults("plain") / 10
