"""The PromQL of dashboards and alerts, and what it refers to."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from tests.support.places import ROOT

DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
RULES = ROOT / "docker" / "prometheus" / "rules.yml"


@dataclass(frozen=True)
class Expression:
    """One query: where it stands, and its text without Grafana's variables."""

    where: str
    text: str
    legend: str = ""

    @property
    def metrics(self) -> set[str]:
        """Names of all series it selects."""
        return {node.name for node in walk(promql_parser.parse(self.text)) if selects(node)}


@dataclass(frozen=True)
class Panel:
    """One graph of a dashboard."""

    title: str
    unit: str
    stacked: bool
    expressions: list[Expression]


def dashboards(window: str = "1m") -> dict[str, dict[str, list[Panel]]]:
    """Rows of panels of every dashboard; ``window`` stands for Grafana's rate interval."""
    return {path.stem: _rows(path, window) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(window: str = "1m") -> list[Panel]:
    """All panels of all dashboards."""
    return [panel for rows in dashboards(window).values() for row in rows.values() for panel in row]


def alerts() -> list[dict[str, Any]]:
    """All alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def everything(window: str = "1m") -> list[Expression]:
    """Every expression of dashboards and alerts."""
    drawn = [expression for panel in panels(window) for expression in panel.expressions]
    return drawn + [Expression(rule["alert"], rule["expr"]) for rule in alerts()]


def selects(node: Any) -> bool:
    """Whether ``node`` selects series by name."""
    return isinstance(node, promql_parser.VectorSelector)


def walk(node: Any) -> list[Any]:
    """``node`` and all below it."""
    found = [node]
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        below = getattr(node, name, None)
        if isinstance(below, promql_parser.Expr):
            found += walk(below)
    for argument in getattr(node, "args", None) or []:
        found += walk(argument)
    return found


def _rows(path: Path, window: str) -> dict[str, list[Panel]]:
    rows: dict[str, list[Panel]] = {}
    title = ""
    for panel in json.loads(path.read_text())["panels"]:
        if panel["type"] == "row":
            title = panel["title"]
            rows[title] = []
            continue
        defaults = panel["fieldConfig"]["defaults"]
        expressions = [
            Expression(f"{path.stem}: {panel['title']}", _plain(target["expr"], window), target["legendFormat"])
            for target in panel["targets"]
        ]
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        rows[title].append(Panel(panel["title"], defaults["unit"], stacked, expressions))
    return rows


def _plain(text: str, window: str) -> str:
    text = text.replace("$__rate_interval", window)
    return re.sub(r"\$(instance|model_name)", ".*", text)
