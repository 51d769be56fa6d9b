"""lm-eval with tasks of its own, since there is no model hub: generation, likelihoods of choices, perplexity."""

import json
from pathlib import Path
from typing import Any

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from tests.external.clients.conftest import HERE, Run
from tests.external.clients.environments import python_of
from tests.support.server.served import Server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(2400)]

TASKS = HERE / "tasks"


def evaluate(run: Run, output: Path, model: str, url: str, *flags: str, **args: str) -> dict[str, Any]:
    given = {"model": "cdlm-nano", "base_url": url, "num_concurrent": "2", "max_retries": "1"} | args
    joined = ",".join(f"{name}={value}" for name, value in given.items())
    run(
        python_of("lm-eval"), "-m", "lm_eval", "run", "--include_path", ".", "--model", model, "--model_args", joined,
        "--output_path", output, *flags, cwd=TASKS,
    )  # fmt: skip
    (found,) = output.rglob("results_*.json")
    results: dict[str, Any] = json.loads(found.read_text())["results"]
    return results


def test_local_completions(server: Server, run: Run, tmp_path: Path) -> None:
    names = "cdlm_words_generate,cdlm_words_choose,cdlm_words_perplexity"
    results = evaluate(
        run, tmp_path, "local-completions", f"{server.url}/v1/completions", "--tasks", names,
        tokenizer=str(BUNDLED_STUDENT), tokenizer_backend="huggingface",
    )  # fmt: skip
    assert results["cdlm_words_generate"]["exact_match,number"] > 0
    assert results["cdlm_words_choose"]["acc,none"] == 1
    assert 0 < results["cdlm_words_perplexity"]["bits_per_byte,none"] < 20


def test_local_chat_completions(server: Server, run: Run, tmp_path: Path) -> None:
    results = evaluate(
        run, tmp_path, "local-chat-completions", f"{server.url}/v1/chat/completions",
        "--tasks", "cdlm_words_generate", "--apply_chat_template",
    )  # fmt: skip
    assert results["cdlm_words_generate"]["exact_match,number"] > 0
