"""Rows with a grammar equal the slow decoder, beside rows without one and with words that are not written."""

import random
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run
from tests.support.models.checkpoints import AXES, WITHOUT_MASK, axes
from tests.support.models.grammars import (
    EOS,
    SCHEMAS,
    VOCAB,
    FreshGrammar,
    build_json_checkpoint,
)
from tests.support.oracle.decoder import OracleAnswer, decode
from tests.support.oracle.edits import OracleEdits
from tests.support.structured import VOCABULARY, check, constrained


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


# Their places in AXES leave no schema and no rule out.
ALL_SCHEMAS = ("shifted", "first_token_autoregressive", "causal_commit", "autoregressive_without_mask")


@axes(sample=ALL_SCHEMAS)
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
