"""``suffix``: how it is shown, what of it is pinned, and what comes back."""

import pytest
from tokenizers import AddedToken

from cdlm.server.text import TextCodec
from tests.support.server.bench import ANSWER, Bench
from tests.support.server.fakes import BLOCK, make_tokenizer

pytestmark = pytest.mark.anyio


async def test_the_suffix_stands_in_the_prompt_and_behind_the_answer(bench: Bench) -> None:
    answer = await bench.complete(prompt="hello", suffix=" there", n=2)
    assert [choice["text"] for choice in answer["choices"]] == [ANSWER] * 2
    for request in bench.engine.requests:
        assert bench.codec.decode(request.prompt_ids) == " there\n\nhello"
        assert bench.codec.decode(request.pinned) == " there"
    assert answer["usage"]["prompt_tokens"] == len(bench.engine.requests[0].prompt_ids)
    events = await bench.events("/v1/completions", prompt="hello", suffix=" there", max_tokens=40)
    assert "".join(event["choices"][0]["text"] for event in events) == ANSWER


async def test_no_more_is_pinned_than_a_block_holds(bench: Bench) -> None:
    await bench.complete(prompt=["a", "b"], suffix="x y z x y z", max_tokens=4)
    assert [len(request.pinned) for request in bench.engine.requests] == [BLOCK] * 2
    for suffix in ("", None):
        await bench.complete(suffix=suffix)
        request = bench.engine.requests[-1]
        assert (request.pinned, bench.codec.decode(request.prompt_ids)) == ([], "hi")


async def test_a_vocabulary_with_tokens_for_infilling(bench: Bench) -> None:
    tokenizer = make_tokenizer()
    names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    tokenizer.add_tokens([AddedToken(name, special=False) for name in names])
    codec = TextCodec(tokenizer)
    [suffix] = await codec.encode([" there"], 64)
    [ids] = await codec.encode_infill(["hello"], " there", suffix, 64)
    assert codec.decode(ids, keep_special=True) == "<|fim_prefix|>hello<|fim_suffix|> there<|fim_middle|>"
