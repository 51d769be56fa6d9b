"""Writes the result of a run: figures, tables and plots."""

import json
from pathlib import Path
from typing import Any


def write(directory: Path, command: str, date: str, result: dict[str, Any]) -> None:
    """Writes ``result.json``, ``README.md``, ``routing.png`` and ``autoscaling.png``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(result) + "\n")
    (directory / "README.md").write_text(_page(command, date, result))
    _plot_routing(directory / "routing.png", result["routing"])
    _plot_scaling(directory / "autoscaling.png", result["autoscaling"])


def _page(command: str, date: str, result: dict[str, Any]) -> str:
    given = result["parameters"]
    service, size, wave = given["service"], given["size"], given["wave"]
    tokens, most = service["tokens_per_forward"], given["requests_per_s_of_a_replica"]
    lines = [
        "# Scaling, simulated",
        "",
        f"`{command}`, {date}. A simulation: no server ran, no GPU was used.",
        f"Service times are the bounds of `cdlm plan` for {service['model']} on {service['device']}, {tokens:g}",
        f"tokens per forward, answers of {service['answer']} tokens, prompts of {wave['mean_tokens']} on average,",
        f"{service['max_num_seqs']} rows per batch: at most {most:.2f} requests/s per replica without cached prompts.",
        "",
        "## Routing",
        "",
        f"{size['replicas']} replicas for {size['routing_s']:g} s; load is the mean rate over what they serve at most",
        f"without cached prompts. {given['routing']['prompts']} prompts, asked with Zipf's exponent",
        f"{given['routing']['skew']:g}; a replica keeps {given['cached_tokens']} tokens of them.",
        "",
        "| load | policy | p50 s | p99 s | p99 wait s | prompts cached | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['load']:.0%} | {row['policy']} | {row['latency_p50_s']:.2f} | {row['latency_p99_s']:.2f} | "
        f"{row['wait_p99_s']:.2f} | {row['hit_share']:.0%} | {row['refused']} of {row['arrived']} |"
        for row in result["routing"]
    ]
    lines += [
        "",
        "![p99 latency over load](routing.png)",
        "",
        "## Autoscaling",
        "",
        f"One wave of {wave['swing']:.0%} around {wave['rate']:g} requests/s in {wave['duration']:g} s and",
        f"{wave['bursts']} bursts of {wave['burst_s']:g} s at {wave['burst_factor']:g} times the rate;",
        "120 s to load a replica; least requests; limits and windows of `deploy/kubernetes/keda.yaml`.",
        "",
        "| policy | p50 s | p99 s | p99 wait s | refused | replica-hours | busy |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['policy']} | {row['latency_p50_s']:.2f} | {row['latency_p99_s']:.2f} | {row['wait_p99_s']:.2f} | "
        f"{row['refused']} of {row['arrived']} | {row['replica_hours']:.1f} | {row['busy_share']:.0%} |"
        for row in result["autoscaling"]
    ]
    return "\n".join([*lines, "", "![replicas over time](autoscaling.png)", ""])


def _plot_routing(path: Path, rows: list[dict[str, Any]]) -> None:
    figure, axes = _figure(1)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        axes[0].plot([row["load"] for row in own], [row["latency_p99_s"] for row in own], marker="o", label=policy)
    axes[0].set(xlabel="load, share of the fleet's rate without cached prompts", ylabel="p99 latency, s", yscale="log")
    axes[0].legend()
    figure.savefig(path)


def _plot_scaling(path: Path, rows: list[dict[str, Any]]) -> None:
    figure, axes = _figure(2)
    for row in rows:
        times = [at for at, _, _ in row["timeline"]]
        axes[0].plot(times, [replicas for _, replicas, _ in row["timeline"]], label=row["policy"])
        axes[1].plot(times, [in_hand for _, _, in_hand in row["timeline"]])
    axes[0].set(ylabel="replicas held")
    axes[0].legend()
    axes[1].set(xlabel="seconds", ylabel="waiting + running")
    figure.savefig(path)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    # Without a display and without the state of pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5 * panels), dpi=110, layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False)
    return figure, [axis for (axis,) in axes]
