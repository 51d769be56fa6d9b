"""``cdlm eval --table``: teacher decoders, student and autoregressive model side by side."""

import datetime
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from cdlm.cli.display import progress_bar, require_matplotlib
from cdlm.cli.doctor.machine import processor_name
from cdlm.cli.eval.answers import AnswerStore
from cdlm.cli.eval.command import wilson_interval
from cdlm.cli.eval.rows import NAIVE, REFERENCE_STUDENT, ROWS, TRUNCATED, Answer, Models, TableError, TableRow
from cdlm.cli.eval.sets import is_right
from cdlm.cli.eval.table_output import draw_picture, print_table
from cdlm.training.data.mixture import EvaluationSplit, ScoredTask, draw_problems
from cdlm.training.data.problem import Problem

TASKS: tuple[ScoredTask, ...] = ("words", "functions")
_BATCH = 32


def make_table(
    *,
    count: int,
    seed: int,
    split: EvaluationSplit,
    latency_count: int,
    generation_length: int,
    runs: Path | None,
    tasks: tuple[ScoredTask, ...],
    rows: str | None,
    answers: Path | None,
    json_file: Path | None,
    picture: Path | None,
) -> dict[str, Any]:
    """Measures all rows, or the comma-separated ``rows``, on fresh problems of the tasks, and prints them.

    Scores use all ``count`` problems of a task, in batches. Latency is wall time of single requests on the first
    ``latency_count``, one problem after another through all rows, so that a busy machine slows every row alike.
    Answers kept in the folder ``answers`` are scored without being decoded again; latency is always measured.

    Raises:
        TableError: an unknown row, or an engine that failed.
        PictureError: matplotlib is missing for a picture.
        CheckpointError, EngineStartError, RequestError, ValueError: a model cannot be loaded, or cannot run the
            problems.
    """
    names = list(ROWS) if rows is None else [name.strip() for name in rows.split(",")]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise TableError(f"unknown row {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    if picture is not None:
        require_matplotlib("a picture")
    latency_count = min(latency_count, count)
    models = Models(runs, generation_length)
    command = f"cdlm eval --table --count {count} --seed {seed} --split {split} --latency-count {latency_count}"
    command += f" --generation-length {generation_length}"
    given = {"task": tasks[0] if tasks != TASKS else None, "runs": runs, "rows": rows, "answers": answers}
    command += "".join(f" --{flag} {value}" for flag, value in given.items() if value is not None)
    store = None
    if answers is not None:
        problems = {"count": count, "seed": seed, "split": split, "generation_length": generation_length}
        store = AnswerStore(answers, {**problems, "device": str(models.device), "version": version("cdlm-serve")})
    result: dict[str, Any] = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(models.device),
        "generation_length": generation_length,
        "split": split,
        "seed": seed,
        "count": count,
        "latency_count": latency_count,
        "rows": [],
    }
    with progress_bar(Console(stderr=True)) as progress:
        for task in tasks:
            bar = progress.add_task(task, total=len(names) * (count + latency_count))
            measurement = _Measurement(models, task, draw_problems(task, count, seed, split), store, progress, bar)
            result["rows"] += measurement.run(names, latency_count)
            if json_file is not None:  # A task takes long enough to be worth keeping if the next one is interrupted.
                json_file.write_text(json.dumps(result, indent=2) + "\n")
    print_table(result)
    if picture is not None:
        draw_picture(result, picture)
    return result


class _Measurement:
    """Measures the rows of one task."""

    def __init__(
        self,
        models: Models,
        task: ScoredTask,
        problems: list[Problem],
        store: AnswerStore | None,
        progress: Progress,
        bar: TaskID,
    ) -> None:
        self.models, self.task, self.problems, self.store = models, task, problems, store
        self.progress, self.bar = progress, bar
        self._verdicts: dict[tuple[str, str], bool] = {}

    def run(self, names: list[str], latency_count: int) -> list[dict[str, Any]]:
        """The figures of the rows, in order."""
        answers: dict[str, list[Answer]] = {}
        truncated: dict[str, Any] = {}
        count = 1
        if TRUNCATED in names:
            student = self.models.row(REFERENCE_STUDENT, truncated_count=1)
            answers[REFERENCE_STUDENT] = self._answer_all(student, counted=REFERENCE_STUDENT in names)
            mean = sum(a.steps for a in answers[REFERENCE_STUDENT]) / sum(a.blocks for a in answers[REFERENCE_STUDENT])
            block = self.models.teacher.manifest.block_length
            count = tokens_per_step(mean, block)
            truncated = {
                "student_steps_per_block": mean,
                "tokens_per_step_of_rule": count,
                "steps_per_block": -(-block // count),
            }
        rows = {name: self.models.row(name, truncated_count=count) for name in names}
        for name, row in rows.items():
            if name not in answers:
                answers[name] = self._answer_all(row)
        seconds, timed = self._time(rows, latency_count)
        return [
            {
                **self._figures(rows[name], answers[name], answers.get(NAIVE)),
                **_latency(seconds[name], timed[name], seconds.get(NAIVE)),
                **(truncated if name == TRUNCATED else {}),
            }
            for name in names
        ]

    def _prompt(self, row: TableRow, problem: Problem) -> list[int]:
        ids: list[int] = row.tokenizer.encode(problem.prompt, add_special_tokens=False)
        return ids

    def _answer_all(self, row: TableRow, *, counted: bool = True) -> list[Answer]:
        """Answers to all problems, from the store or decoded in batches of similar prompt length."""
        started = time.perf_counter()
        kept = self.store and self.store.load(self.task, row.name, row.decoding, row.checkpoint)
        if kept:
            answers = kept
            if counted:
                self.progress.advance(self.bar, len(answers))
        else:
            answers = self._decode_all(row, counted=counted)
            if self.store is not None:
                self.store.save(self.task, row.name, row.decoding, row.checkpoint, answers)
        score = sum(self._right(self._texts(row, answers))) / len(answers)
        how = "kept answers" if kept else f"{time.perf_counter() - started:.0f} s"
        self.progress.console.print(f"{self.task} {row.name}: {score:.1%} of {len(answers)} ({how})", highlight=False)
        return answers

    def _decode_all(self, row: TableRow, *, counted: bool) -> list[Answer]:
        prompts = [self._prompt(row, problem) for problem in self.problems]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            found.update(zip(batch, row.answer_many([prompts[index] for index in batch]), strict=True))
            if counted:
                self.progress.advance(self.bar, len(batch))
        return [found[index] for index in range(len(prompts))]

    def _time(self, rows: dict[str, TableRow], count: int) -> tuple[dict[str, list[float]], dict[str, list[Answer]]]:
        """Times each row on the first ``count`` problems, after a warm-up request; returns seconds and answers."""
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        answers: dict[str, list[Answer]] = {name: [] for name in rows}
        for row in rows.values():
            row.answer([self._prompt(row, self.problems[0])])
        for problem in self.problems[:count]:
            for name, row in rows.items():
                prompt = self._prompt(row, problem)
                started = time.perf_counter()
                answers[name] += row.answer([prompt])
                seconds[name].append(time.perf_counter() - started)
                self.progress.advance(self.bar)
        return seconds, answers

    def _figures(self, row: TableRow, answers: list[Answer], naive: list[Answer] | None) -> dict[str, Any]:
        right = sum(self._right(self._texts(row, answers)))
        steps = statistics.fmean(answer.steps for answer in answers)
        length = statistics.fmean(len(answer.token_ids) for answer in answers)
        return {
            "name": row.name,
            "task": self.task,
            "decoding": ROWS[row.name],
            "n": len(answers),
            "score": right / len(answers),
            "interval": wilson_interval(right, len(answers)),
            "denoise_steps": steps,
            "steps_reduction": None if naive is None else statistics.fmean(a.steps for a in naive) / steps,
            "forwards": statistics.fmean(answer.forwards for answer in answers),
            "generated_length": length,
            "tokens_per_step": length / steps,
        }

    def _texts(self, row: TableRow, answers: list[Answer]) -> list[str]:
        return [str(row.tokenizer.decode(answer.token_ids)) for answer in answers]

    def _right(self, texts: list[str]) -> list[bool]:
        """Whether each text is right; checks equal texts once, since checking code starts a process."""
        wanted = {(problem.prompt, text): problem for problem, text in zip(self.problems, texts, strict=True)}
        fresh = [key for key in wanted if key not in self._verdicts]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._verdicts.update(zip(fresh, pool.map(lambda key: is_right(wanted[key], key[1]), fresh), strict=True))
        return [self._verdicts[problem.prompt, text] for problem, text in zip(self.problems, texts, strict=True)]


def tokens_per_step(steps_per_block: float, block_length: int) -> int:
    """The tokens per step for which a block takes closest to ``steps_per_block`` steps; the larger of two equals."""
    wanted = max(1, round(steps_per_block))

    def distance(count: int) -> tuple[int, int]:
        steps = -(-block_length // count)
        return abs(steps - wanted), -steps

    return min(range(1, block_length + 1), key=distance)


def _latency(seconds: list[float], answers: list[Answer], naive: list[float] | None) -> dict[str, Any]:
    """Median and mean seconds of a request, the median of its paired ratios to the naive teacher, and tokens/s."""
    ratios = [] if naive is None else [slow / own for slow, own in zip(naive, seconds, strict=True)]
    return {
        "latency_s": statistics.median(seconds),
        "latency_mean_s": statistics.fmean(seconds),
        "latency_ratio": statistics.median(ratios) if ratios else None,
        "tokens_per_s": sum(len(answer.token_ids) for answer in answers) / sum(seconds),
    }


def _machine(device: torch.device) -> dict[str, Any]:
    machine = {
        "cpu": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine
