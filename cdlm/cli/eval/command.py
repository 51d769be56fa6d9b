"""``cdlm eval``: fresh held-out problems over HTTP, checked by their answers or by running the code."""

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console

from cdlm.cli.bench.client import (
    Completion,
    CompletionError,
    complete,
    complete_whole,
    make_client,
    served_model,
)
from cdlm.cli.commands import one_line
from cdlm.cli.display import PictureError, progress_bar
from cdlm.cli.eval.sets import EvaluationTask, draw_evaluation, is_natural, judge, request_fields
from cdlm.cli.local_server import LocalServerError, server_address
from cdlm.training.data.mixture import EvaluationSplit, ScoredTask
from cdlm.training.data.problem import Problem
from cdlm.training.errors import TrainingError

_SERVED_OPTIONS = (
    "url", "model", "adapter", "data", "concurrency", "confidence_threshold", "temperature", "vote", "max_tokens",
    "failures",
)  # fmt: skip
_TABLE_OPTIONS = ("latency_count", "generation_length", "runs", "rows", "answers", "picture")


def evaluate(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="Server to measure.")] = "http://127.0.0.1:8000",
    model: Annotated[Path | None, typer.Option(help="Serve this checkpoint for the run, instead of --url.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="PEFT directory that is merged into --model.")] = None,
    task: Annotated[
        EvaluationTask | None,
        typer.Option(
            help="words, natural-words, svamp (exact match); functions, natural-functions, humaneval, mbpp (pass@1). "
            "[words; words and functions with --table]"
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="File of svamp, humaneval or mbpp.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many problems.")] = 200,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
    split: Annotated[
        EvaluationSplit, typer.Option(help="development while tuning; held_out for final figures.")
    ] = "held_out",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    confidence_threshold: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="Sent with every request. [server's]")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sent with every request, with --seed as its seed. [greedy]")
    ] = None,
    vote: Annotated[
        int | None,
        typer.Option(min=2, max=128, help="Draw this many answers per problem; their last numbers vote."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    api_key: Annotated[str | None, typer.Option(envvar="CDLM_API_KEY", show_envvar=False)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    failures: Annotated[Path | None, typer.Option(help="Write wrong answers here, one JSON object per line.")] = None,
    table: Annotated[
        bool,
        typer.Option("--table", help="Compare teacher decoders, student and autoregressive model, in this process."),
    ] = False,
    latency_count: Annotated[int, typer.Option(min=1, help="Table: problems timed one by one.")] = 20,
    generation_length: Annotated[int, typer.Option(min=1, help="Table: tokens of a canvas.")] = 192,
    runs: Annotated[
        Path | None, typer.Option(help="Table: run directory with teacher, student, autoregressive. [bundled]")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Table: only these rows, comma-separated.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Table: keep answers in this folder; a restarted run continues.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Table: draw score against latency here, a PNG.")] = None,
) -> None:
    """Measure answers on problems drawn from the seed, from a split that training never sees."""
    for name in _SERVED_OPTIONS if table else _TABLE_OPTIONS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"{flag} cannot be used with --table" if table else f"{flag} needs --table")
    if table:
        if task is not None and task not in get_args(ScoredTask):
            raise typer.BadParameter(f"{task} cannot be used with --table", param_hint="--task")
        from cdlm.cli.eval.rows import TableError
        from cdlm.cli.eval.table import TASKS, make_table
        from cdlm.scheduler.errors import EngineStartError, RequestError

        tasks = TASKS if task is None else (cast(ScoredTask, task),)
        with one_line("eval", TableError, PictureError, EngineStartError, RequestError, ValueError):
            make_table(
                count=count, seed=seed, split=split, latency_count=latency_count, generation_length=generation_length,
                runs=runs, tasks=tasks, rows=rows, answers=answers, json_file=json_file, picture=picture,
            )  # fmt: skip
        return
    task = task or "words"
    if vote is not None and not temperature:
        raise typer.BadParameter("--vote needs --temperature above 0: greedy answers are all the same")
    if vote is not None and "words" not in task and task != "svamp":
        raise typer.BadParameter(f"--vote compares numbers, and {task} asks for code")
    extra: dict[str, Any] = {} if confidence_threshold is None else {"confidence_threshold": confidence_threshold}
    extra |= {} if temperature is None else {"temperature": temperature, "seed": seed}
    extra |= {} if vote is None else {"n": vote, "vote": True}
    console = Console(stderr=True)
    with one_line("eval", CompletionError, LocalServerError, TrainingError):
        problems = draw_evaluation(task, data, count, seed, split)
        with server_address(url, model, adapter) as address, progress_bar(console) as progress:
            bar = progress.add_task(task, total=len(problems))
            answered = asyncio.run(
                _answer_all(
                    address, task, problems, concurrency, {"max_tokens": max_tokens, **extra}, api_key,
                    lambda: progress.advance(bar),
                )
            )  # fmt: skip
    drawn = {"split": split} if task == "natural-words" or not is_natural(task) else {}
    sent = {name: value for name, value in (("temperature", temperature), ("vote", vote)) if value is not None}
    result = {"task": task, **drawn, "seed": seed, **sent, **summarize(answered)}
    if failures is not None:
        wrong = ((p, r) for p, r, ok in answered.rows if r and not ok)
        lines = ({"prompt": p.prompt, "got": r.text, "expected": p.completion or p.check} for p, r in wrong)
        failures.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    low, high = result["interval"]
    name = "exact match" if problems[0].task == "words" else "pass@1"
    typer.echo(
        f"{task}: {name} {result['score']:.1%} (95% interval {low:.1%} to {high:.1%}), n {result['n']}, "
        f"errors {result['errors']}, {result['tokens_per_s']:.0f} tokens/s, "
        f"{result['tokens_per_forward']:.1f} tokens a forward"
    )


class Runs:
    """Results per problem: its completion (``None`` after an error), and whether it is right."""

    def __init__(self) -> None:
        self.rows: list[tuple[Problem, Completion | None, bool]] = []
        self.seconds = 0.0
        self.first_error: str | None = None


async def _answer_all(
    url: str,
    task: EvaluationTask,
    problems: list[Problem],
    concurrency: int,
    options: dict[str, Any],
    api_key: str | None,
    advance: Any,
) -> Runs:
    runs = Runs()
    gate = asyncio.Semaphore(concurrency)
    started = time.perf_counter()
    async with make_client(url, api_key, concurrency) as client:
        name = await served_model(client)

        async def answer(problem: Problem) -> tuple[Problem, Completion | None, bool]:
            async with gate:
                try:
                    endpoint, fields = request_fields(task, problem)
                    body = {"model": name, **fields, **options}
                    done = await (complete_whole if "vote" in options else complete)(client, body, endpoint)
                except CompletionError as error:
                    runs.first_error = runs.first_error or str(error)
                    return problem, None, False
                finally:
                    advance()
            return problem, done, await asyncio.to_thread(judge(task), problem, done.text)

        runs.rows = list(await asyncio.gather(*map(answer, problems)))
    runs.seconds = time.perf_counter() - started
    return runs


def summarize(runs: Runs) -> dict[str, Any]:
    """Score with its 95% Wilson interval (Wilson, 1927), errors, and speed."""
    n = len(runs.rows)
    right = sum(ok for _, _, ok in runs.rows)
    usages = [done.usage for _, done, _ in runs.rows if done is not None]
    tokens = sum(usage["completion_tokens"] for usage in usages)
    forwards = sum(usage["forward_passes"] for usage in usages)
    return {
        "score": right / n,
        "interval": wilson_interval(right, n),
        "n": n,
        "errors": sum(done is None for _, done, _ in runs.rows),
        "first_error": runs.first_error,
        "tokens_per_s": tokens / runs.seconds,
        "tokens_per_forward": tokens / max(1, forwards),
        "completion_tokens": tokens,
        "denoise_steps": sum(usage["denoise_steps"] for usage in usages),
        "seconds": runs.seconds,
    }


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson confidence interval (low, high) of a proportion, valid also near 0 and 1."""
    rate = successes / trials
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    center, scale = rate + z * z / (2 * trials), 1 + z * z / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)
