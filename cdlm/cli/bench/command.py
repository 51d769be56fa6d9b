"""``cdlm bench``: measures a server under load."""

import asyncio
import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from cdlm.cli.bench.client import CompletionError, Endpoint, make_client, served_model
from cdlm.cli.bench.figures import details, summarize
from cdlm.cli.bench.load import Attempt, Load, poisson_arrivals, run_load
from cdlm.cli.bench.output import draw_load, print_figures
from cdlm.cli.bench.prompts import BUILT_IN, Prompt, PromptError, problem_prompts, random_prompts, read_prompts
from cdlm.cli.commands import one_line
from cdlm.cli.display import PictureError, progress_bar, require_matplotlib
from cdlm.cli.local_server import LocalServerError, server_address

DEFAULT_REQUESTS = 64
DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a load, and when they are sent."""

    endpoint: Endpoint
    prompts: str
    requests: int | None
    input_tokens: int
    rate: float | None
    concurrency: int
    fields: dict[str, Any]
    seed: int
    warmup: int


def bench(
    url: Annotated[str, typer.Option(help="Server to load; any that speaks OpenAI's API.")] = "http://127.0.0.1:8000",
    model: Annotated[Path | None, typer.Option(help="Serve this checkpoint for the run, instead of --url.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Model id to send. [the server's first]")] = None,
    endpoint: Annotated[Endpoint, typer.Option(help="What to call: completions or chat.")] = "completions",
    prompts: Annotated[
        str, typer.Option(help="words, functions, random, or a file of JSON lines or ShareGPT conversations.")
    ] = "words",
    input_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a random prompt.")] = 128,
    requests: Annotated[
        int | None, typer.Option(min=1, help=f"How many requests. [{DEFAULT_REQUESTS}, or the file's prompts]")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help=f"Requests in flight. [{DEFAULT_CONCURRENCY}]")] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(help="Requests per second on average, arriving at random (Poisson); inf sends all at once."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Always generate max_tokens.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Which prompts and which arrivals.")] = 0,
    warmup: Annotated[int, typer.Option(min=0, help="Requests sent first, one by one, and not counted.")] = 0,
    api_key: Annotated[str | None, typer.Option(envvar="CDLM_API_KEY", show_envvar=False)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    detailed: Annotated[bool, typer.Option("--detailed", help="Include each request in the JSON.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the latencies and the load over time here.")] = None,
) -> None:
    """Load a server and print throughput, latencies and diffusion figures."""
    if request_rate is not None and concurrency is not None:
        raise typer.BadParameter("--request-rate and --concurrency exclude each other")
    if request_rate is not None and not request_rate > 0:
        raise typer.BadParameter(f"{request_rate} is not above 0", param_hint="--request-rate")
    if detailed and json_file is None:
        raise typer.BadParameter("--detailed needs --json")
    for flag, path in (("--json", json_file), ("--png", png)):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"{path.parent} is no directory", param_hint=flag)
    plan = Plan(
        endpoint, prompts, requests, input_tokens, request_rate, concurrency or DEFAULT_CONCURRENCY,
        {"max_tokens": max_tokens, **({"ignore_eos": True} if ignore_eos else {})}, seed, warmup,
    )  # fmt: skip
    with one_line("bench", CompletionError, LocalServerError, PictureError, PromptError):
        if png is not None:
            require_matplotlib("--png")
        with server_address(url, model) as address:
            name, load = asyncio.run(_run(address, api_key, model_name, plan))
    result = {**_conditions(plan, name, len(load.attempts)), **summarize(load)}
    if json_file is not None:
        json_file.write_text(json.dumps(result | (details(load) if detailed else {}), indent=2) + "\n")
    how = f"{request_rate:g} a second" if request_rate is not None else f"{plan.concurrency} at a time"
    title = f"{name}: {len(load.attempts)} requests, {how}"
    if png is not None:
        draw_load(load, title, png)
    print_figures(result, title)
    for message, count in result["error_counts"].items():
        typer.echo(f"{count} failed: {message}", err=True)
    if not load.completions:
        raise typer.Exit(1)


def _conditions(plan: Plan, model_name: str, requests: int) -> dict[str, Any]:
    finite = plan.rate is not None and math.isfinite(plan.rate)
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": "openai-chat" if plan.endpoint == "chat" else "openai",
        "model_id": model_name,
        "num_prompts": requests,
        "request_rate": plan.rate if finite else "inf",
        "burstiness": 1.0,
        "max_concurrency": plan.concurrency if plan.rate is None else None,
        "prompts": plan.prompts,
        "seed": plan.seed,
        **plan.fields,
    }


async def _run(url: str, api_key: str | None, model_name: str | None, plan: Plan) -> tuple[str, Load]:
    # Fails before the first request to the server.
    known = None if plan.prompts in BUILT_IN else read_prompts(Path(plan.prompts), plan.endpoint)
    count = plan.requests or (len(known) if known else DEFAULT_REQUESTS)
    async with make_client(url, api_key, count if plan.rate is not None else plan.concurrency) as client:
        name = model_name or await served_model(client)
        if known is None:
            known = await _built_in(client, name, plan, count)
        # Repeats the prompts if a file has too few.
        bodies = [
            {"model": name, **plan.fields, **known[number % len(known)].fields(plan.endpoint)}
            for number in range(count)
        ]
        for body in bodies[:1] * plan.warmup:
            await run_load(client, plan.endpoint, [body], arrivals=None, concurrency=1, on_end=lambda _: None)
        before = await _counters(client)
        with progress_bar(Console(stderr=True)) as progress:
            bar = progress.add_task("requests", total=count)
            failed = 0

            def on_end(attempt: Attempt) -> None:
                nonlocal failed
                failed += attempt.error is not None
                progress.update(bar, advance=1, description=f"requests, {failed} failed" if failed else "requests")

            load = await run_load(
                client,
                plan.endpoint,
                bodies,
                arrivals=None if plan.rate is None else poisson_arrivals(count, plan.rate, plan.seed),
                concurrency=plan.concurrency,
                on_end=on_end,
            )
        after = await _counters(client)
    load.counters = {key: after[key] - before.get(key, 0.0) for key in after}
    return name, load


async def _built_in(client: httpx.AsyncClient, model_name: str, plan: Plan, count: int) -> list[Prompt]:
    if plan.prompts == "random":
        found, in_tokens = await random_prompts(client, model_name, plan.endpoint, count, plan.seed, plan.input_tokens)
        if not in_tokens:
            typer.echo(f"the server has no /tokenize: prompts of {plan.input_tokens} words, not tokens", err=True)
        return found
    return problem_prompts("functions" if plan.prompts == "functions" else "words", count, plan.seed)


async def _counters(client: httpx.AsyncClient) -> dict[str, float]:
    """Sums and counts of a cdlm server's histograms, over all labels; empty for other servers."""
    totals: dict[str, float] = {}
    try:
        response = await client.get("/metrics")
        for family in text_string_to_metric_families(response.text if response.status_code == 200 else ""):
            for sample in family.samples:
                if sample.name.startswith("cdlm_") and sample.name.endswith(("_sum", "_count")):
                    totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    except (httpx.HTTPError, ValueError):
        return {}
    return totals
