"""The simulation: what one replica does by hand, what holds for any trace, what each policy promises."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import simpy

from benchmarks.scaling.autoscaling import Autoscaler, Fixed, InHand, Policy, Utilization
from benchmarks.scaling.experiments import QUICK, compare_routing, compare_scaling, parameters
from benchmarks.scaling.replica import Replica
from benchmarks.scaling.report import write
from benchmarks.scaling.routing import ROUTERS, LeastRequests, PromptAffinity, RoundRobin
from benchmarks.scaling.service import Service
from benchmarks.scaling.simulation import Outcome, quantile, simulate
from benchmarks.scaling.trace import Arrival, Traffic

SERVICE = Service()
TRAFFIC = Traffic(rate=20, duration=60, period=60, bursts=1, burst_s=10, prompts=300)


def fixed(count: int) -> Autoscaler:
    return Autoscaler(Fixed(count), count, count)


def run(
    trace: list[Arrival],
    count: int = 10,
    policy: str = "least requests",
    service: Service = SERVICE,
    scaler: Autoscaler | None = None,
    seed: int = 0,
) -> Outcome:
    return simulate(trace, service, ROUTERS[policy], scaler or fixed(count), count, seed=seed)


# One replica. P(n) is the prefill of n tokens, F(n) a forward of n rows; an answer takes 64.

P = SERVICE.prefill_s
F = SERVICE.forward_s


def test_a_lone_request_takes_its_prefill_and_its_forwards() -> None:
    outcome = run([Arrival(1.0, 0, 512)], 1)
    assert outcome.latencies == [pytest.approx(P(512) + 64 * F[1])]
    assert outcome.waits == [0.0]
    assert outcome.busy_s == pytest.approx(outcome.latencies[0])
    assert outcome.replica_s == pytest.approx(1.0 + outcome.latencies[0])


def test_rows_share_forwards_and_a_prefill_holds_up_all() -> None:
    outcome = run([Arrival(0.0, 0, 512), Arrival(F[1] / 2, 1, 256)], 1)
    first = P(512) + F[1] + P(256) + 63 * F[2]
    assert outcome.latencies == pytest.approx([first, first + F[1] - F[1] / 2])
    assert outcome.waits == pytest.approx([0.0, P(512) + F[1] / 2])  # It joins between two forwards.


def test_a_known_prompt_is_not_computed_again() -> None:
    outcome = run([Arrival(0.0, 0, 512), Arrival(100.0, 0, 512)], 1)
    assert outcome.hits == 1
    assert outcome.latencies[0] - outcome.latencies[1] == pytest.approx(P(512))


def test_the_cache_forgets_the_prompt_that_was_used_least_recently() -> None:
    tokens = SERVICE.cached_tokens // 2  # So two fit, and a third does not.
    order = [0, 1, 0, 2, 0, 1]
    outcome = run([Arrival(1000.0 * at, name, tokens) for at, name in enumerate(order)], 1)
    assert outcome.hits == 2  # 0 twice; 1 had to go for 2.


def test_a_full_batch_waits_and_a_full_queue_refuses() -> None:
    small = replace(SERVICE, max_num_seqs=2, max_waiting=1)
    outcome = run([Arrival(0.0, number, 64) for number in range(5)], 1, service=small)
    assert (len(outcome.latencies), outcome.refused) == (3, 2)
    assert min(outcome.waits) == 0.0
    # The third gets the place of the first, which ran alone for a forward.
    assert max(outcome.waits) == pytest.approx(2 * P(64) + F[1] + 63 * F[2])


# Any trace.


@pytest.mark.parametrize("policy", ROUTERS)
@pytest.mark.parametrize("rate", [5, 80])
def test_every_request_is_finished_once_or_refused(policy: str, rate: float) -> None:
    trace = replace(TRAFFIC, rate=rate).draw(3)
    service = replace(SERVICE, max_waiting=4)
    outcome = run(trace, 8, policy, service)
    assert outcome.arrived == len(trace) > 200
    assert len(outcome.latencies) + outcome.refused == len(trace)
    assert (outcome.refused > 0) == (rate == 80)
    assert min(outcome.latencies) >= 64 * service.forward_s[1] * (1 - 1e-9)
    assert 0 < outcome.busy_s <= outcome.replica_s


@pytest.mark.parametrize("policy", ROUTERS)
def test_a_seed_gives_one_outcome(policy: str) -> None:
    first, again, other = (run(TRAFFIC.draw(seed), policy=policy, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.latencies != other.latencies


@pytest.mark.parametrize("policy", ROUTERS)
def test_more_load_is_slower_and_more_replicas_are_faster(policy: str) -> None:
    loads = [quantile(run(replace(TRAFFIC, rate=rate).draw(5), 10, policy).latencies, 0.99) for rate in (5, 40)]
    assert loads == sorted(loads)
    assert loads[0] < loads[-1]
    fleets = [quantile(run(replace(TRAFFIC, rate=30).draw(5), count, policy).latencies, 0.99) for count in (8, 32)]
    assert fleets == sorted(fleets, reverse=True)
    assert fleets[0] > fleets[-1]


def test_a_fleet_serves_what_the_plan_says_and_no_more() -> None:
    """Saturated, with prompts of one length that never repeat."""
    service = replace(SERVICE, max_waiting=10**6)
    trace = [Arrival(0.0, number, 768) for number in range(640)]
    outcome = run(trace, 2, "round robin", service)
    rate = len(trace) / max(outcome.latencies)
    assert rate <= 2 * service.requests_per_s(768) * (1 + 1e-9)
    assert rate == pytest.approx(2 * service.requests_per_s(768), rel=0.1)


# Traffic.


def test_traffic_follows_its_wave_and_bursts() -> None:
    calm = Traffic(rate=100, duration=100, period=100, swing=0.8, bursts=0).draw(1)
    assert len(calm) == pytest.approx(100 * 100, rel=0.05)
    middle = sum(1 for arrival in calm if 25 <= arrival.at < 75)
    # The integral of the wave's upper half: a half and swing / pi.
    assert middle / len(calm) == pytest.approx(0.5 + 0.8 / 3.1416, abs=0.03)
    burst = Traffic(rate=100, duration=100, swing=0, bursts=1, burst_s=100, burst_factor=3).draw(1)
    assert len(burst) == pytest.approx(300 * 100, rel=0.05)
    assert [arrival.at for arrival in burst] == sorted(arrival.at for arrival in burst)


def test_a_prompt_has_one_length_and_few_are_asked_often() -> None:
    trace = Traffic(rate=200, duration=50, prompts=1000, skew=1.0).draw(2)
    assert len({(arrival.prompt, arrival.tokens) for arrival in trace}) == len({arrival.prompt for arrival in trace})
    often = Counter(arrival.prompt for arrival in trace)
    assert often[0] / len(trace) == pytest.approx(1 / 7.485, abs=0.02)  # 1 / the 1000th harmonic number.


# Routing.


def fleet(count: int) -> list[Replica]:
    """Replicas that take requests and in which no time passes."""
    environment = simpy.Environment()
    return [Replica(number, environment, SERVICE, print) for number in range(count)]


def test_round_robin_is_even() -> None:
    replicas = fleet(4)
    router = RoundRobin(random.Random(0))
    chosen = Counter(router.choose(Arrival(0, 0, 1), replicas).number for _ in range(40))
    assert set(chosen.values()) == {10}


def test_least_requests_finds_the_idle_one() -> None:
    replicas = fleet(4)
    for replica in replicas[:3]:
        replica.offer(Arrival(0, 0, 64))
    assert {LeastRequests(random.Random(s)).choose(Arrival(0, 0, 1), replicas).number for s in range(9)} == {3}


def test_affinity_keeps_a_prompt_together_within_its_bound() -> None:
    replicas = fleet(10)
    router = PromptAffinity(random.Random(0), bound=1.5)
    first = router.choose(Arrival(0, 7, 64), replicas)
    assert router.choose(Arrival(0, 7, 64), replicas) is first
    for count in range(1, 301):  # One prompt alone: it must spread, and no further than it has to.
        router.choose(Arrival(0, 7, 64), replicas).offer(Arrival(0, 7, 64))
        assert max(replica.in_hand for replica in replicas) <= -(-1.5 * count // 10)
    assert first.in_hand == max(replica.in_hand for replica in replicas)


def test_affinity_moves_few_prompts_when_a_replica_leaves() -> None:
    replicas = fleet(10)
    router = PromptAffinity(random.Random(0))

    def homes(fleet: list[Replica]) -> list[int]:
        return [router.choose(Arrival(0, name, 64), fleet).number for name in range(500)]

    before, after = homes(replicas), homes(replicas[:-1])
    assert all(old == new for old, new in zip(before, after, strict=True) if old != 9)
    assert 9 in before


def test_affinity_finds_more_prompts_cached() -> None:
    trace = replace(TRAFFIC, prompts=2000).draw(4)
    shares = {policy: run(trace, 20, policy).hits for policy in ROUTERS}
    assert shares["prompt affinity"] > 1.5 * max(hits for name, hits in shares.items() if name != "prompt affinity")


# Autoscaling.


def test_the_metrics_of_the_policies() -> None:
    assert InHand(8).wanted(replicas=4, in_hand=81, busy=1.0) == 11
    assert Utilization(0.7).wanted(replicas=7, in_hand=10_000, busy=1.0) == 10  # It does not see the queue.
    assert Utilization(0.7).wanted(replicas=10, in_hand=10, busy=0.14) == 2


def test_growth_doubles_in_a_minute_and_shrinking_waits() -> None:
    scaler = Autoscaler(InHand(8), 1, 100)
    counts = [4]
    for look in range(1, 9):  # Two minutes of far more than enough.
        counts.append(scaler.decide(15.0 * look, counts[-1], 10_000, 1.0))
    assert counts == sorted(counts)
    assert counts[4] == 8
    assert counts[8] <= 32
    held = counts[-1]
    for look in range(9, 9 + 40):  # Ten minutes of nothing: what was wanted before still counts.
        assert scaler.decide(15.0 * look, held, 0, 0.0) == held
    down = scaler.decide(15.0 * 60, held, 0, 0.0)
    assert down == min(held - 1, int(0.9 * held))


def test_a_wobble_within_a_tenth_changes_nothing() -> None:
    assert Autoscaler(InHand(8), 1, 100).decide(0.0, 20, 8 * 21, 1.0) == 20


@pytest.mark.parametrize("policy", [InHand(8), Utilization(0.7)])
def test_replicas_that_come_and_go_lose_nothing(policy: Policy) -> None:
    traffic = Traffic(rate=20, duration=600, period=600, swing=0.95, bursts=0)
    scaler = Autoscaler(policy, 2, 60, down_window_s=30.0, down_s=15.0)
    outcome = run(traffic.draw(6), 4, scaler=scaler)
    counts = [replicas for _, replicas, _ in outcome.timeline]
    assert max(counts) > 8
    assert counts[-1] < max(counts)
    assert len(outcome.latencies) + outcome.refused == outcome.arrived
    assert outcome.replica_s < max(counts) * 700


def test_a_run_writes_its_result(tmp_path: Path) -> None:
    result = {
        "parameters": parameters(QUICK, SERVICE, 0),
        "routing": list(compare_routing(QUICK, SERVICE, 0)),
        "autoscaling": list(compare_scaling(QUICK, SERVICE, 0)),
    }
    write(tmp_path, "python -m benchmarks.scaling --quick", "2026-01-01", result)
    page = (tmp_path / "README.md").read_text()
    assert all(f"| {name} |" in page for name in ROUTERS)
    assert "no server ran" in page
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "result.json", "routing.png", "autoscaling.png"}
