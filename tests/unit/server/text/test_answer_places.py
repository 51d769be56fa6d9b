"""Where tokens lie in an answer and where stop strings cut it, whatever the tokenizer does at the start of a text."""

import pytest

from cdlm.scheduler.messages import BlockOutput, TokenLogprob
from cdlm.server.openai.answers.text import AnswerText, TextRules
from cdlm.server.text import TextCodec
from tests.unit.server.text.test_tokenizer_kinds import TEMPLATE, loaded

KINDS = ["byte_level", "qwen_like", "metaspace_first", "metaspace_always", "metaspace_never", "llama_like"]
TEXT = "zip zap on the mat \u4f60 hello world"


def parts(codec: TextCodec) -> tuple[str, str, list[int], list[int]]:
    """A prompt and an answer that is cut off it where a token ends, and the ids of both."""
    [whole] = codec._encoder.encode([TEXT], add_special_tokens=False)
    for place in range(len(whole), 0, -1):
        prompt = codec.decode(whole[:place])
        if TEXT.startswith(prompt) and len(prompt) <= len("zip zap"):
            return prompt, TEXT[len(prompt) :], whole[:place], whole[place:]
    raise AssertionError


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_offsets_fit_the_text(kind: str, size: int) -> None:
    _, codec = loaded(kind, TEMPLATE)
    before, expected, prompt, ids = parts(codec)
    answer = AnswerText(codec, prompt, TextRules(), len(before))
    text, placed = "", []
    for start in range(0, len(ids), size):
        block = ids[start : start + size]
        logprobs = [TokenLogprob(token, -1.0, 1, [], []) for token in block]
        end = "length" if start + size >= len(ids) else None
        piece, kept, places = answer.take(
            BlockOutput(request_id="0", token_ids=block, logprobs=logprobs, finish_reason=end)
        )
        assert kept == len(block)
        text, placed = text + piece, placed + places
    assert text == expected
    whole = before + text
    ends = [token.offset for token in placed[1:]] + [len(whole)]
    for token, after in zip(placed, ends, strict=True):
        own = codec.token_bytes(token.token_id)
        shown = whole[token.offset : after]
        # A part of a character is shown with the part that completes it.
        assert shown.encode() == own or len(own) == 1 and own > b"\x7f", (shown, own)


@pytest.mark.parametrize("stop", [" on", "on the", "mat \u4f60", " hello", "o w", "\u4f60", "d"])
@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_stop_strings_cut_the_text_that_is_shown(kind: str, size: int, stop: str) -> None:
    _, codec = loaded(kind, TEMPLATE)
    before, expected, prompt, ids = parts(codec)
    answer = AnswerText(codec, prompt, TextRules(stops=(stop,)), len(before))
    text = ""
    for start in range(0, len(ids), size):
        end = "length" if start + size >= len(ids) else None
        text += answer.take(BlockOutput(request_id="0", token_ids=ids[start : start + size], finish_reason=end))[0]
        if answer.stop is not None:
            break
    assert answer.stop == stop
    assert text == expected[: expected.index(stop)]
