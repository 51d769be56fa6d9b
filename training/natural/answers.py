"""The base model's own answers to chat prompts and, if assertions pass, to requests for functions; JSON Lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdlm.training.data.problem import Problem
from cdlm.training.errors import TrainingError
from cdlm.training.natural.config import AnswersSection
from cdlm.training.natural.problems.measured import solves
from cdlm.training.natural.problems.requests import TRAINING_WORDINGS, all_problems, training_requests
from cdlm.training.natural.prompts import read_prompts

Kind = Literal["functions", "chat"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer to sample: answer number ``draw`` to a prompt."""

    kind: Kind
    problem: Problem
    draw: int

    @property
    def stop(self) -> list[str]:
        """Stop strings: an answer to a request for a function is cut after its first code block."""
        return ["```\n\n"] if self.kind == "functions" else []

    def row(self, text: str, *, finished: bool) -> dict[str, object]:
        """The row to store; ``finished`` says whether the answer ended by itself."""
        if self.kind == "functions" and text.count("```") % 2:
            text = text.rstrip() + "\n```"  # The stop string removed it.
        row: dict[str, object] = {"prompt": self.problem.prompt, "draw": self.draw, "completion": text}
        row["finished"] = finished
        if self.kind == "functions":
            row["passed"] = finished and solves(self.problem, text, timeout_s=4.0)
        return row


def pending(section: AnswersSection, directory: Path, seed: int) -> list[Asked]:
    """The answers that are still missing, functions first.

    Raises:
        TrainingError: a source of prompts is missing, or a file of answers is damaged.
    """
    functions = all_problems(training_requests(), TRAINING_WORDINGS, seed)
    texts = read_prompts(section.wordnet, section.manual, section.fortunes, section.chat, seed)
    wanted = [Asked("functions", problem, draw) for draw in range(section.draws) for problem in functions]
    wanted += [Asked("chat", Problem("chat", text, "", ""), 0) for text in texts]
    done = {kind: _done(answers_file(directory, kind)) for kind in ("functions", "chat")}
    return [asked for asked in wanted if (asked.problem.prompt, asked.draw) not in done[asked.kind]]


def answers_file(directory: Path, kind: str) -> Path:
    """The path of the answers of a kind."""
    return directory / f"{kind}.jsonl"


def append(directory: Path, kind: Kind, row: dict[str, object]) -> None:
    """Appends a row to the file of answers of a kind."""
    with answers_file(directory, kind).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_answers(path: Path) -> list[Problem]:
    """Reads answers; ``check`` is "passed" if assertions passed, else "".

    A chat answer that met ``max_tokens`` is cut behind its last whole sentence, and left out if it has none; one for a
    request for a function is left out.

    Raises:
        TrainingError: the file cannot be read, or a line is not a row of it.
    """
    found = []
    for row in _rows(path):
        text = str(row["completion"])
        if not row["finished"]:
            text = "" if "passed" in row else _whole_sentences(text)
        if text or row["finished"]:
            found.append(Problem("chat", str(row["prompt"]), text, "passed" if row.get("passed") else ""))
    return found


def _whole_sentences(text: str) -> str:
    return text[: max(text.rfind(end) + 1 for end in (". ", ".\n", "! ", "? "))]


def _done(path: Path) -> set[tuple[object, object]]:
    return {(row["prompt"], row["draw"]) for row in _rows(path)} if path.exists() else set()


def _rows(path: Path) -> Sequence[dict[str, object]]:
    try:
        rows: list[dict[str, object]] = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["prompt"], row["draw"], row["completion"], row["finished"]
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}; cdlm train task-answers writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not answers of cdlm train task-answers: {error!r}") from error
    return rows
