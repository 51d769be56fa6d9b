"""What the host remembers of the device's state is compared: every kind of difference is found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.constrained import Constrained
from cdlm.model.decoding.processors.edits import Edits
from cdlm.model.decoding.processors.words import Words
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.grammars import MASK, SCHEMAS, build_json_checkpoint, json_grammar
from tests.support.processors import states

PARAMS = DecodingParams(temperature=0.8, seed=3, frequency_penalty=0.5, confidence_threshold=1.0, bad_words=[[90, 91]])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_json_checkpoint(tmp_path_factory.mktemp("checkpoint"), "absolute", seed=1)


def running(directory: Path) -> tuple[Engine, int]:
    """An engine in the middle of a second block, and the row of its request, which has everything a row can have."""
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=2))
    engine.add(
        GenerateRequest(
            request_id="a", prompt_ids=[40, 50, 60], max_tokens=40, params=PARAMS, grammar=json_grammar(SCHEMAS["map"]),
            stop_token_ids=[7],
        )
    )  # fmt: skip
    sequence = engine.sequences["a"]
    while len(sequence.token_ids) <= 3 or not sequence.block_open or engine.runner.canvas.left[0] == 8:
        engine.step()
    assert sequence.row == 0
    engine.check()
    return engine, 0


DIFFERENCES: dict[str, tuple[Callable[[Engine], None], str]] = {
    "left": (lambda engine: engine.runner.canvas.left.__setitem__(0, 99), "masked positions, not 99"),
    "left of a row nobody has": (lambda engine: engine.runner.canvas.left.__setitem__(1, 1), "masked positions, not 1"),
    "masked": (lambda engine: engine.runner.canvas.masked[0].fill_(True), "masked"),
    "first": (lambda engine: engine.runner.canvas.first.__setitem__(0, 2), "known tokens, not 2"),
    "known": (lambda engine: engine.runner.canvas.known[0, :1].fill_(True), "known tokens, not 0"),
    "stops": (lambda engine: engine.runner.canvas.stop_tokens[0].append(3), "2 stop tokens, not 3"),
    "stop ids": (lambda engine: engine.runner.canvas.stop_ids[0].fill_(5), "stop tokens, not 2"),
    "rule": (lambda engine: engine.runner.canvas.rule[0].fill_(1), "has the rule factor"),
    "by threshold": (lambda engine: engine.runner.canvas.by_threshold.__setitem__(0, False), "has the rule threshold"),
    "replaces": (lambda engine: engine.runner.canvas.replaces.__setitem__(0, True), "whether it replaces tokens"),
    "replace above": (lambda engine: engine.runner.canvas.replace_above[0].fill_(0.5), "whether it replaces tokens"),
    "tokens": (lambda engine: engine.runner.canvas.tokens[0, -1:].fill_(9), "a masked position has a token"),
    "finalized": (lambda engine: engine.runner.canvas.tokens[0, :1].fill_(MASK), "row 0"),
    "counts": (lambda engine: states(engine, Edits)[0].counts[5].add_(1), "counted other tokens"),
    "counted": (lambda engine: setattr(states(engine, Edits)[0], "counted", 1), "has counted 1 of"),
    "tail": (lambda engine: states(engine, Words)[0].tail.append(92), "another tail"),
    "matcher": (lambda engine: states(engine, Constrained)[0].matcher.tokens.pop(), "row 0"),
}


@pytest.mark.parametrize("difference", DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_difference_is_found(directory: Path, difference: tuple[Callable[[Engine], None], str]) -> None:
    change, message = difference
    engine, _ = running(directory)
    change(engine)
    with pytest.raises(AssertionError, match=message):
        engine.check()


def test_a_difference_in_what_a_row_that_replaces_tokens_generates_is_found(directory: Path) -> None:
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=2))
    params = DecodingParams(edit_threshold=0.5)
    engine.add(GenerateRequest(request_id="a", prompt_ids=[40, 50, 60], max_tokens=40, params=params))
    engine.step()
    engine.check()
    engine.runner.canvas.generated[0] += 1
    with pytest.raises(AssertionError, match="row 0 generates 5 positions, not 6"):
        engine.check()


def test_what_is_left_of_those_that_went_agrees(directory: Path) -> None:
    """After an end, an abort in the middle of a block, and a preemption nothing is kept for anybody."""
    engine, _ = running(directory)
    engine.abort("a")
    engine.check()
    assert not any(processor.states for processor in engine.runner.rows.processors)
    engine.add(GenerateRequest(request_id="b", prompt_ids=[40], max_tokens=20, params=PARAMS, ignore_eos=True))
    while engine.busy:
        engine.step()
    engine.check()
    assert not any(processor.states for processor in engine.runner.rows.processors)
