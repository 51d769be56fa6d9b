"""Answers that follow a grammar, from random weights: what ends is valid, and equals the slow decoder."""

import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from safetensors.torch import load_file

from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.constrained import Constrained
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import Answer, run
from tests.support.models.checkpoints import AXES, WITHOUT_MASK, axes
from tests.support.models.grammars import (
    EOS,
    MASK,
    OTHER_EOS,
    SCHEMAS,
    VOCAB,
    FreshGrammar,
    build_json_checkpoint,
    json_grammar,
    make_json_tokenizer,
)
from tests.support.oracle import OracleAnswer, OracleEdits, decode
from tests.support.processors import states

PARAMS = (
    DecodingParams(),
    DecodingParams(confidence_threshold=0.1),
    DecodingParams(temperature=0.7, seed=3, confidence_threshold=0.2),
    DecodingParams(temperature=2.0, seed=4, top_k=40, top_p=0.95, min_p=0.01),
    DecodingParams(decoding="factor", decoding_factor=1.5),
    DecodingParams(decoding="entropy_bound", entropy_bound=2.0, temperature=1.0, seed=8),
    DecodingParams(max_steps_per_block=3),
    DecodingParams(decoding="fixed_steps", steps_per_block=4, guidance_scale=1.0, temperature=1.0, seed=9),
    DecodingParams(repetition_penalty=1.5, presence_penalty=1.0, logit_bias={EOS: 3.0}, min_tokens=4),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_json_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def engine(directory: Path) -> Engine:
    return Engine(EngineOptions(model=str(directory), max_num_seqs=64, page_size=4))


def constrained(schema: str, name: str = "a", **fields: Any) -> GenerateRequest:
    values: dict[str, Any] = {"prompt_ids": [40, 50, 60], "max_tokens": 60, **fields}
    return GenerateRequest(request_id=name, grammar=json_grammar(SCHEMAS[schema]), **values)


TOKENIZER = make_json_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, VOCAB)


def check(schema: str, answer: Answer) -> None:
    """What ended by itself is valid, compact JSON."""
    if answer.finish_reason == "stop":
        found = TOKENIZER.decode(answer.token_ids)
        value = json.loads(found)
        jsonschema.validate(value, SCHEMAS[schema])
        # Outside of strings there is no white space.
        assert not re.search(r"\s", re.sub(r'"([^"\\]|\\.)*"', "", found))
    else:
        assert answer.finish_reason == "length"


@pytest.mark.parametrize("seed", [0, 1])
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


def oracle_answer(directory: Path, request: GenerateRequest) -> OracleAnswer:
    checkpoint = load_checkpoint(directory)
    manifest, params = checkpoint.manifest, request.params
    assert request.grammar is not None
    return decode(
        {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()},
        checkpoint.transformer.config,
        manifest,
        list(request.prompt_ids),
        request.max_tokens,
        rule=params.decoding or "threshold",
        threshold=params.confidence_threshold,
        steps_per_block=params.steps_per_block,
        guidance_scale=params.guidance_scale,
        edits=OracleEdits(
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            logit_bias=params.logit_bias,
            min_tokens=params.min_tokens,
            bad_words=tuple(tuple(word) for word in params.bad_words),
        ),
        grammar=FreshGrammar(request.grammar, VOCABULARY, list(manifest.stop_token_ids), manifest.max_model_len),
    )


@axes()
def test_constrained_rows_of_a_mixed_batch_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_json_checkpoint(tmp_path, axis, seed=6)
    turn = list(AXES).index(axis)
    rng = random.Random(turn)
    names = list(SCHEMAS)
    greedy = (
        DecodingParams(),
        DecodingParams(confidence_threshold=0.05),
        DecodingParams(decoding="factor"),
        DecodingParams(frequency_penalty=0.5, logit_bias={EOS: 4.0}, min_tokens=3),
        DecodingParams(decoding="fixed_steps", steps_per_block=3),
        # Guidance needs a mask token.
        DecodingParams(guidance_scale=0.0 if axis in WITHOUT_MASK else 1.5, confidence_threshold=0.2),
    )
    requests = [
        constrained(
            schema,
            schema,
            prompt_ids=[rng.randrange(3, VOCAB) for _ in range(rng.randint(1, 20))],
            max_tokens=rng.randint(5, 30),
            params=greedy[(turn + index) % len(greedy)],
        )
        # The slow decoder takes seconds an answer, so each axis gets some of the schemas.
        for index, schema in enumerate(names[(turn + 3 * step) % len(names)] for step in range(4))
    ]
    free = [GenerateRequest(request_id=f"free{index}", prompt_ids=[20 + index, 9], max_tokens=30) for index in range(3)]
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    answers = run(engine, requests + free, join_every=2)
    for request in requests:
        truth, answer = oracle_answer(directory, request), answers[request.request_id]
        assert answer.token_ids == truth.token_ids, request
        assert (answer.finish_reason, answer.steps) == (truth.finish_reason, truth.steps), request


@pytest.mark.parametrize("axis", ["plain", "shifted", "first_token_autoregressive"])
def test_words_that_a_grammar_need_not_write_are_not_written(tmp_path: Path, axis: str) -> None:
    directory = build_json_checkpoint(tmp_path, axis, seed=6)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    params = DecodingParams(confidence_threshold=0.02)
    requests = [constrained(schema, schema, max_tokens=24, params=params) for schema in list(SCHEMAS)[:4]]
    plain = run(engine, requests)
    asking = []
    for request in requests:
        written = plain[request.request_id].token_ids
        words = [written[start : start + 2] for start in range(0, len(written) - 1, 3)]
        bad = params.model_copy(update={"bad_words": words})
        asking.append(msgspec.structs.replace(request, params=bad))
    answers = run(engine, asking)
    changed = 0
    for request in asking:
        truth, answer = oracle_answer(directory, request), answers[request.request_id]
        assert answer.token_ids == truth.token_ids, request
        assert (answer.finish_reason, answer.steps) == (truth.finish_reason, truth.steps), request
        check(request.request_id, answer)
        changed += answer.token_ids != plain[request.request_id].token_ids
    assert changed > 1


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
