"""Prompts and completions for a backbone, from JSON Lines to ids."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cdlm.training.errors import TrainingError


def read_examples(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, chat_template: bool, end_id: int
) -> list[tuple[list[int], list[int]]]:
    """Reads lines {"prompt": str, "completion": str}; returns (prompt ids, completion ids plus end token) per line.

    Args:
        chat_template: whether to format each prompt as a user turn, followed by the start of the assistant's turn.
        end_id: the id appended to each completion.

    Raises:
        TrainingError: the file cannot be read, a line is not such an object, or the tokenizer lacks a template.
    """
    if chat_template and not tokenizer.chat_template:
        raise TrainingError("the tokenizer has no chat template: set chat_template = false")
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
    examples = []
    for number, line in enumerate(lines, start=1):
        prompt, completion = _texts(f"{path}:{number}", line)
        if chat_template:
            turn = [{"role": "user", "content": prompt}]
            prompt = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        ids: list[list[int]] = tokenizer([prompt, completion], add_special_tokens=False)["input_ids"]
        if not ids[0]:
            raise TrainingError(f"{path}:{number}: the prompt has no tokens")
        examples.append((ids[0], [*ids[1], end_id]))
    return examples


def _texts(place: str, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{place}: not JSON: {error}") from error
    texts = [record.get(key) if isinstance(record, dict) else None for key in ("prompt", "completion")]
    if not isinstance(texts[0], str) or not isinstance(texts[1], str):
        raise TrainingError(f'{place}: not an object with the texts "prompt" and "completion"')
    return texts[0], texts[1]
