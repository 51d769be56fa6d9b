"""The result for people: ``README.md`` beside ``result.json``."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.comparisons.table import COMPARISONS
from benchmarks.speed.contenders.load import BLOCK
from benchmarks.speed.contenders.shapes import SHAPES
from benchmarks.speed.output.bars import bar_of
from benchmarks.speed.output.result import read_result
from benchmarks.speed.pace import Pace
from benchmarks.speed.settings import Settings

Entry = dict[str, Any]


def write_report(directory: Path) -> None:
    """Writes the tables of what ``result.json`` holds so far."""
    data = read_result(directory)
    measured = {key: entry for key, entry in data["comparisons"].items() if "ratios" in entry}
    lines = [
        *_head(data),
        *_ratio_table(measured),
        *_curves(measured),
        *_figures(measured),
        *_left_out(data),
        *_meaning(data, measured),
    ]
    (directory / "README.md").write_text("\n".join(lines).rstrip() + "\n")


def _head(data: dict[str, Any]) -> Iterator[str]:
    machine, first = data["machine"], data["commands"][0]
    yield f"# Speed, {first['date'][:10]}"
    yield ""
    for run in data["commands"]:
        yield f"- `{run['command']}`, begun {run['date']}"
    entries = data["comparisons"].values()
    yield f"- commit {', '.join(sorted({entry['commit'] for entry in entries})) or 'unknown'}"
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    yield (
        f"- {gpu}{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads of torch, "
        f"{machine['memory_gib']} GiB, {machine['system']}"
    )
    yield f"- Python {machine['python']}, {', '.join(f'{name} {v}' for name, v in machine['versions'].items())}"
    loads = [entry["load_average"] for entry in entries]
    if loads:
        yield f"- load average when a comparison began: {min(loads):g} to {max(loads):g}"
    yield ""
    if data["settings"]["new_tokens"] < Settings().new_tokens:
        yield "A quick run: a check of the benchmark itself, whose figures say nothing about speed."
        yield ""


def _ratio_table(measured: dict[str, Entry]) -> Iterator[str]:
    yield "Medians of paired ratios, contenders in turn; in brackets the smallest and the largest."
    yield ""
    yield "| ratio | shape | dtype | batch | prompt | rounds | median | bar | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for entry in measured.values():
        for name, ratio in entry["ratios"].items():
            bar = bar_of(name, entry)
            verdict = "" if bar is None else "met" if bar.met(ratio["median"]) else "**missed**"
            yield (
                f"| {name} | {entry['shape']} | {entry['dtype']} | {entry['batch'] or ''} | {entry['prompt'] or ''} "
                f"| {len(ratio['values'])} | {ratio['median']:.3g} ({ratio['min']:.3g} to {ratio['max']:.3g}) "
                f"| {bar or ''} | {verdict} |"
            )
    yield ""


def _curves(measured: dict[str, Entry]) -> Iterator[str]:
    for entry in measured.values():
        if "crossover_batch" not in entry["summary"]:
            continue
        batches, batch = entry["summary"]["batches"], entry["summary"]["crossover_batch"]
        student = entry["summary"]["student"][0] > entry["summary"]["autoregressive"][0]
        where = f"{entry['shape']} {entry['dtype']}, prompts of {entry['prompt']}"
        ahead, behind = ("student", "causal model") if student else ("causal model", "student")
        if batch is None:
            yield f"{where}: the {ahead} has more tokens/s at every batch size from {batches[0]} to {batches[-1]}."
        else:
            yield f"{where}: the {ahead} has more tokens/s up to a batch of about {batch:.1f}, the {behind} above it."
        yield ""


def _figures(measured: dict[str, Entry]) -> Iterator[str]:
    yield "## Figures of the contenders"
    yield ""
    yield "Medians over the rounds. A forward of `raw` and of the engine serves all requests of the batch."
    yield ""
    yield "| comparison | contender | seconds | tokens/s | ms per forward | other |"
    yield "|---|---|---|---|---|---|"
    usual = {"seconds", "tokens", "forwards", "tokens_per_s", "seconds_per_forward"}
    for key, entry in measured.items():
        for contender in entry["rounds"][0]:
            rounds = [one[contender] for one in entry["rounds"]]
            figures = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
            other = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name not in usual)
            cells = [
                _number(figures.get("seconds")),
                _number(figures.get("tokens_per_s")),
                _number(figures["seconds_per_forward"] * 1000 if figures.get("forwards") else None),
            ]
            yield f"| {key} | {contender} | {' | '.join(cells)} | {other} |"
    yield ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _left_out(data: dict[str, Any]) -> Iterator[str]:
    skipped = {key: entry["skipped"] for key, entry in data["comparisons"].items() if "skipped" in entry}
    if skipped:
        yield "## Not measured"
        yield ""
        yield from (f"- {key}: {why}" for key, why in skipped.items())
        yield ""


def _meaning(data: dict[str, Any], measured: dict[str, Entry]) -> Iterator[str]:
    pace = Pace(**data["pace"])
    yield "## What was run"
    yield ""
    if pace.problems:
        yield (
            f"- Student's pace: the bundled student finalized {pace.tokens_per_forward:.2f} tokens per forward "
            f"({pace.denoise_steps_per_block:.2f} denoise steps a block) on {pace.problems} development word problems "
            f"at its threshold {pace.threshold:g}."
        )
    else:
        yield f"- Student's pace: {pace.tokens_per_forward:g} tokens per forward, given on the command line."
    yield (
        f"- Random weights never reach a threshold. The pace is emulated with at most {pace.steps_per_block} steps a "
        f"block of {BLOCK} (threshold 1): {BLOCK / pace.steps_per_block:.3g} tokens per forward. Equal work: one token "
        "per forward. This says nothing about the quality of answers."
    )
    settings = data["settings"]
    yield (
        f"- Answers have {settings['new_tokens']} tokens unless a comparison says otherwise, prompts are random ids, "
        "new ones for every run; end tokens are ignored."
    )
    yield (
        f"- Mixed load: {settings['mixed']} requests. Long request: {settings['blocks']} blocks. Gaps: "
        f"{settings['streams']} streams, {settings['gaps']} gaps, {settings['joins']} prompts of "
        f"{settings['long_prompt']} tokens."
    )
    for name in dict.fromkeys(entry["shape"] for entry in measured.values()):
        weights = "the bundled weights" if SHAPES[name].config is None else "random weights, tied embeddings"
        yield f"- {name}: {SHAPES[name].parameters:,} parameters, {weights}."
    names = {entry["name"] for entry in measured.values()}
    yield from (f"- {comparison.name}: {comparison.says}" for comparison in COMPARISONS if comparison.name in names)
