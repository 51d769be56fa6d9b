import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cdlm.training.sandbox import passes

DOUBLE = "def double(n):\n    return n * 2"
CHECKS = "assert double(2) == 4\nassert double(0) == 0"


def test_correct_code() -> None:
    assert passes(DOUBLE, CHECKS, timeout_s=10)


@pytest.mark.parametrize(
    "code",
    [
        "def double(n):\n    return None",
        "def double(n):\n    return n *",
        "def other(n):\n    return n * 2",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import sys\ndef double(n):\n    sys.exit(0)",
        '"""',
        "",
    ],
)
def test_wrong_code(code: str) -> None:
    assert not passes(code, CHECKS, timeout_s=10)


def test_endless_loop_ends_in_time() -> None:
    start = time.monotonic()
    assert not passes("while True:\n    pass", CHECKS, timeout_s=0.5)
    assert time.monotonic() - start < 5


def test_sleep_ends_in_time() -> None:
    start = time.monotonic()
    assert not passes("import time\ntime.sleep(60)", CHECKS, timeout_s=0.5)
    assert time.monotonic() - start < 5


def test_memory_is_limited() -> None:
    assert not passes(f"x = bytearray(1 << 30)\n{DOUBLE}", CHECKS, timeout_s=10)
    assert passes(f"x = bytearray(1 << 20)\n{DOUBLE}", CHECKS, timeout_s=10)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fork()",
        "import os\nos.system('true')",
        "import subprocess\nsubprocess.run(['true'])",
        "with open('file', 'w') as file:\n    file.write('x')",
        "files = [open('/dev/null') for i in range(100)]",
        "import os\nassert os.environ.get('HOME')",
        "assert input()",
    ],
)
def test_outside_is_out_of_reach(code: str) -> None:
    assert not passes(f"{code}\n{DOUBLE}", CHECKS, timeout_s=10)


def test_output_is_discarded() -> None:
    loud = "for i in range(64):\n    print('x' * (1 << 16))\n"
    assert passes(loud + DOUBLE, CHECKS, timeout_s=10)


def test_directory_is_empty() -> None:
    assert passes(f"import os\nassert os.listdir() == []\n{DOUBLE}", CHECKS, timeout_s=10)


def test_calls_from_threads() -> None:
    codes = [DOUBLE, "def double(n):\n    return n"] * 3
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda code: passes(code, CHECKS, timeout_s=10), codes))
    assert results == [True, False] * 3


def test_bad_limits() -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        passes(DOUBLE, CHECKS, timeout_s=0)
    with pytest.raises(ValueError, match="memory_bytes"):
        passes(DOUBLE, CHECKS, memory_bytes=0)
