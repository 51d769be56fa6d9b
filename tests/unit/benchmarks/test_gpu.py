"""The proof on a GPU, in its small form: every part runs, and asks for nothing that a bare machine lacks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# What neither PyTorch for CUDA nor ``make gpu-site`` brings.
BARE = """
import json, runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fastapi", "starlette", "uvicorn", "zmq", "pydantic_settings", "flash_attn", "peft"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
for flags in json.loads(sys.argv[1]):
    sys.argv[1:] = ["--device", "cpu", *flags]
    try:
        runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("status", end.code, flush=True)
"""


def run(*runs: list[str]) -> tuple[list[tuple[str, int]], str]:
    """What runs with these flags print, one after another in a bare process, and their statuses; then its stderr."""
    command = [sys.executable, "-c", BARE, json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    *pieces, rest = re.split(r"^status (\d+)\n", done.stdout, flags=re.MULTILINE)
    assert rest == ""
    return list(zip(pieces[::2], map(int, pieces[1::2]), strict=True)), done.stderr


@pytest.mark.slow
@pytest.mark.whole
def test_every_part_runs_and_holds(tmp_path: Path) -> None:
    kept = tmp_path / "gpu.json"
    [(told, status)], errors = run(["--small", "--json", str(kept)])
    assert status == 0, told + errors
    assert "failed: nothing; not reached: nothing" in told
    found = json.loads(kept.read_text())
    assert {row["kernel"] for row in found["kernels"]["rows"]} >= {"norm", "rotation", "row statistics", "draws"}
    assert {row["agreement"] for row in found["decoding"]["rows"]} == {1.0}
    assert {row["step"] for row in found["speed"]["rows"]} == {"denoise", "commit and denoise", "autoregressive"}
    assert [(row["model"], row["rows"]) for row in found["mixture"]["rows"]] == [("tiny", 1), ("tiny", 2)]
    assert found["profile"]["figures"]["launches"] > 0
    assert found["memory"]["figures"]["weights_gib"] > 0


def test_what_was_measured_is_kept_and_what_failed_is_measured_again(tmp_path: Path) -> None:
    """After a run that cannot be, which says what to do."""
    kept = tmp_path / "build" / "gpu.json"
    part = ["--small", "--parts", "mixture", "--json", str(kept)]
    [refused, measured, again], errors = run(["--json", str(kept)], part, part)
    assert refused == ("", 2)
    assert any(line.endswith("--device cpu needs --small") for line in errors.splitlines())
    assert measured[1] == 0, measured[0] + errors
    assert "## mixture" in measured[0]
    assert "## mixture" not in again[0]
    found = json.loads(kept.read_text())
    assert len(found["mixture"]["rows"]) == 2
    found["mixture"]["failed"] = ["something"]
    kept.write_text(json.dumps(found))
    [(told, _)], _ = run(part)
    assert "## mixture" in told
