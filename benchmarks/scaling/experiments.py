"""The two comparisons: routing on a fleet of fixed size, autoscaling on a wave with bursts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.scaling.autoscaling import Autoscaler, Fixed, InHand, Policy, Utilization
from benchmarks.scaling.routing import ROUTERS, LeastRequests
from benchmarks.scaling.service import Service
from benchmarks.scaling.simulation import Outcome, quantile, simulate
from benchmarks.scaling.trace import Traffic

LOADS = (0.7, 0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the simulation.

    Attributes:
        replicas: size of the fixed fleet for comparing routing.
        routing_s, wave_s: seconds of the two traces.
        wave_rate: requests/s, mean of the wave.
        least, most: replicas that autoscaling chooses between.
        fixed: replicas of the fleet without autoscaling, about as many as the bursts need.
    """

    replicas: int
    routing_s: float
    wave_s: float
    wave_rate: float
    least: int
    most: int
    fixed: int


FULL = Size(replicas=200, routing_s=60.0, wave_s=3600.0, wave_rate=50.0, least=5, most=100, fixed=40)
QUICK = Size(replicas=10, routing_s=10.0, wave_s=300.0, wave_rate=4.0, least=2, most=10, fixed=4)


def routing_traffic(size: Size, service: Service, load: float) -> Traffic:
    """The traffic for ``load``: the mean rate divided by the fleet's capacity without cached prompts."""
    one = service.requests_per_s(Traffic(1, 1).mean_tokens)
    return Traffic(
        rate=load * size.replicas * one,
        duration=size.routing_s,
        period=size.routing_s,
        swing=0.2,
        bursts=2,
        burst_s=size.routing_s / 12,
    )


def wave_traffic(size: Size) -> Traffic:
    """One whole wave, compressed into the trace, with bursts of one minute."""
    return Traffic(rate=size.wave_rate, duration=size.wave_s, period=size.wave_s, swing=0.6, bursts=3, burst_s=60.0)


def compare_routing(size: Size, service: Service, seed: int) -> Iterator[dict[str, Any]]:
    """Yields one row per load and policy; all policies of a load get the same trace."""
    for load in LOADS:
        trace = routing_traffic(size, service, load).draw(seed)
        for name, router in ROUTERS.items():
            scaler = Autoscaler(Fixed(size.replicas), size.replicas, size.replicas)
            outcome = simulate(trace, service, router, scaler, size.replicas, seed=seed)
            yield {"load": load, "policy": name, **summary(outcome)}


def scaling_policies(size: Size) -> dict[str, Policy]:
    """The policies that are compared on the wave."""
    return {
        f"{size.fixed} replicas always": Fixed(size.fixed),
        "waiting + running, 8 per replica": InHand(8),
        "waiting + running, 32 per replica": InHand(32),
        "utilization, 70%": Utilization(0.7),
    }


def compare_scaling(size: Size, service: Service, seed: int) -> Iterator[dict[str, Any]]:
    """Yields one row per policy on the same trace, with its timeline."""
    trace = wave_traffic(size).draw(seed)
    for name, policy in scaling_policies(size).items():
        fixed = isinstance(policy, Fixed)
        least, most = (size.fixed, size.fixed) if fixed else (size.least, size.most)
        scaler = Autoscaler(policy, least, most)
        start = size.fixed if fixed else 2 * size.least
        outcome = simulate(trace, service, LeastRequests, scaler, start, seed=seed)
        yield {"policy": name, **summary(outcome), "timeline": outcome.timeline}


def summary(outcome: Outcome) -> dict[str, Any]:
    """Figures of an outcome: seconds, shares and counts."""
    finished = len(outcome.latencies)
    return {
        "arrived": outcome.arrived,
        "finished": finished,
        "refused": outcome.refused,
        "hit_share": outcome.hits / max(1, finished),
        "latency_p50_s": quantile(outcome.latencies, 0.5),
        "latency_p99_s": quantile(outcome.latencies, 0.99),
        "wait_p99_s": quantile(outcome.waits, 0.99),
        "busy_share": outcome.busy_s / outcome.replica_s,
        "replica_hours": outcome.replica_s / 3600,
    }


def parameters(size: Size, service: Service, seed: int) -> dict[str, Any]:
    """All parameters that determine the rows."""
    said = asdict(service)
    said.pop("_prefill")
    return {
        "seed": seed,
        "service": said,
        "forward_s": {rows: service.forward_s[rows] for rows in (1, 8, 16, 32, 64) if rows <= service.max_num_seqs},
        "requests_per_s_of_a_replica": service.requests_per_s(Traffic(1, 1).mean_tokens),
        "cached_tokens": service.cached_tokens,
        "size": asdict(size),
        "wave": asdict(wave_traffic(size)),
        "routing": asdict(routing_traffic(size, service, 1.0)),
    }
