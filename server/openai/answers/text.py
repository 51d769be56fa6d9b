"""Text of one streamed answer: whole characters, cut at stop strings, with the offset of each token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdlm.scheduler.messages import BlockOutput, TokenLogprob
from cdlm.server.text import Detokenizer, TextCodec
from cdlm.server.text.stops import StopMatcher
from cdlm.server.text.update import PlacedToken


def place_prompt(
    ids: Sequence[int], scores: Sequence[TokenLogprob], decode: Callable[[Sequence[int]], str]
) -> list[PlacedToken]:
    """The tokens of an echoed prompt with their offsets; the first has no score."""
    detokenizer, place = Detokenizer(decode), 0
    placed = []
    for token, score in zip(ids, [None, *scores], strict=True):
        placed.append(PlacedToken(place, token, score))
        place += len(detokenizer.feed([token]))
    return placed


@dataclass(frozen=True, slots=True)
class TextRules:
    """How the text of an answer is shown.

    Attributes:
        stops: stop strings.
        keep_stop: whether the stop string that ended it is shown.
        keep_special: whether special tokens are shown, by their names.
    """

    stops: Sequence[str] = ()
    keep_stop: bool = False
    keep_special: bool = False


class AnswerText:
    """Decodes the blocks of an answer to pieces of text.

    Args:
        codec: decodes the ids.
        prompt: ids before the answer.
        rules: how the text is shown.
        start: number of characters before the answer in the returned text.
    """

    def __init__(self, codec: TextCodec, prompt: Sequence[int], rules: TextRules, start: int = 0) -> None:
        self._detokenizer = codec.detokenizer(prompt, keep_special=rules.keep_special)
        self._stops = StopMatcher(rules.stops, keep=rules.keep_stop)
        self._by_token = bool(rules.stops)
        self._place = start

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer, if any."""
        return self._stops.matched

    def take(self, block: BlockOutput) -> tuple[str, int, list[PlacedToken]]:
        """Adds a block; returns its certain text, how many of its tokens count, and the offsets of its scored tokens.

        A token that ended the request has an offset but does not count. Offsets refer to the text before a stop string
        is removed.
        """
        text, kept, placed = "", len(block.token_ids), []
        if self._by_token or block.logprobs is not None:
            # Token by token, for each token's offset and for the one that completes a stop string.
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
