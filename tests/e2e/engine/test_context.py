"""The bundled student's whole context."""

import random

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions

TOKENIZER = load_tokenizer(BUNDLED_STUDENT)


@pytest.mark.parametrize("prompt_length", [pytest.param(1, marks=pytest.mark.whole), 1990, 2047])
def test_it_serves_its_whole_context(prompt_length: int) -> None:
    engine = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs=4))
    assert engine.manifest.max_model_len == 2048
    rng = random.Random(0)
    words = TOKENIZER.encode("Tom has apples and Ben buys cards", add_special_tokens=False)
    prompt = [rng.choice(words) for _ in range(prompt_length)]
    wanted = 2048 - prompt_length
    engine.add(GenerateRequest(request_id="a", prompt_ids=prompt, max_tokens=wanted, ignore_eos=True))
    tokens = 0
    while engine.busy:
        tokens += sum(len(output.token_ids) for output in engine.step().outputs)
    assert tokens == wanted
    assert engine.cache.pool.active == 0
