"""What a process that serves on a CPU sets for itself."""

import platform
import subprocess
import sys

import pytest

_COUNT_PAGE_FAULTS = """
import resource
import torch
from cdlm.model.device import keep_freed_memory

def faults():
    x = torch.ones(1000, 12000)
    for index in range(40):
        if index == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        y = x + 1
        z = y * 2
        del y, z
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
keep_freed_memory()
print(plain, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_large_blocks_are_used_again_and_not_taken_from_the_system_anew() -> None:
    command = [sys.executable, "-c", _COUNT_PAGE_FAULTS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    plain, kept = map(int, done.stdout.split())
    assert kept < plain / 10
