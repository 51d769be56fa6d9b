"""Runs another server's suite against this one: ``python -m tests.external.peers.run vllm [pytest arguments]``."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cdlm.model.assets import BUNDLED_STUDENT
from tests.external.clients.environments import CACHE, python_of
from tests.external.clients.peer_sources import source_of
from tests.external.peers.suites import SUITES, Suite

STANDINS = Path(__file__).parent / "standins"
_LIMIT_S = 5400


def outcomes(suite: Suite, *arguments: str) -> dict[str, tuple[str, str]]:
    """The outcome of every test by its id, and where it failed the last line that says why."""
    report = CACHE / f"{suite.name}.json"
    report.unlink(missing_ok=True)
    python = python_of("peers")
    serve = f"{sys.executable} -P -m cdlm serve --log-level warning"
    variables = {
        "PEER_SERVER": serve,
        "PEER_TOKENIZER": str(BUNDLED_STUDENT),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(STANDINS),
    }
    command = [
        str(python), "-m", "pytest", "-p", suite.plugin, "-p", "no:cacheprovider", "-q", "--tb=line",
        "--json-report", f"--json-report-file={report}", "--json-report-omit=collectors,log,streams,keywords",
        "-m", "not slow", "--timeout=120", "-o", "asyncio_default_fixture_loop_scope=function",
        "--continue-on-collection-errors", f"--confcutdir={suite.confcutdir}",
        *suite.files, *arguments,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=source_of(suite.package) / suite.root,
        env=os.environ | variables,
        stdout=sys.stderr,
        timeout=_LIMIT_S,
    )
    assert report.exists(), f"the suite did not run: exit code {done.returncode}"
    found: dict[str, tuple[str, str]] = {}
    for test in json.loads(report.read_text())["tests"]:
        reason = ""
        for phase in ("setup", "call"):
            crash = test.get(phase, {}).get("crash")
            if crash and not reason:
                reason = crash["message"].splitlines()[0][:200]
        found[test["nodeid"]] = test["outcome"], reason
    return found


if __name__ == "__main__":
    for test, (outcome, reason) in outcomes(SUITES[sys.argv[1]], *sys.argv[2:]).items():
        sys.stdout.write(f"{outcome}\t{test}\t{reason}\n")
