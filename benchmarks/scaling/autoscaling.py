"""Computes the number of replicas from a metric, as Kubernetes' HorizontalPodAutoscaler does."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol


class Policy(Protocol):
    """A metric and its target; ``in_hand`` are all requests waiting and running, ``busy`` the share of time in use."""

    def wanted(self, replicas: int, in_hand: int, busy: float) -> int: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed number of replicas."""

    replicas: int

    def wanted(self, replicas: int, in_hand: int, busy: float) -> int:  # noqa: ARG002
        return self.replicas


@dataclass(frozen=True, slots=True)
class InHand:
    """As many replicas as bring waiting plus running requests to ``target`` per replica."""

    target: float

    def wanted(self, replicas: int, in_hand: int, busy: float) -> int:  # noqa: ARG002
        return math.ceil(in_hand / self.target)


@dataclass(frozen=True, slots=True)
class Utilization:
    """As many replicas as bring the share of time in which a device computes (at most 1) to ``target``."""

    target: float

    def wanted(self, replicas: int, in_hand: int, busy: float) -> int:  # noqa: ARG002
        # Rounded, since 10 * 0.14 / 0.7 is a little more than 2.
        return math.ceil(round(replicas * busy / self.target, 9))


@dataclass(slots=True)
class Autoscaler:
    """A policy with the limits and windows of ``deploy/kubernetes/keda.yaml``.

    Attributes:
        least, most: limits of the number of replicas.
        look_s: seconds between evaluations.
        up_s: seconds in which the replicas may double, or two be added.
        down_window_s: seconds for which fewer replicas must have been enough before a decrease.
        down_s: seconds in which a tenth of the replicas, or one, may be removed.
    """

    policy: Policy
    least: int
    most: int
    look_s: float = 15.0
    up_s: float = 60.0
    down_window_s: float = 600.0
    down_s: float = 120.0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _counts: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, replicas: int, in_hand: int, busy: float) -> int:
        """The number of replicas to have; ``replicas`` includes those that are loading."""
        wanted = self.policy.wanted(replicas, in_hand, busy)
        # Within a tenth the HorizontalPodAutoscaler does nothing.
        if abs(wanted - replicas) <= 0.1 * replicas:
            wanted = replicas
        wanted = min(self.most, max(self.least, wanted))
        self._counts.append((now, replicas))
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self.down_window_s:
            self._wanted.popleft()
        while self._counts[0][0] < now - max(self.up_s, self.down_s):
            self._counts.popleft()
        if wanted > replicas:
            before = self._count_since(now - self.up_s)
            return max(replicas, min(wanted, max(2 * before, before + 2)))
        before = self._count_since(now - self.down_s)
        lowest = min(before - 1, math.floor(0.9 * before))
        return min(replicas, max(lowest, *(count for _, count in self._wanted)))

    def _count_since(self, start: float) -> int:
        return next(count for at, count in self._counts if at >= start)
