"""``python -m benchmarks.gpu``: the parts one after the other, each kept as soon as it is done.

A second run with the same file goes on behind the parts that it holds. ``--small`` is for machines without a GPU: every
part, on shapes that an interpreter can bear.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

if "--device" in sys.argv and "cpu" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Before anything imports Triton.
sys.path.append(str(Path(__file__).parents[2] / "build" / "gpu-site"))

import torch

from benchmarks.gpu import decoding, kernels, memory, mixture, profile, speed
from benchmarks.gpu.report import Budget, table
from benchmarks.speed.machine import commit, machine

PARTS = {
    "kernels": kernels.run,
    "decoding": decoding.run,
    "speed": speed.run,
    "mixture": mixture.run,
    "profile": profile.run,
    "memory": memory.run,
}


def main() -> int:
    """Runs what is left to be run; the exit code is 1 where a part failed or a check did not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="where to run; cpu needs --small")
    parser.add_argument("--small", action="store_true", help="shapes that the interpreter of Triton can bear")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"), help="where results are kept")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after so many minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts, in their order")
    flags = parser.parse_args()
    device = torch.device(flags.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no usable NVIDIA GPU; try --device cpu --small")
    if device.type == "cpu" and not flags.small:
        parser.error("--device cpu needs --small")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    results = _earlier(flags.json)
    results["machine"], results["commit"] = machine(device), commit()
    budget = Budget(flags.minutes * 60)
    for name in flags.parts:
        if name in results or budget.over:
            continue
        started = time.monotonic()
        try:
            found = PARTS[name](device, small=flags.small, budget=budget)
        except Exception as error:  # The other parts are worth their time all the same.
            found = {"failed": [f"{type(error).__name__}: {error}"], "traceback": traceback.format_exc()}
        found["seconds"] = round(time.monotonic() - started, 1)
        results[name] = found
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(results, indent=1) + "\n")
        sys.stdout.write(table(name, found) + "\n")
        sys.stdout.flush()
    failed = [name for name in PARTS if results.get(name, {}).get("failed")]
    missing = [name for name in flags.parts if name not in results]
    left = f"failed: {', '.join(failed) or 'nothing'}; not reached: {', '.join(missing) or 'nothing'}"
    sys.stdout.write(f"{left}; results in {flags.json}\n")
    return 1 if failed or missing else 0


def _earlier(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return {name: part for name, part in found.items() if name in PARTS and not part.get("failed")}


if __name__ == "__main__":
    sys.exit(main())
