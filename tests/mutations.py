"""Faults put into the code one at a time: the named tests must find each (``make mutations``).

Each is made in a work tree of its own, which is removed afterwards; what is not committed is not part of it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.places import ROOT

# Where, what stands there, what is put there instead, and the tests that find it.
MUTATIONS = [
    (
        "model/decoding/finalize.py",
        "(ranked >= 1.0 - limits / (place + 2))",
        "(ranked >= 1.0 - limits / (place + 1))",
        "unit/model/decoding",
    ),
    ("model/decoding/canvas.py", "self.max_steps[row] - self.steps[row]", "self.max_steps[row]", "oracle/decoding"),
    ("model/runner.py", "self.canvas.opened or launched", "launched", "oracle/device/test_ahead.py"),
    (
        "model/decoding/processors/edits.py",
        "seen = present | torch.stack",
        "seen = present & torch.stack",
        "unit/model",
    ),
    (
        "model/decoding/processors/words.py",
        "if 0 <= place - offset <=",
        "if 0 < place - offset <=",
        "oracle/decoding/test_bans.py",
    ),
    (
        "model/decoding/processors/guidance.py",
        "max(0, guidance.prompt_length - work.block_start)",
        "0",
        "oracle/decoding/test_guidance.py",
    ),
    (
        "model/decoding/processors/constrained.py",
        "state.rewind(first - canvas.first[work.row])",
        "pass",
        "oracle/faults/test_row_faults.py",
    ),
    ("model/decoding/grammar/matcher.py", "self._in_sight(room + 1)", "self._in_sight(room + 2)", "unit/model/grammar"),
    ("model/decoding/chained.py", "[group.offset for group in groups]", "[0 for _ in groups]", "oracle/drafts"),
    ("model/attention/single_queries.py", "(key < below)", "(key <= below)", "unit/model/attention"),
    ("scheduler/steps/draft_times.py", "tokens(size) / slowest\n", "tokens(size)\n", "unit/scheduler"),
    ("scheduler/steps/draft_rows.py", "reached * (1 - share)", "reached", "unit/scheduler"),
    ("model/attention/sdpa.py", "each.causal or each.branches else", "each.branches else", "unit/model/attention"),
    ("model/loading/adapter.py", "update.scale * (up @ down)", "(up @ down)", "unit/model/loading"),
    ("model/network/mixture.py", "scores.gather(-1, chosen)", "preferred.gather(-1, chosen)", "unit/model/mixtures"),
    ("model/network/mixture.py", ".topk(2, dim=-1).values", ".topk(1, dim=-1).values", "unit/model/mixtures"),
    ("model/network/mixture.py", "out[order.argsort()]", "out[order]", "unit/model/mixtures"),
    ("model/kernels/grouped.py", "(through <= tile)", "(through < tile)", "unit/model/kernels"),
    ("model/loading/stock.py", "            first += rows\n", "", "unit/model/mixtures"),
    (
        "scheduler/kv/pool.py",
        "if page not in self._holders:\n                del",
        "if True:\n                del",
        "unit/scheduler",
    ),
    ("scheduler/kv/keys.py", "sha256(kind + salt)", "sha256(kind)", "oracle/caches"),
    ("scheduler/kv/keys.py", "_digest(keys[-1] if", "_digest(keys[0] if", "unit/scheduler"),
    (
        "scheduler/process/client.py",
        "if not finished and self.ready",
        "if finished and self.ready",
        "e2e/engine/test_client.py",
    ),
    ("server/text/stops.py", "text = self._held + text", "text = text + self._held", "unit/server/text"),
    ("server/http/sse.py", '.encode() + b"\\n\\n"', '.encode() + b"\\n"', "unit/server/routes"),
    ("server/access/quotas.py", "self._requests.take(1)", "self._requests.take(0)", "unit/server/access"),
    (
        "server/openai/answers/generation.py",
        'client = record.key.name if record.key else ""',
        'client = ""',
        "e2e/reliability/test_overload.py",
    ),
    (
        "model/loading/checkpoint.py",
        "_allocate(transformer, device)",
        "transformer.to_empty(device=device)",
        "e2e/start/test_imports.py",
    ),
    (
        "training/natural/problems/requests.py",
        "return {expression}",
        "return ({expression},)",
        "e2e/training/test_requests.py",
    ),
    ("server/access/quotas.py", "self.in_flight -= sequences", "self.in_flight -= 1", "unit/server/access"),
]


def found(tree: Path, tests: str) -> bool:
    """Whether a test fails, rather than that none can be run."""
    variables = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{tests}"]
    return subprocess.run(command, cwd=tree, env=variables, stdout=subprocess.DEVNULL).returncode == 1


def main() -> None:
    """Prints a line per fault; the status is the number of those that nothing found."""
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree)], cwd=ROOT, check=True)
        try:
            for name, old, new, tests in MUTATIONS:
                path, begun = tree / name, time.monotonic()
                whole = path.read_text()
                assert whole.count(old) == 1, f"{name} has {old!r} {whole.count(old)} times"
                path.write_text(whole.replace(old, new))
                caught = found(tree, tests)
                path.write_text(whole)
                missed += not caught
                seconds = time.monotonic() - begun
                sys.stdout.write(
                    f"{'found' if caught else 'MISSED'} in {seconds:.0f} s by tests/{tests}: {name}: {new!r}\n"
                )
                sys.stdout.flush()
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
