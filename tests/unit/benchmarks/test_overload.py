"""The simulation of a replica under load."""

import pytest

from benchmarks.overload import Curve, simulate
from benchmarks.scaling.service import Service

CURVE = Curve([0.5, 0.9], [8.0, 4.0], [0.8, 0.9])


def test_a_request_alone_takes_its_forwards() -> None:
    service = Service(max_num_seqs=4)
    found = simulate([0.0, 1000.0], service, CURVE, 0.5)
    assert found.latencies == pytest.approx([service.forwards * service.forward_s[1]] * 2)
    assert found.thresholds == [0.9, 0.9]


def test_who_waits_gets_a_lower_threshold_and_ends_earlier() -> None:
    service = Service(max_num_seqs=4)
    together = [0.0] * 20
    plain, lowered = (simulate(together, service, CURVE, low) for low in (None, 0.5))
    assert plain.thresholds == [0.9] * 20
    # Nobody waits before the batch is full; four behind it the threshold is at its lowest.
    assert lowered.thresholds == pytest.approx([0.9] * 5 + [0.8, 0.7, 0.6] + [0.5] * 12)
    assert max(lowered.latencies) < 0.7 * max(plain.latencies)
