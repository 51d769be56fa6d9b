"""What the cases came to: a table at the end of the run, and a file where ``RELIABILITY_JSON`` names one."""

import json
import os
from pathlib import Path

import pytest

from tests.reliability.report import Report

_REPORT = Report()


@pytest.fixture
def report() -> Report:
    """Rows that are added here are printed when all cases have run."""
    return _REPORT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _REPORT.rows:
        return
    terminalreporter.section("reliability")
    for line in _REPORT.lines():
        terminalreporter.write_line(line)
    target = os.environ.get("RELIABILITY_JSON")
    if target:
        Path(target).write_text(json.dumps({"rows": _REPORT.rows}, indent=2) + "\n")
