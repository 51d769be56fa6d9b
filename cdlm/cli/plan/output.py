"""Prints a plan."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cdlm.cli.display import quantity


def print_plan(plan: dict[str, Any]) -> None:
    """Prints the table of batches, the measurements if there are any, and the findings."""
    console = Console(width=120 if plan["target_requests_per_s"] is None else 140, highlight=False)
    devices = f"{plan['tensor_parallel']} x " if plan["tensor_parallel"] > 1 else ""
    size = quantity(plan["parameters"], "").replace(" G", "B").replace(" M", "M")
    title = (
        f"{escape(plan['model'])} ({size}) on {devices}{plan['device']}, {plan['dtype']}, "
        f"{plan['context']} cached tokens, {plan['tokens_per_forward']:g} tokens per forward: bounds"
    )
    console.print(_batches(plan, title))
    console.print(
        f"{quantity(plan['flops_per_s'], 'FLOP/s')} and {quantity(plan['bytes_per_s'], 'B/s')} per device "
        f"({plan['device_source']})",
        style="dim",
        soft_wrap=True,
    )
    if "measured" in plan:
        console.print()
        console.print(_measured(plan["measured"]))
    console.print()
    for line in plan["findings"]:
        console.print(f"- {escape(line)}", soft_wrap=True)


def _batches(plan: dict[str, Any], title: str) -> Table:
    load = plan["target_requests_per_s"] is not None
    table = Table(title=title)
    headings = ["batch", "fits", "FLOP/byte", "bound by", "ms", "forwards/s", "tok/s", "each"]
    headings += ["autoregressive", "ratio"]
    headings += ["requests/s", "replicas"] if load else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in plan["batches"]:
        cells = [
            str(row["batch"]),
            "yes" if row["fits"] else "no",
            f"{row['intensity']:.0f}",
            row["bound"],
            f"{row['seconds'] * 1e3:.3g}",
            f"{row['forwards_per_s']:.3g}" if row["forwards_per_s"] < 1000 else f"{row['forwards_per_s']:.0f}",
            f"{row['tokens_per_s']:.0f}",
            f"{row['tokens_per_s_a_request']:.0f}",
            f"{row['autoregressive_tokens_per_s']:.0f}, {row['autoregressive_bound']}",
            f"{row['student_over_autoregressive']:.2f}x",
        ]
        cells += [f"{row['requests_per_s']:.3g}", str(row["replicas"])] if load else []
        table.add_row(*cells, style=None if row["fits"] else "dim")
    return table


def _measured(measured: dict[str, Any]) -> Table:
    table = Table(title=f"the bound and this machine, {measured['threads']} threads, {escape(measured['weights'])}")
    for heading in ("rows", "tokens", "bound", "at least", "measured", "ratio", "of the processor"):
        table.add_column(heading, justify="right")
    for row in measured["forwards"]:
        table.add_row(
            str(row["rows"]),
            str(row["tokens"]),
            row["bound"],
            quantity(row["predicted_s"], "s"),
            quantity(row["measured_s"], "s"),
            f"{row['measured_over_predicted']:.2f}x",
            f"{row['processor_share']:.0%}",
        )
    return table
