"""Log-probabilities and candidates in answers: shapes, places, streams, stop strings, the best of several."""

from functools import partial
from typing import Any

import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import EngineInput, GenerateRequest, decoder, encode
from cdlm.server.openai.answers.text import place_prompt
from cdlm.server.text import TextCodec
from tests.support.server.bench import ANSWER, Bench
from tests.support.server.fakes import TEMPLATE, make_tokenizer, scores

pytestmark = pytest.mark.anyio

CHAT = [{"role": "user", "content": "hi"}]
END = "<|endoftext|>"


def joined(events: list[Any]) -> dict[str, list[Any]]:
    """The lists of all chunks' logprobs, one after the other."""
    parts = [event["choices"][0]["logprobs"] for event in events]
    return {name: [item for part in parts for item in part[name]] for name in parts[0]}


async def test_a_completions_logprobs(bench: Bench) -> None:
    choice = (await bench.complete(logprobs=3, return_token_ids=True))["choices"][0]
    found = choice["logprobs"]
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset", "denoise_steps"}
    # The token that ended the answer keeps its place.
    assert {len(values) for values in found.values()} == {len(choice["token_ids"]) + 1}
    assert "".join(found["tokens"]) == ANSWER + END
    assert found["text_offset"] == [len("".join(found["tokens"][:place])) for place in range(len(found["tokens"]))]
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[token] == logprob
        assert len(top) == 3
    assert found["denoise_steps"] == [place % 3 + 1 for place in range(len(found["tokens"]))]


async def test_zero_logprobs_are_not_none(bench: Bench) -> None:
    found = (await bench.complete(logprobs=0))["choices"][0]["logprobs"]
    assert all(list(top) == [token] for token, top in zip(found["tokens"], found["top_logprobs"], strict=True))
    assert (await bench.complete(logprobs=None))["choices"][0]["logprobs"] is None
    assert [request.logprobs for request in bench.engine.requests] == [0, None]
    nothing = (await bench.complete(logprobs=2, max_tokens=0))["choices"][0]["logprobs"]
    assert all(values == [] for values in nothing.values())


@pytest.mark.parametrize(
    "fields", [{}, {"stop": "there"}, {"stop": "o w"}, {"stop": ["hello", "x"]}, {"max_tokens": 3}]
)
async def test_a_stream_has_the_same_logprobs(bench: Bench, fields: dict[str, Any]) -> None:
    body = {"prompt": "hi", "max_tokens": 40, "logprobs": 2} | fields
    choice = (await bench.complete(**body))["choices"][0]
    events = await bench.events("/v1/completions", **body)
    assert joined(events) == choice["logprobs"]
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]


async def test_tokens_after_a_stop_string_leave_the_logprobs(bench: Bench) -> None:
    answer = await bench.complete(logprobs=1, stop="o w")
    choice, found = answer["choices"][0], answer["choices"][0]["logprobs"]
    text = "".join(found["tokens"])
    assert (choice["text"], choice["finish_reason"]) == ("hell", "stop")
    assert text.startswith("hello w")
    assert not "".join(found["tokens"][:-1]).startswith("hello w")
    assert answer["usage"]["completion_tokens"] == len(found["tokens"])


async def test_parts_of_a_character_are_told_apart(bench: Bench) -> None:
    ids = bench.codec._tokenizer.encode("a\u00e9\u20acb").ids
    bench.engine.script = lambda _: ids
    choice = (await bench.complete(logprobs=0))["choices"][0]
    assert choice["text"] == "a\u00e9\u20acb"
    assert choice["logprobs"]["tokens"] == [
        "a", "bytes:\\xc3", "bytes:\\xa9", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b", END
    ]  # fmt: skip
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 2, 2, 3, 4]
    response = await bench.post("/v1/chat/completions", {"messages": CHAT, "logprobs": True})
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == "a\u00e9\u20acb"


async def test_a_chats_logprobs(bench: Bench) -> None:
    body: dict[str, Any] = {"messages": CHAT, "logprobs": True, "top_logprobs": 2}
    choice = (await bench.post("/v1/chat/completions", body)).json()["choices"][0]
    assert set(choice["logprobs"]) == {"content", "refusal"}
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == ANSWER
    for place, entry in enumerate(content):
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs", "denoise_step"}
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert [set(top) for top in entry["top_logprobs"]] == [{"token", "logprob", "bytes"}] * 2
        assert (entry["token"], entry["logprob"]) in [(top["token"], top["logprob"]) for top in entry["top_logprobs"]]
        assert entry["denoise_step"] == place % 3 + 1
    events = await bench.events("/v1/chat/completions", **body)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for part in parts if part for entry in part["content"]] == content
    bare = (await bench.post("/v1/chat/completions", body | {"top_logprobs": None})).json()["choices"][0]["logprobs"]
    assert all(entry["top_logprobs"] == [] for entry in bare["content"])
    without = (await bench.post("/v1/chat/completions", {"messages": CHAT, "top_logprobs": 0})).json()
    assert without["choices"][0]["logprobs"] is None


async def test_the_best_candidates_are_returned(bench: Bench) -> None:
    words = {1: "hello", 2: "world", 3: "there", 0: "hello world"}

    def script(request: GenerateRequest) -> list[int]:
        number = int(request.request_id.rpartition("-")[2])
        ids: list[int] = bench.codec._tokenizer.encode(words[number % 4] * (4 - number % 4)).ids
        return ids

    bench.engine.script = script
    body: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "best_of": 4, "temperature": 1, "seed": 3}
    answer = await bench.complete(**body, return_token_ids=True)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    # A made-up log-probability falls from token to token, so the shortest candidates are the best.
    everything = [len(script(request)) for request in bench.engine.requests]
    lengths = sorted(everything[:4])
    assert [len(choice["token_ids"]) for choice in answer["choices"]] == lengths[:2] * 2
    assert answer["usage"]["completion_tokens"] == sum(everything)
    assert answer["usage"]["prompt_tokens"] == 2
    assert len({request.params.seed for request in bench.engine.requests}) == 4
    shown = await bench.complete(**body, logprobs=0)
    assert [len(choice["logprobs"]["tokens"]) - 1 for choice in shown["choices"]] == lengths[:2] * 2


async def test_best_of_n_is_n(bench: Bench) -> None:
    events = await bench.events("/v1/completions", prompt="hi", n=2, best_of=2, max_tokens=4)
    assert {event["choices"][0]["index"] for event in events} == {0, 1}
    assert [request.logprobs for request in bench.engine.requests] == [None, None]
    response = await bench.post("/v1/completions", {"prompt": "hi", "best_of": 128, "n": 1, "max_tokens": 4})
    assert response.status_code == 200


async def test_edits_reach_the_engine(bench: Bench) -> None:
    fields: dict[str, Any] = {
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 1.25,
        "logit_bias": {"5": -100, "273": 100, "7": 0.5},
        "min_tokens": 7,
    }
    for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": CHAT})):
        response = await bench.post(path, body | fields)
        assert response.status_code == 200, response.text
        request = bench.engine.requests[-1]
        assert request.params.model_copy(update={"seed": None}) == DecodingParams(
            presence_penalty=-2.0,
            frequency_penalty=2.0,
            repetition_penalty=1.25,
            logit_bias={5: -100.0, 273: 100.0, 7: 0.5},
            min_tokens=7,
        )
        assert decoder(EngineInput).decode(encode(request)) == request
        neutral = {"presence_penalty": 0, "logit_bias": {}, "min_tokens": 0, "repetition_penalty": 1}
        assert (await bench.post(path, body | neutral)).status_code == 200


async def test_words_reach_the_engine_as_the_ids_of_both_their_spellings(bench: Bench) -> None:
    fields = {"bad_words": ["hello", " world", [5, 7]], "allowed_token_ids": [9, 8.0]}
    tokenizer = make_tokenizer()
    both = [tokenizer.encode(text).ids for text in ("hello", " hello", "world", " world")]
    routes = {
        "/v1/completions": {"prompt": "hi"},
        "/v1/chat/completions": {"messages": CHAT},
        "/v1/responses": {"input": "hi"},
    }
    for path, body in routes.items():
        response = await bench.post(path, body | fields)
        assert response.status_code == 200, response.text
        request = bench.engine.requests[-1]
        assert request.params.bad_words == [*both, [5, 7]]
        assert request.params.allowed_token_ids == [9, 8]
        assert decoder(EngineInput).decode(encode(request)) == request
        wrong: list[tuple[str, Any]] = [
            ("bad_words", "hello"),
            ("bad_words", [""]),
            ("bad_words", [[]]),
            ("bad_words", [["a"]]),
            ("bad_words", [[10**6]]),
            ("bad_words", [[ident] for ident in range(400)]),
            ("allowed_token_ids", [-1]),
            ("allowed_token_ids", [10**6]),
            ("allowed_token_ids", "a"),
        ]
        for name, value in wrong:
            response = await bench.post(path, body | {name: value})
            assert response.status_code == 400, (name, value)
            assert response.json()["error"]["param"].startswith(name)
        # The document allows both: only the tokenizer knows that they are too many tokens, or too many words.
        for words in (["\u20ac" * 256], ["a b"] * 513):
            error = (await bench.post(path, body | {"bad_words": words})).json()["error"]
            assert (error["param"], error.get("code")) == ("bad_words", None)
            assert "at most 1024 words of at most 256 tokens; a text is two, one after a space" in error["message"]


def test_the_bytes_of_a_token() -> None:
    tokenizer = make_tokenizer()
    codec = TextCodec(tokenizer, TEMPLATE)
    for text in ("hello world", "a\u00e9\u20ac\U0001f600\x00\x7f\xad b"):
        assert b"".join(codec.token_bytes(ident) for ident in tokenizer.encode(text).ids).decode() == text
    assert codec.token_bytes(1) == END.encode()
    assert codec.token_bytes(10**6) == b""


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 40])
async def test_an_echoed_prompt_is_scored(bench: Bench, as_ids: bool, max_tokens: int) -> None:
    text = "hello h\u00e9 there"
    ids = bench.codec._tokenizer.encode(text).ids
    body: dict[str, Any] = {"prompt": ids if as_ids else text, "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    choice = (await bench.complete(**body))["choices"][0]
    found = choice["logprobs"]
    answer = bench.codec._tokenizer.encode(ANSWER).ids[:max_tokens]
    end = [1] if max_tokens == 40 else []
    assert choice["text"] == text + bench.codec.decode(answer)
    assert {len(values) for values in found.values()} == {len(ids) + len(answer) + len(end)}
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    assert None not in found["token_logprobs"][1:]
    assert found["denoise_steps"][: len(ids)] == [None] * len(ids)
    assert None not in found["denoise_steps"][len(ids) :]
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top is None or top[token] == logprob
    starts = [bench.codec.decode(ids[:place]).rstrip("\ufffd") for place in range(len(ids))]
    assert found["text_offset"][: len(ids)] == [len(start) for start in starts]
    places = range(len(answer + end))
    assert found["text_offset"][len(ids) :] == [len(text + bench.codec.decode(answer[:place])) for place in places]
    events = await bench.events("/v1/completions", **body)
    assert joined(events) == found
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
    assert [request.prompt_ids for request in bench.engine.scored] == [ids] * 2


async def test_each_prompt_is_scored_once(bench: Bench) -> None:
    answer = await bench.complete(prompt=["a", "hello"], n=2, best_of=3, echo=True, logprobs=0, max_tokens=2)
    assert len(bench.engine.scored) == 2
    assert len(bench.engine.requests) == 6
    assert [choice["logprobs"]["tokens"][0] for choice in answer["choices"]] == ["a", "a", "hello", "hello"]
    await bench.complete(echo=True)
    await bench.complete(logprobs=1)
    assert len(bench.engine.scored) == 2


async def test_a_token_in_front_of_a_text_has_no_characters() -> None:
    codec = TextCodec(make_tokenizer(bos=True), TEMPLATE)
    [ids] = await codec.encode(["hello"], 64)
    placed = place_prompt(ids, scores(ids[1:], 1, 0), codec.decode)
    assert [(token.token_id, token.offset) for token in placed] == [(1, 0), (ids[1], 0)]
    shown = place_prompt(ids, scores(ids[1:], 1, 0), partial(codec.decode, keep_special=True))
    assert [token.offset for token in shown] == [0, len(END)]
