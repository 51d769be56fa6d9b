"""The confidence threshold of requests that set none, lowered while many others wait (docs/operations.md)."""

from collections.abc import Sequence

import msgspec

from cdlm.server.openai.answers.choice import Choice
from cdlm.server.services import Services


def choose_threshold(services: Services, choices: Sequence[Choice]) -> float | None:
    """Sets the threshold of one request's ``choices`` by the number of sequences that wait now.

    Returns the threshold that the request has, its own or the chosen one; ``None`` without --threshold-under-load, and
    for other rules than the threshold.
    """
    settings, ready, params = services.settings, services.engine.ready, choices[0].request.params
    low = settings.threshold_under_load
    if low is None or ready is None or params.rule(settings.default_rule) != "threshold":
        return None
    if params.confidence_threshold is not None:
        return params.confidence_threshold
    begin = settings.load_begins_at
    end = begin + services.rows if settings.load_full_at is None else settings.load_full_at
    waiting = max(0, services.gate.in_flight - services.rows)
    threshold = threshold_under_load(ready.confidence_threshold, low, waiting, begin, end)
    for choice in choices:
        chosen = choice.request.params.model_copy(update={"confidence_threshold": threshold})
        choice.request = msgspec.structs.replace(choice.request, params=chosen)
    services.metrics.threshold_chosen(threshold)
    return threshold


def threshold_under_load(own: float, low: float, waiting: int, begin: int, end: int) -> float:
    """The threshold while ``waiting`` sequences wait.

    Up to ``begin`` it is ``own``, from ``end`` on ``low``, linear in between; never above ``own``.
    """
    share = min(1.0, max(0.0, (waiting - begin) / (end - begin)))
    return own + share * (min(low, own) - own)
