"""Scenes for the scheduler's benchmark: running and waiting requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import GenerateRequest

# One token per step: running requests last as long as the measurement.
_SLOW = DecodingParams(confidence_threshold=1.0)


def _prompt(length: int, number: int) -> list[int]:
    return [3 + (7 * position + number * (position < 8)) % 1000 for position in range(length)]


def _request(name: str, length: int, number: int, max_tokens: int = 256, **fields: Any) -> GenerateRequest:
    return GenerateRequest(
        request_id=f"{name}{number}",
        prompt_ids=_prompt(length, number),
        max_tokens=max_tokens,
        **{"ignore_eos": True, "params": _SLOW, **fields},
    )


@dataclass(frozen=True)
class Scene:
    """Starts ``running`` requests and runs ``warm_up`` steps; then other requests wait."""

    name: str
    waits: Callable[[int], GenerateRequest]
    running: int = 8
    warm_up: int = 3
    runs: Callable[[int], GenerateRequest] = lambda number: _request("run", 16, number)
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The engine's options."""
        return {"model": str(BUNDLED_STUDENT), "threads": 1, "max_num_seqs": 8, **self.limits}


_PAGE = (
    2 * 6 * 32 * 2 * 32 * 4
)  # Bytes of keys and values of a page: layers, positions, heads and width of the student.

SCENES = (
    Scene("all rows taken", lambda number: _request("wait", 256, number)),
    Scene("all rows taken, 50 clients", lambda number: _request("wait", 256, number, client=str(number % 50))),
    Scene(
        "all rows taken, grammars",
        lambda number: _request("wait", 64, number, grammar=f'start: "a{number % 100}"', ignore_eos=False),
    ),
    Scene(
        "too few pages for the first",
        lambda number: _request("wait", 1000, number),
        running=2,
        warm_up=60,
        runs=lambda number: _request("run", 900, number + 500),
        limits={"max_num_seqs": 64, "kv_cache_memory": 80 * _PAGE},
    ),
    Scene(
        "one prompt of 1,500 tokens for all",
        lambda number: _request(f"wait{number}-", 1500, 0),
        limits={"max_num_seqs": 16, "max_prefill_tokens": 128},
    ),
    Scene(
        "short answers, one leaves and one joins at every step",
        lambda number: _request("wait", 64, number, max_tokens=8, params=DecodingParams(confidence_threshold=0.0001)),
        running=0,
    ),
    Scene("prompts of 1,500 tokens", lambda number: _request("wait", 1500, number), limits={"max_num_seqs": 16}),
)
