"""A tiny next-token model that speaks cdlm-nano's tokens, and answers as if it had given them."""

import shutil
from pathlib import Path

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.files import read_json
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.natural.answers import append
from cdlm.training.natural.problems.requests import TRAINING_WORDINGS, all_problems, training_requests
from tests.support.models.hf_block_checkpoints import build

REQUESTS = [problem.prompt for problem in all_problems(training_requests()[:1], TRAINING_WORDINGS, 0)]  # For ``add``.
GOOD_CODE = "```python\ndef add(a, b):\n    return a + b"


def write_base(directory: Path, std: float = 0.1) -> None:
    """Writes a Llama checkpoint with the bundled student's tokenizer."""
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    vocabulary = read_json(BUNDLED_STUDENT, "config.json")["transformer"]["vocab_size"]
    build(directory, "llama", std=std, vocab_size=vocabulary, eos_token_id=tokenizer.eos_token_id)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED_STUDENT / name, directory / name)


def write_answers(directory: Path) -> None:
    """Writes what ``cdlm train task-answers`` leaves: 30 chat answers, and the functions of ``REQUESTS[:2]``.

    The first one passed, the second one did not.
    """
    directory.mkdir()
    for number in range(30):
        row = {"prompt": f"What is {number}?", "draw": 0, "completion": f"It is the number {number}.", "finished": True}
        append(directory, "chat", row)
    for prompt, passed in zip(REQUESTS, (True, False), strict=False):
        row = {"prompt": prompt, "draw": 0, "completion": GOOD_CODE, "finished": True, "passed": passed}
        append(directory, "functions", row)
