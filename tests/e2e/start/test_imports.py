"""How a process of the project imports, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from cdlm.scheduler import child

pytestmark = pytest.mark.spawns

OWN = """
import gc

at_import = gc.isenabled()

def main():
    print(at_import, gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def test_a_child_is_not_searched_for_garbage_while_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run(child.command("own"), env=child.environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


AT_EXIT = """
import atexit, gc, sys
from cdlm.cli.main import main
atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] > 10000))
sys.argv = ["cdlm", "--version"]
main()
"""


def test_a_command_is_not_searched_for_garbage_when_it_ends() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"


LOADS = """
import sys
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
engine = OfflineEngine(EngineOptions(model=str(BUNDLED_STUDENT), device="cpu", max_num_seqs=1))
[done] = engine.generate([GenerateRequest(request_id="0", prompt_ids=[5, 6], max_tokens=4)])
print(len(done.token_ids), sorted({"sympy", "torch._dynamo"} & sys.modules.keys()))
import torch
from cdlm.model.loading.checkpoint import describe_checkpoint
from cdlm.model.parallel.transformer import RankTransformer
shape = describe_checkpoint(BUNDLED_STUDENT).shape
with torch.device("meta"):
    ranks = [RankTransformer(shape, rank=rank, size=2) for rank in range(2)]
print(len(ranks[1].embed_tokens.weight), sorted({"sympy", "torch._dynamo"} & sys.modules.keys()))
"""


def test_engine_and_ranks_load_without_the_compiler_of_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    assert done.stdout == "4 []\n0 []\n"
