"""Answers that follow a grammar, from random weights: what ends is valid, whatever it shares the engine with."""

import random
from pathlib import Path

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.constrained import Constrained
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run
from tests.support.matrix import some
from tests.support.models.grammars import (
    EOS,
    MASK,
    OTHER_EOS,
    SCHEMAS,
    VOCAB,
    build_json_checkpoint,
    json_grammar,
)
from tests.support.processors import states
from tests.support.structured import PARAMS, VOCABULARY, check, constrained


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_json_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def engine(directory: Path) -> Engine:
    return Engine(EngineOptions(model=str(directory), max_num_seqs=64, page_size=4))


@pytest.mark.parametrize("seed", some([0, 1], every=2, first=1))
def test_whatever_ends_is_valid(tmp_path: Path, seed: int) -> None:
    directory = build_json_checkpoint(tmp_path, "shifted" if seed else "plain", seed)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=64, page_size=4))
    rng = random.Random(seed)
    requests, schemas = [], {}
    for index, params in enumerate(PARAMS):
        for schema in SCHEMAS:
            name = f"{schema}/{index}"
            schemas[name] = schema
            prompt = [rng.randrange(3, VOCAB) for _ in range(rng.randint(1, 20))]
            wanted = rng.choice((9, 24, 60, 150))
            requests.append(constrained(schema, name, prompt_ids=prompt, max_tokens=wanted, params=params))
    answers = run(engine, requests)
    for name, answer in answers.items():
        check(schemas[name], answer)
    ended = [name for name, answer in answers.items() if answer.finish_reason == "stop"]
    assert len(ended) >= 0.8 * len(requests)
    assert max(len(answers[name].steps) for name in ended) >= 4  # Several blocks.


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_answer_with_room_for_it_is_closed(engine: Engine, schema: str) -> None:
    """Random weights would go on for ever; the shortest answer of no schema has as many tokens."""
    requests = [
        constrained(schema, str(wanted), max_tokens=wanted, params=DecodingParams(temperature=1.5, seed=wanted))
        for wanted in range(48, 60)
    ]
    for answer in run(engine, requests).values():
        assert answer.finish_reason == "stop"
        check(schema, answer)


def test_unconstrained_rows_are_untouched(engine: Engine) -> None:
    free = [
        GenerateRequest(
            request_id=f"free{index}",
            prompt_ids=[30 + index, 9, 17],
            max_tokens=40,
            params=PARAMS[index],
            ignore_eos=True,
            logprobs=2,
        )
        for index in range(6)
    ]
    bound = [constrained(schema, schema) for schema in SCHEMAS]
    same = [msgspec.structs.replace(request, grammar=None) for request in bound]
    without = run(engine, free + same)
    beside = run(engine, free + bound)
    for request in free:
        name = request.request_id
        assert beside[name].token_ids == without[name].token_ids
        assert beside[name].steps == without[name].steps


def test_forced_tokens_are_free_and_sure_ones_share_a_step(engine: Engine) -> None:
    sure = constrained("nested", params=DecodingParams(confidence_threshold=1e-6), max_tokens=100)
    slow = constrained("nested", params=DecodingParams(confidence_threshold=1.0), max_tokens=100)
    answers = run(engine, [msgspec.structs.replace(sure, request_id="sure"), slow])
    for answer in answers.values():
        assert sum(answer.steps) < len(answer.token_ids)


def test_a_preempted_answer_goes_on_where_its_block_began(tmp_path: Path) -> None:
    directory = build_json_checkpoint(tmp_path, "absolute_shifted", seed=3, max_model_len=96)
    once = [params for params in PARAMS if not params.guidance_scale]  # A guided one does not fit into the pool.
    requests = [
        constrained("recursive", str(index), prompt_ids=[9 + index] * (index + 1), max_tokens=60, params=params)
        for index, params in enumerate((*once, *once))
    ]
    roomy = Engine(EngineOptions(model=str(directory), page_size=4))
    alone = {request.request_id: run(roomy, [request])[request.request_id] for request in requests}
    bytes_per_page = roomy.runner.cache.keys[:, :4].numel() * 2 * 4
    tight = Engine(EngineOptions(model=str(directory), page_size=4, kv_cache_memory=26 * bytes_per_page))
    answers = run(tight, requests)
    assert tight.scheduler.preemptions > 0
    for name, answer in answers.items():
        assert answer.token_ids == alone[name].token_ids
        check("recursive", answer)


def test_max_tokens_is_exact(engine: Engine) -> None:
    for wanted in (1, 2, 7, 8, 9):
        answer = run(engine, [constrained("nested", max_tokens=wanted)])["a"]
        assert (len(answer.token_ids), answer.finish_reason) == (wanted, "length")


def test_an_abort_leaves_nothing(engine: Engine) -> None:
    for after in range(3):
        engine.add(constrained("object", params=DecodingParams(confidence_threshold=1.0)))
        for _ in range(after):
            engine.step()
        engine.abort("a")
        assert not engine.busy
        engine.check()
    assert not states(engine, Constrained)


def test_every_stop_token_of_the_request_ends_it_where_the_grammar_does(engine: Engine) -> None:
    bias = {EOS: -100.0, OTHER_EOS: 100.0}
    request = constrained("nested", stop_token_ids=[OTHER_EOS], params=DecodingParams(logit_bias=bias), logprobs=0)
    answer = run(engine, [request])["a"]
    assert answer.finish_reason == "stop"
    assert answer.logprobs[-1].token_id == OTHER_EOS
    check("nested", answer)


def test_the_grammar_wins_over_bans(engine: Engine) -> None:
    """Every token that JSON could begin with, or end after, is banned."""
    bans = {token: -100.0 for token in range(VOCAB - 1) if token not in (MASK, 200)}
    answer = run(engine, [constrained("optional", params=DecodingParams(logit_bias=bans))])["a"]
    assert answer.finish_reason == "stop"
    check("optional", answer)
    answer = run(engine, [constrained("enum", max_tokens=40, params=DecodingParams(min_tokens=40))])["a"]
    check("enum", answer)
    assert answer.finish_reason == "stop"


def test_log_probabilities_are_the_models_own(engine: Engine) -> None:
    plain = constrained("nested", logprobs=3)
    answer = run(engine, [plain])["a"]
    assert len(answer.logprobs) == len(answer.token_ids) + 1
    for entry in answer.logprobs:
        assert entry.logprob <= max(entry.top_logprobs) <= 0
    # A token that the grammar chose is seldom the model's own choice.
    assert any(entry.token_id not in entry.top_ids for entry in answer.logprobs)


@pytest.mark.parametrize(
    "grammar",
    ["", "start: x", "start: /(?=a)b/", "start: %json {", 'start: "a" start', "start: " + '"a" ' * 30_000],
)
def test_a_bad_grammar_ends_its_request_only(engine: Engine, grammar: str) -> None:
    engine.add(GenerateRequest(request_id="good", prompt_ids=[5, 6], max_tokens=12, ignore_eos=True))
    engine.add(GenerateRequest(request_id="bad", prompt_ids=[5, 6], max_tokens=12, grammar=grammar))
    engine.add(constrained("object", "other"))
    ends = {}
    while engine.busy:
        for output in engine.step().outputs:
            if output.finish_reason is not None:
                ends[output.request_id] = (output.finish_reason, output.error)
    engine.check()
    assert ends["good"] == ("length", None)
    assert ends["other"][0] in ("stop", "length")
    assert ends["bad"][0] == "error"
    assert "grammar" in (ends["bad"][1] or "")


def test_a_grammar_that_fails_in_a_step_ends_its_request_only(engine: Engine) -> None:
    """A stop token that the answer needs as text leaves nothing to write."""
    mark = VOCABULARY.ids[b"!"]
    engine.add(
        GenerateRequest(
            request_id="stuck", prompt_ids=[5], max_tokens=9, grammar="start: /[!]+x/", stop_token_ids=[mark]
        )
    )
    engine.add(constrained("object", "other"))
    ends = {}
    while engine.busy:
        for output in engine.step().outputs:
            if output.finish_reason is not None:
                ends[output.request_id] = (output.finish_reason, output.error)
    assert ends["other"][0] == "stop"
    assert ends["stuck"][0] == "error"
    assert "no token is admitted" in (ends["stuck"][1] or "")


def test_a_constrained_answer_needs_an_end_token(engine: Engine) -> None:
    with pytest.raises(RequestError, match="grammar"):
        engine.add(constrained("object", ignore_eos=True))
    engine.add(constrained("object", ignore_eos=True, stop_token_ids=[OTHER_EOS]))
    engine.abort("a")


def test_equal_grammars_are_compiled_once(engine: Engine) -> None:
    first, second = json_grammar(SCHEMAS["array"]), json_grammar(SCHEMAS["enum"])
    assert engine.grammars.compile(first) is engine.grammars.compile(first)
    assert engine.grammars.compile(first) is not engine.grammars.compile(second)
