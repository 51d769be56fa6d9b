"""Requests that replace decided tokens, and how many tokens the slow decoder replaces for them."""

from pathlib import Path

import msgspec

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import GenerateRequest
from tests.support.engines import oracle_answer, random_requests
from tests.support.models.checkpoints import AXES

# The axes whose blocks can have tokens replaced.
REPLACING_AXES = [name for name, (_, manifest) in AXES.items() if manifest.get("first_token") != "autoregressive"]


def replacing_requests(count: int, seed: int, *ways: DecodingParams) -> list[GenerateRequest]:
    """Random requests, with ``ways`` in turn if there are any; three of four replace, above different thresholds."""
    return [
        msgspec.structs.replace(
            request,
            params=(ways[index % len(ways)] if ways else request.params).model_copy(
                update={"edit_threshold": (0.2, 0.05, 0.5, None)[index % 4]}
            ),
        )
        for index, request in enumerate(random_requests(count, seed))
    ]


def replaced(directory: Path, requests: list[GenerateRequest]) -> int:
    """The tokens that the slow decoder replaces, those of later blocks included."""
    return sum(oracle_answer(directory, request).replaced for request in requests)
