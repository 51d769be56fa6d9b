"""The proof on a GPU, in its small form: every part runs, and asks for nothing that a bare machine lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# What neither PyTorch for CUDA nor ``make gpu-site`` brings.
BARE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fastapi", "starlette", "uvicorn", "zmq", "pydantic_settings", "flash_attn", "peft"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE, "--device", "cpu", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.whole
def test_every_part_runs_and_holds(tmp_path: Path) -> None:
    kept = tmp_path / "gpu.json"
    done = run("--small", "--json", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: nothing; not reached: nothing" in done.stdout
    found = json.loads(kept.read_text())
    assert {row["kernel"] for row in found["kernels"]["rows"]} >= {"norm", "rotation", "row statistics", "draws"}
    assert {row["agreement"] for row in found["decoding"]["rows"]} == {1.0}
    assert {row["step"] for row in found["speed"]["rows"]} == {"denoise", "commit and denoise", "autoregressive"}
    assert [(row["model"], row["rows"]) for row in found["mixture"]["rows"]] == [("tiny", 1), ("tiny", 2)]
    assert found["profile"]["figures"]["launches"] > 0
    assert found["memory"]["figures"]["weights_gib"] > 0


def test_what_was_measured_is_kept_and_what_failed_is_measured_again(tmp_path: Path) -> None:
    kept = tmp_path / "build" / "gpu.json"
    part = ["--small", "--parts", "mixture", "--json", str(kept)]
    done = run(*part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## mixture" in done.stdout
    assert "## mixture" not in run(*part).stdout
    found = json.loads(kept.read_text())
    assert len(found["mixture"]["rows"]) == 2
    found["mixture"]["failed"] = ["something"]
    kept.write_text(json.dumps(found))
    assert "## mixture" in run(*part).stdout


def test_a_run_that_cannot_be_says_what_to_do(tmp_path: Path) -> None:
    done = run("--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--device cpu needs --small")
