"""Requests with a grammar of JSON, and what their answers must be."""

import json
import re
from typing import Any

import jsonschema

from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.messages import GenerateRequest
from tests.support.engines import Answer
from tests.support.models.grammars import (
    EOS,
    SCHEMAS,
    VOCAB,
    json_grammar,
    make_json_tokenizer,
)

# Every rule, and what edits or samples tokens.
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

TOKENIZER = make_json_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, VOCAB)


def constrained(schema: str, name: str = "a", **fields: Any) -> GenerateRequest:
    values: dict[str, Any] = {"prompt_ids": [40, 50, 60], "max_tokens": 60, **fields}
    return GenerateRequest(request_id=name, grammar=json_grammar(SCHEMAS[schema]), **values)


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
