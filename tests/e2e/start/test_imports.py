"""How a process of the project imports."""

import subprocess
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
