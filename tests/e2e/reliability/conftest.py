"""What the cases came to: a table at the end of the run, and a file where ``RELIABILITY_JSON`` names one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.reliability.report import Report

_REPORT = Report()


@pytest.fixture
def report() -> Report:
    """Rows that are added here are printed when all cases have run."""
    return _REPORT


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its rows to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["reliability"] = _REPORT.rows


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes the rows of a worker that has ended."""
    _REPORT.rows += getattr(node, "workeroutput", {}).get("reliability", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _REPORT.rows:
        return
    terminalreporter.section("reliability")
    for line in _REPORT.lines():
        terminalreporter.write_line(line)
    target = os.environ.get("RELIABILITY_JSON")
    if target:
        Path(target).write_text(json.dumps({"rows": _REPORT.rows}, indent=2) + "\n")
