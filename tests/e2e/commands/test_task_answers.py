"""``cdlm train task-answers`` and ``task-adapter`` as a user runs them, on a tiny random base."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.files import read_json
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.natural.answers import append, pending
from cdlm.training.natural.config import AnswersSection
from tests.support.command import cdlm
from tests.support.models.hf_block_checkpoints import build
from tests.support.packages import write_packages

CONFIG = """
seed = 1
model = "{place}/base"
chat_tokens = 64
divergence = 1.0
[mixture]
words = 1.0
[answers]
wordnet = "{place}/packages/wordnet"
manual = "{place}/packages/manual"
fortunes = "{place}/packages/fortunes"
chat = 40
max_tokens = 16
[lora]
r = 2
alpha = 4
[optimization]
steps = 1
warmup_steps = 1
decay_fraction = 0.5
tokens_per_batch = 512
learning_rate = 0.001
log_every = 1
"""


@pytest.mark.slow
def test_a_base_answers_what_is_missing_and_an_adapter_is_trained_on_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    vocabulary = read_json(BUNDLED_STUDENT, "config.json")["transformer"]["vocab_size"]
    build(tmp_path / "base", "llama", std=0.02, vocab_size=vocabulary, eos_token_id=tokenizer.eos_token_id)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED_STUDENT / name, tmp_path / "base" / name)
    section = AnswersSection(**write_packages(tmp_path / "packages"), chat=40)
    (tmp_path / "c.toml").write_text(CONFIG.format(place=tmp_path))
    asked = pending(section, tmp_path, 1)
    functions = [one for one in asked if one.kind == "functions"]
    for one in functions[3:]:  # A run that was stopped when three of them were left.
        append(tmp_path, "functions", one.row("nothing", finished=False))
    for one in [one for one in asked if one.kind == "chat"][4:]:
        append(tmp_path, "chat", one.row("An answer.", finished=True))

    places = ("--config", str(tmp_path / "c.toml"), "--output", str(tmp_path))
    command = [sys.executable, "-m", "cdlm", "train", "task-answers", *places]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert "HTTP" not in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "functions.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows[-3:]} == {one.problem.prompt for one in functions[:3]}
    assert len(rows) == len(functions)
    assert not any(row["passed"] for row in rows)
    assert pending(section, tmp_path, 1) == []

    trained = cdlm("train", "task-adapter", *places)  # This process has imported what it needs.
    assert trained.exit_code == 0, trained.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    with_adapter = (tmp_path / "c.toml").read_text().replace("chat = 40", f'chat = 42\nadapter = "{tmp_path}/adapter"')
    (tmp_path / "c.toml").write_text(with_adapter)
    chats = len((tmp_path / "chat.jsonl").read_text().splitlines())
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "chat.jsonl").read_text().splitlines()) == chats + 2
    (tmp_path / "c.toml").write_text(with_adapter.replace("chat = 42", "chat = 43").replace("/adapter", "/none"))
    refused = cdlm("train", "task-answers", *places)
    assert (refused.exit_code, "none" in refused.stderr) == (1, True)

    shutil.rmtree(tmp_path / "packages" / "wordnet")
    refused = cdlm("train", "task-answers", *places)
    assert (refused.exit_code, "wordnet/index.noun: cannot be read" in refused.stderr) == (1, True)
    assert "Traceback" not in refused.stderr
