"""A real Prometheus scrapes a real server under load: every query answers, and every alert behaves."""

import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.external.monitoring.monitored import Prometheus, configuration, load, missing_programs, prometheus, server
from tests.support.server.served import Server
from tests.unit.project.expressions import RULES, Expression, alerts, everything, panels

WINDOW = "6s"
LOAD_S = 8.0

needs_prometheus = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}; 'make prometheus' installs it"
)


@dataclass
class Monitored:
    """Server and Prometheus after a stretch of load."""

    server: Server
    prometheus: Prometheus
    start: float
    end: float
    received: int


@needs_prometheus
def test_promtool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    for command in (["rules", str(RULES)], ["config", str(configuration(tmp_path, "127.0.0.1:8000"))]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("rules_test.yml").read_text()
    assert all(rule["alert"] in cases for rule in alerts())
    (tmp_path / "cases.yml").write_text(cases.replace("[RULES]", f"['{RULES}']"))
    command = ["promtool", "test", "rules", str(tmp_path / "cases.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    directory = tmp_path_factory.mktemp("monitored")
    with server(directory) as running, prometheus(directory, running.url.removeprefix("http://")) as scraping:
        start = time.time()
        received = load(running, LOAD_S)
        running.wait_idle()
        time.sleep(1.5)  # The last scrapes.
        yield Monitored(running, scraping, start, time.time(), received)


def values(monitored: Monitored, text: str) -> list[float]:
    series = monitored.prometheus.range(text, monitored.start, monitored.end)
    return [float(value) for row in series for _, value in row["values"]]


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize(
    "expression", [item for panel in panels(WINDOW) for item in panel.expressions], ids=lambda item: item.where
)
def test_every_panel_draws_something(monitored: Monitored, expression: Expression) -> None:
    found = [value for value in values(monitored, expression.text) if math.isfinite(value)]
    assert found, expression.text
    assert min(found) >= 0


@pytest.mark.slow
@needs_prometheus
def test_every_metric_is_in_the_store(monitored: Monitored) -> None:
    stored = set(monitored.prometheus.get("label/__name__/values"))
    for expression in everything(WINDOW):
        assert expression.metrics <= stored, expression.where


@pytest.mark.slow
@needs_prometheus
def test_the_panels_say_what_happened(monitored: Monitored) -> None:
    by_title = {panel.title: panel.expressions for panel in panels(WINDOW)}

    def of(title: str, index: int = 0) -> list[float]:
        return [value for value in values(monitored, by_title[title][index].text) if math.isfinite(value)]

    counted = monitored.server.metric("cdlm_generation_tokens_total")
    # On top of the lanes come streams that were left, and bursts that found a place.
    assert monitored.received <= counted <= 1.5 * monitored.received + 100
    # A rate over a window that ends within the load; its mean is the tokens over the time, roughly.
    rate = monitored.received / (monitored.end - monitored.start)
    assert 0.5 * rate < max(of("Tokens per second", 1)) < 6 * rate
    assert max(of("Running and waiting")) >= 1
    assert 1 <= max(of("Denoise steps per block")) <= 32
    assert 0 < max(of("Tokens per forward and row")) <= max(of("Tokens per forward")) * 1.01
    assert 1 <= max(of("Rows per forward")) <= 4
    assert 0 < max(of("Prefix cache hit share")) < 1
    assert max(of("Share in use")) > 0
    assert max(of("Error share")) == 0
    assert min(of("Engine up and restarts")) == 1
    totals = values(monitored, "sum(cdlm_kv_pages)")
    assert min(totals) == max(totals) > 0
    for reason in ("queue_full", "invalid"):
        assert max(values(monitored, f'rate(cdlm_requests_rejected_total{{reason="{reason}"}}[{WINDOW}])')) > 0
    assert 0 < max(of("Time to first token", 0)) <= max(of("Time to first token", 2)) < 60


@pytest.mark.slow
@needs_prometheus
def test_prometheus_evaluates_every_alert_and_none_fires(monitored: Monitored) -> None:
    rules = [rule for group in monitored.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in alerts()}
    states = {rule["name"]: rule["state"] for rule in rules}
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
    # Its time has not come yet: the burst was shorter than the alert waits.
    assert states.pop("CdlmQueueFull") == "pending"
    assert set(states.values()) == {"inactive"}, states
