"""Detokenizer and stop matcher: what is streamed, joined, is the text; properties over random input."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from cdlm.server.text import Detokenizer
from cdlm.server.text.stops import StopMatcher
from tests.support.server.fakes import make_tokenizer

TOKENIZER = make_tokenizer()
IDS = st.lists(st.integers(min_value=0, max_value=TOKENIZER.get_vocab_size() - 1), max_size=40)
SHORT = st.text(alphabet="ab<", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<", min_size=1, max_size=4), min_size=1, max_size=4)


def decode(ids: Sequence[int]) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=True)


def cut(items: list[int], borders: list[int]) -> list[list[int]]:
    edges = [0, *sorted(b % (len(items) + 1) for b in borders), len(items)]
    return [items[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(IDS, st.lists(st.integers(0, 100), max_size=6))
@settings(deadline=None)
def test_pieces_join_to_the_whole_text(ids: list[int], borders: list[int]) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.feed(piece) for piece in cut(ids, borders)]
    assert "".join(pieces) + detokenizer.flush() == decode(ids)


@given(st.text(max_size=20))
@settings(deadline=None)
def test_no_character_is_split(text: str) -> None:
    detokenizer = Detokenizer(decode)
    shown = ""
    for token in TOKENIZER.encode(text).ids:
        shown += detokenizer.feed([token])
        assert text.startswith(shown)
    assert shown + detokenizer.flush() == text


def reference(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the stop that completes first, and that stop, character by character."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(SHORT, STOPS, st.lists(st.integers(0, 100), max_size=8))
def test_stops_match_the_reference_however_the_text_is_cut(text: str, stops: list[str], borders: list[int]) -> None:
    matcher = StopMatcher(stops)
    edges = [0, *sorted(b % (len(text) + 1) for b in borders), len(text)]
    shown = "".join(matcher.feed(text[a:b]) for a, b in zip(edges, edges[1:], strict=False))
    assert (shown + matcher.flush(), matcher.matched) == reference(text, stops)


@given(SHORT, STOPS)
def test_only_a_possible_start_of_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = matcher.feed(text)
    held = text[len(shown) :]
    if not matcher.matched:
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
        assert all(
            not stop.startswith(text[start:])
            for start in range(len(shown))
            for stop in stops
            if len(stop) > len(text) - start
        )
