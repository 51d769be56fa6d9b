"""The text of one answer as its tokens come: whole characters, cut at stop strings, with each token's place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdlm.scheduler.messages import BlockOutput, TokenLogprob
from cdlm.server.text import Detokenizer, TextCodec
from cdlm.server.text.stops import StopMatcher
from cdlm.server.text.update import PlacedToken


def place_prompt(
    ids: Sequence[int], scores: Sequence[TokenLogprob], decode: Callable[[Sequence[int]], str]
) -> list[PlacedToken]:
    """Where each token of an echoed prompt lies; the first, before which there is nothing, has no score."""
    detokenizer, place = Detokenizer(decode), 0
    placed = []
    for token, score in zip(ids, [None, *scores], strict=True):
        placed.append(PlacedToken(place, token, score))
        place += len(detokenizer.feed([token]))
    return placed


@dataclass(frozen=True, slots=True)
class TextRules:
    """What the text of an answer shows.

    Attributes:
        stops: texts that end it.
        keep_stop: whether the one that ended it is shown.
        keep_special: whether special tokens are, by their names.
    """

    stops: Sequence[str] = ()
    keep_stop: bool = False
    keep_special: bool = False


class AnswerText:
    """Turns blocks into pieces of text.

    Args:
        codec: decodes the ids.
        prompt: ids before the answer.
        rules: what the text shows.
        start: characters of the returned text that lie before the answer.
    """

    def __init__(self, codec: TextCodec, prompt: Sequence[int], rules: TextRules, start: int = 0) -> None:
        self._detokenizer = codec.detokenizer(prompt, keep_special=rules.keep_special)
        self._stops = StopMatcher(rules.stops, keep=rules.keep_stop)
        self._by_token = bool(rules.stops)
        self._place = start

    @property
    def stop(self) -> str | None:
        """The stop string that completed, if one did."""
        return self._stops.matched

    def take(self, block: BlockOutput) -> tuple[str, int, list[PlacedToken]]:
        """Text that is certain now, how many of the block's tokens count, and where those with scores lie.

        A token that ended the request has a place but is not counted. Places are those in the text before a stop
        string is cut off.
        """
        text, kept, placed = "", len(block.token_ids), []
        if self._by_token or block.logprobs is not None:
            # Token by token, so that it is known where each begins and which one completed a stop string.
            scores: Sequence[TokenLogprob | None] = block.logprobs or [None] * kept
            for count, (token, score) in enumerate(zip(block.token_ids, scores, strict=False), 1):
                placed.append(PlacedToken(self._place, token, score))
                piece = self._detokenizer.feed([token])
                self._place += len(piece)
                text += self._stops.feed(piece)
                if self.stop is not None:
                    kept = count
                    break
        else:
            text = self._detokenizer.feed(block.token_ids)
        if block.finish_reason is not None and self.stop is None:
            rest = self._detokenizer.flush()
            self._place += len(rest)
            text += self._stops.feed(rest)
            text += self._stops.flush()
            placed += [PlacedToken(self._place, end.token_id, end) for end in (block.logprobs or [])[kept:]]
        return text, kept, placed if block.logprobs is not None else []
