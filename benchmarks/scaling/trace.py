"""Synthetic traffic: a day's wave with bursts on it, prompts of which few are asked often. Seeded; times in seconds."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: its arrival time, its prompt, and the prompt's length in tokens."""

    at: float
    prompt: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """The parameters of a trace.

    Attributes:
        rate: requests/s, mean of the wave.
        duration: seconds of the trace.
        period: seconds of one wave; a real day has 86,400, a trace of seconds to minutes a shorter one.
        swing: how far the wave goes above and below its mean, as a share of it.
        bursts: number of bursts.
        burst_s, burst_factor: how long each lasts and by what it multiplies the rate.
        prompts, skew: number of distinct prompts, and Zipf's exponent of their frequencies.
        mean_tokens, max_tokens: length of prompts, exponentially distributed.
    """

    rate: float
    duration: float
    period: float = 86_400.0
    swing: float = 0.5
    bursts: int = 2
    burst_s: float = 30.0
    burst_factor: float = 1.5
    prompts: int = 20_000
    skew: float = 0.9
    mean_tokens: int = 768
    max_tokens: int = 2048

    def wave(self, at: float) -> float:
        """Requests/s at a time, bursts aside; lowest at the start."""
        return self.rate * (1 - self.swing * math.cos(2 * math.pi * at / self.period))

    def draw(self, seed: int) -> list[Arrival]:
        """A trace; the same for the same seed. Poisson arrivals by thinning (Lewis and Shedler 1979)."""
        rng = random.Random(seed)
        lengths = [
            max(16, min(self.max_tokens, int(rng.expovariate(1 / self.mean_tokens)))) for _ in range(self.prompts)
        ]
        total, shares = 0.0, []
        for rank in range(1, self.prompts + 1):
            total += rank**-self.skew
            shares.append(total)
        starts = sorted(rng.uniform(0, max(0.0, self.duration - self.burst_s)) for _ in range(self.bursts))
        peak = self.rate * (1 + self.swing) * max(1.0, self.burst_factor)
        times: list[float] = []
        at = rng.expovariate(peak)
        while at < self.duration:
            rate = self.wave(at)
            if any(start <= at < start + self.burst_s for start in starts):
                rate *= self.burst_factor
            if rng.random() * peak < rate:
                times.append(at)
            at += rng.expovariate(peak)
        names = rng.choices(range(self.prompts), cum_weights=shares, k=len(times))
        return [Arrival(at, name, lengths[name]) for at, name in zip(times, names, strict=True)]
