"""Dashboards and alerts: every expression parses, names real metrics, and uses each as its type asks for."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from cdlm.scheduler.messages import EngineReady
from cdlm.server.observe.metrics import Metrics
from tests.support.places import ROOT
from tests.support.server.fakes import FakeEngine
from tests.unit.project.expressions import DASHBOARDS, Expression, alerts, dashboards, everything, selects, walk

RATES = {"rate", "increase"}
ROWS = {
    "serving": ["Throughput", "Requests", "Latency", "Waits", "Errors"],
    "engine": ["Diffusion", "Batch", "Forward passes", "KV pages", "Preemption", "Verified drafts", "Replaced tokens"],
}
EVERYTHING = pytest.mark.parametrize("expression", everything(), ids=lambda item: item.where)


def exposed() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every sample that the server exposes."""
    metrics = Metrics("tiny", "0")
    engine = FakeEngine(lambda _: [], 300)
    assert isinstance(engine.ready, EngineReady)
    metrics.watch(engine)
    found: dict[str, tuple[str, set[str]]] = {"up": ("gauge", set())}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found[sample.name] = (family.type, set(sample.labels))
    return found


EXPOSED = exposed()


@EVERYTHING
def test_it_selects_metrics_and_labels_that_exist(expression: Expression) -> None:
    assert expression.metrics
    for node in walk(promql_parser.parse(expression.text)):
        if selects(node):
            assert node.name in EXPOSED, node.name
            labels = {matcher.name for matcher in node.matchers.matchers}
            assert labels <= EXPOSED[node.name][1] | {"job", "instance"}, node.name


@EVERYTHING
def test_counters_are_rates_and_gauges_are_not(expression: Expression) -> None:
    under_rate = set()
    for node in walk(promql_parser.parse(expression.text)):
        if isinstance(node, promql_parser.Call) and node.func.name in RATES:
            under_rate |= {inner.name for inner in walk(node) if selects(inner)}
    counted = {name for name in expression.metrics if EXPOSED[name][0] in ("counter", "histogram")}
    assert under_rate == counted


@EVERYTHING
def test_quantiles_are_over_rates_of_buckets_by_le(expression: Expression) -> None:
    buckets = {name for name in expression.metrics if name.endswith("_bucket")}
    calls = [
        node
        for node in walk(promql_parser.parse(expression.text))
        if isinstance(node, promql_parser.Call) and node.func.name == "histogram_quantile"
    ]
    assert bool(buckets) == bool(calls)
    for call in calls:
        share, inner = call.args
        assert 0 < share.val < 1
        assert isinstance(inner, promql_parser.AggregateExpr)
        assert "le" in inner.modifier.labels
        assert {name for name in Expression("", inner.prettify()).metrics if name.endswith("_bucket")} == buckets


@EVERYTHING
def test_means_are_a_sum_over_its_own_count(expression: Expression) -> None:
    sums = {name.removesuffix("_sum") for name in expression.metrics if name.endswith("_sum")}
    if not sums:
        return
    counts = {name.removesuffix("_count") for name in expression.metrics if name.endswith("_count")}
    # Tokens over rows is the one quotient of two sums: both belong to the same passes.
    assert sums == counts or sums == {"cdlm_tokens_finalized_per_forward", "cdlm_batch_rows"}


def test_every_metric_of_interest_is_drawn() -> None:
    drawn = {name for expression in everything() for name in expression.metrics}
    families = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in drawn}
    known = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in EXPOSED}
    assert known - families == {"cdlm_build_info", "cdlm_cache_config_info"}


def test_the_dashboards_have_their_rows() -> None:
    assert {name: list(rows) for name, rows in dashboards().items()} == ROWS


@pytest.mark.parametrize("path", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    board = json.loads((DASHBOARDS / f"{path.stem}.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance", "model_name"}
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
        for target in panel.get("targets", []):
            assert "$instance" in target["expr"]
            assert "$model_name" in target["expr"]
            assert "[5m]" not in target["expr"]
            assert target["datasource"]["uid"] == "${datasource}"


def test_provisioning_points_at_what_the_containers_mount() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(str(volume).split(":")[:2][::-1] for volume in compose["volumes"])
    provider = yaml.safe_load((ROOT / "docker/grafana/provisioning/dashboards/files.yml").read_text())
    (folder,) = (item["options"]["path"] for item in provider["providers"])
    assert (ROOT / mounts[folder]).resolve() == DASHBOARDS
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_alerts_say_what_happened_and_where_to_read_on() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text()
    sections = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert sections == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        assert notes["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert notes["summary"]
        assert notes["description"]
