"""docker-compose.yml as Compose understands it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.places import ROOT


def program(name: str) -> str:
    """A program of the environment that the tests run in."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, f"{name} is not installed; it comes with the extra 'dev'"
    return found


def compose() -> dict[str, Any]:
    """The whole configuration."""
    command = [program("docker-compose"), "--profile", "cpu", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
