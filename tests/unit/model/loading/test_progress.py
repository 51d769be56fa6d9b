"""Reading weights shows a bar on a terminal and log lines elsewhere."""

import logging
import os
import pty
import sys
import termios
from pathlib import Path

import pytest

from cdlm.model import progress
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.hf_checkpoints import build_dream


def test_a_terminal_gets_a_bar_and_no_lines_but_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = build_dream(tmp_path, shards=3)
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    person, process = pty.openpty()
    termios.tcsetwinsize(process, (24, 100))
    os.set_blocking(person, False)
    with os.fdopen(process, "w") as terminal, caplog.at_level(logging.INFO, logger="cdlm.model"):
        monkeypatch.setattr(sys, "stderr", terminal)
        load_checkpoint(directory)
        shown = os.read(person, 4096).decode()
    os.close(person)
    assert "weights:" in shown
    assert "B/s" in shown
    assert len(caplog.messages) == 1


def test_elsewhere_there_are_lines_at_intervals_and_no_bar(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory = build_dream(tmp_path, shards=3)
    with caplog.at_level(logging.INFO, logger="cdlm.model"):
        load_checkpoint(directory)
        assert [message.split(" in ")[0] for message in caplog.messages] == ["weights: 0.00 GB from 3 files"]
        caplog.clear()
        monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
        load_checkpoint(directory)
    assert "model-00002-of-00003.safetensors" in "".join(caplog.messages)
    assert "B/s" not in capfd.readouterr().err
