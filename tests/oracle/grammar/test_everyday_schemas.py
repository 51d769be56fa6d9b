"""Schemas of everyday kinds through the engine, from random weights, with limits from tight to ample."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.protocol.formats import Constraint
from tests.support.engines import run
from tests.support.matrix import some
from tests.support.models.grammars import build_json_checkpoint
from tests.support.models.schemas import schemas
from tests.support.structured import PARAMS, TOKENIZER, VOCABULARY

PAIRS = schemas(200, seed=20261129)
PARTS = 16


@pytest.mark.slow
@pytest.mark.parametrize("part", some(range(PARTS), every=PARTS))
def test_everyday_schemas_from_random_weights(tmp_path: Path, part: int) -> None:
    """What has the tokens that the shortest answer is said to need ends, and is valid.

    With fewer none does, and with more none has fewer.
    """
    engine = Engine(
        EngineOptions(
            model=str(build_json_checkpoint(tmp_path, seed=part, max_model_len=512)), max_num_seqs=64, page_size=4
        )
    )
    requests: list[GenerateRequest] = []
    kept: dict[str, tuple[dict[str, Any], int]] = {}
    for place, (schema, _) in list(enumerate(PAIRS))[part::PARTS]:
        grammar = constraint_grammar(Constraint("json", schema, "response_format")).text
        compiled = CompiledGrammar(grammar, VOCABULARY, engine.manifest.max_model_len)
        least = compiled.needed(1)
        for limit in sorted({least - 1, least, least + 1, compiled.least, 2 * least + 20} - {0}):
            name = f"{place}/{limit}"
            kept[name] = (schema, least)
            params = [each for each in PARAMS if each.min_tokens <= limit]
            requests.append(
                GenerateRequest(
                    request_id=name,
                    grammar=grammar,
                    prompt_ids=[40, place + 3],
                    max_tokens=limit,
                    params=params[len(requests) % len(params)],
                )
            )
    answers = run(engine, requests)
    for request in requests:
        (schema, least), answer = kept[request.request_id], answers[request.request_id]
        if request.max_tokens < least:  # The server refuses it.
            assert answer.finish_reason == "length", request.request_id
            continue
        assert answer.finish_reason == "stop", request.request_id
        assert len(answer.token_ids) + 1 >= least
        if "\\p" not in str(schema):  # Python's expressions have no classes of Unicode.
            jsonschema.Draft202012Validator(schema).validate(json.loads(TOKENIZER.decode(answer.token_ids)))
