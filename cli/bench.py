"""``cdlm bench``: a load of streamed completions on a running server, and what it measured."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from cli.completions import Completion, CompletionError, complete, make_client, served_model
from cli.local_server import LocalServerError, server_address
from cli.progress import progress_bar
from training.data.mixture import draw_problems


def bench(
    url: Annotated[str, typer.Option(help="Server to load.")] = "http://127.0.0.1:8000",
    model: Annotated[Path | None, typer.Option(help="Serve this checkpoint for the run, instead of --url.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Always generate max_tokens.")] = False,
    seed: Annotated[int, typer.Option(help="Which prompts.")] = 0,
    api_key: Annotated[str | None, typer.Option(envvar="CDLM_API_KEY", show_envvar=False)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Load a server with word problems and print throughput, latencies and diffusion figures."""
    body = {"max_tokens": max_tokens, "ignore_eos": ignore_eos}
    prompts = [problem.prompt for problem in draw_problems("words", requests, seed)]
    console = Console(stderr=True)
    try:
        with server_address(url, model) as address, progress_bar(console) as progress:
            bar = progress.add_task("requests", total=requests)
            load = asyncio.run(_run(address, prompts, body, concurrency, api_key, lambda: progress.advance(bar)))
    except (CompletionError, LocalServerError) as error:
        typer.echo(f"cdlm bench: {error}", err=True)
        raise typer.Exit(1) from None
    result = {"requests": requests, "concurrency": concurrency, "max_tokens": max_tokens, **summarise(load)}
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("figure", "value", title=f"{requests} requests, {concurrency} at a time")
    for name, value in result.items():
        if value is not None:
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(width=100).print(table)
    if load.errors:
        typer.echo(f"first error: {load.errors[0]}", err=True)


@dataclass(slots=True)
class Load:
    """What a load produced: completions, errors, wall seconds, and how the server's own counters moved."""

    completions: list[Completion]
    errors: list[str]
    seconds: float
    counters: dict[str, float]


async def _run(
    url: str, prompts: list[str], body: dict[str, Any], concurrency: int, api_key: str | None, advance: Any
) -> Load:
    gate = asyncio.Semaphore(concurrency)
    async with make_client(url, api_key, concurrency) as client:
        name = await served_model(client)

        async def one(prompt: str) -> Completion | str:
            async with gate:
                try:
                    return await complete(client, {"model": name, "prompt": prompt, **body})
                except CompletionError as error:
                    return str(error)
                finally:
                    advance()

        before = await _counters(client)
        started = time.perf_counter()
        answers = await asyncio.gather(*map(one, prompts))
        seconds = time.perf_counter() - started
        after = await _counters(client)
    return Load(
        completions=[answer for answer in answers if isinstance(answer, Completion)],
        errors=[answer for answer in answers if isinstance(answer, str)],
        seconds=seconds,
        counters={key: after[key] - before.get(key, 0.0) for key in after},
    )


async def _counters(client: httpx.AsyncClient) -> dict[str, float]:
    """Sums and counts of the server's histograms, over all labels."""
    response = await client.get("/metrics")
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if sample.name.endswith(("_sum", "_count", "_total")):
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def _mean(counters: dict[str, float], histogram: str) -> float | None:
    count = counters.get(f"{histogram}_count", 0.0)
    return counters[f"{histogram}_sum"] / count if count else None


def _percentile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def summarise(load: Load) -> dict[str, Any]:
    """Throughput in tokens/s, times in seconds, and the server's means over the run."""
    usages = [done.usage for done in load.completions]
    tokens = sum(usage["completion_tokens"] for usage in usages)
    forwards = sum(usage["forward_passes"] for usage in usages)
    first = [done.first_chunk for done in load.completions]
    latency = [done.latency for done in load.completions]
    return {
        "errors": len(load.errors),
        "seconds": load.seconds,
        "requests_per_s": len(load.completions) / load.seconds,
        "completion_tokens": tokens,
        "tokens_per_s": tokens / load.seconds,
        "ttft_p50_s": _percentile(first, 50),
        "ttft_p95_s": _percentile(first, 95),
        "latency_p50_s": _percentile(latency, 50),
        "latency_p95_s": _percentile(latency, 95),
        "latency_p99_s": _percentile(latency, 99),
        "denoise_steps_per_block": _mean(load.counters, "cdlm_denoise_steps_per_block"),
        "tokens_per_forward_of_a_request": tokens / forwards if forwards else None,
        "tokens_finalized_per_forward_of_the_batch": _mean(load.counters, "cdlm_tokens_finalized_per_forward"),
        "rows_per_forward": _mean(load.counters, "cdlm_batch_rows"),
        "forward_ms": _scaled(_mean(load.counters, "cdlm_forward_duration_seconds"), 1000.0),
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
