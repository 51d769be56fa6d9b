"""What a step of the slow decoder writes under a grammar."""

import math
from typing import Protocol

from torch import Tensor


class OracleGrammar(Protocol):
    """The interface of a grammar without state: every call gets all tokens written so far."""

    def forced(self, written: list[int]) -> list[int]:
        """Tokens that must come next."""

    def admitted(self, written: list[int]) -> set[int]:
        """Tokens that may come next, end tokens included where the text may end."""

    def closes(self, written: list[int], room: int) -> list[int] | None:
        """At most ``room`` tokens that end the text, end token included; ``None`` if there are none."""


def constrain(
    grammar: OracleGrammar,
    written: list[int],
    choices: list[int],
    passing: list[bool],
    logits: list[Tensor],
    unedited: list[Tensor],
    room: int,
    stops: tuple[int, ...],
    at_least: int,
) -> list[int]:
    """The tokens that a step finalizes in a row with a grammar, from the frontier on.

    ``room`` is how many tokens the answer may still have; ``at_least`` positions take what the grammar leaves them.
    """
    found: list[int] = []
    while len(found) < min(len(choices), room):
        here = len(found)
        text = written + found
        forced = grammar.forced(text)
        if forced:
            token = forced[0]
            if grammar.closes([*text, token], room - here - 1) is None:  # So it is written in fewer tokens.
                token = (grammar.closes(text, room - here) or [token])[0]
            found.append(token)
            continue
        admitted = grammar.admitted(text)
        token = choices[here]
        if here < at_least:
            ranked = sorted(admitted, key=lambda token: (-float(logits[here][token]), token))
            if math.isinf(logits[here][ranked[0]]):
                ranked = sorted(admitted, key=lambda token: (-float(unedited[here][token]), token))
            token = ranked[0]
            if token not in stops and grammar.closes([*text, token], room - here - 1) is None:
                token = (grammar.closes(text, room - here) or [token])[0]
        else:
            closes = token in stops or grammar.closes([*text, token], room - here - 1) is not None
            if not (passing[here] and token in admitted and closes):
                break
        found.append(token)
        if token in stops:
            break
    return found
