"""Schemas of everyday kinds through the engine, from random weights."""

import json
import random
from pathlib import Path

import jsonschema

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.server.answer_grammar import constraint_grammar
from cdlm.server.protocol.formats import Constraint
from tests.grammars import build_json_checkpoint
from tests.scheduler.test_oracle import run
from tests.scheduler.test_structured import PARAMS, TOKENIZER, VOCABULARY
from tests.schemas import schemas


def test_everyday_schemas_from_random_weights(tmp_path: Path) -> None:
    """With as few tokens as a valid value has, and with more: what ends is valid, and where one fits it ends."""
    engine = Engine(EngineOptions(model=str(build_json_checkpoint(tmp_path)), max_num_seqs=64, page_size=4))
    pairs = random.Random(11).sample(schemas(200, seed=20261129), 30)
    requests, kept, late = [], {}, []
    for place, (schema, value) in enumerate(pairs):
        grammar = constraint_grammar(Constraint("json", schema, "response_format")).text
        known = len(VOCABULARY.tokenise(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()))
        least = known + 3 + known // 8  # The search for an end goes by bytes, so it may miss one by a few tokens.
        for limit in (max(1, known // 2), least, 2 * least):
            name = f"{place}/{limit}"
            kept[name] = (schema, limit >= least)
            params = PARAMS[len(requests) % len(PARAMS)]
            requests.append(
                GenerateRequest(
                    request_id=name, grammar=grammar, prompt_ids=[40, place + 3], max_tokens=limit, params=params
                )
            )
    answers = run(engine, requests)
    for name, (schema, fits) in kept.items():
        if answers[name].finish_reason == "stop":
            value = json.loads(TOKENIZER.decode(answers[name].token_ids))
            if "\\p" not in str(schema):  # Python's expressions have no classes of Unicode.
                jsonschema.Draft202012Validator(schema).validate(value)
        else:
            assert answers[name].finish_reason == "length"
            late += [name] if fits else []
    assert late == []
