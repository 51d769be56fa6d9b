"""The parts of a step in which something can fail, and whether a call of one has to do with a request."""

from collections.abc import Callable
from typing import Any

import cdlm.model.decoding.logits.draws
import cdlm.model.decoding.logits.reader
import cdlm.model.decoding.processors.constrained
import cdlm.model.decoding.processors.logprobs
import cdlm.model.runner
import cdlm.scheduler.scheduler
import cdlm.scheduler.steps.row_steps
import cdlm.scheduler.steps.staging
from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.denoiser import Denoiser
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.logits.reader import LogitReader
from cdlm.model.decoding.processors.constrained import Constrained
from cdlm.model.decoding.processors.edits import Edits
from cdlm.model.decoding.processors.guidance import Guide
from cdlm.model.decoding.processors.logprobs import Logprobs
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.decoding.processors.words import Words
from cdlm.model.forwards.staged import StagedForward
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.scheduler import Scheduler
from cdlm.scheduler.scoring.request import Scoring
from tests.support.processors import states

# A prompt that is staged. Prompts of other requests begin otherwise.
LONG = [(7 * position) % 90 + 3 for position in range(40)]


def row_of(engine: Engine, name: str) -> int | None:
    sequence = engine.sequences.get(name)
    return None if sequence is None else sequence.row


def first_is_row(engine: Engine, name: str, _self: object, row: int, *_: Any, **__: Any) -> bool:
    return row == row_of(engine, name)


def in_works(engine: Engine, name: str, *arguments: Any) -> bool:
    """Whether the victim is among the rows of the step, which the function is given, itself or its works, first."""
    given = next(value for value in arguments if isinstance(value, list | Step))
    works = given.works if isinstance(given, Step) else given
    return any(work.row == row_of(engine, name) for work in works)


def is_sequence(engine: Engine, name: str, *arguments: Any) -> bool:
    return any(value is engine.sequences.get(name) for value in arguments[:2])


def of_work(engine: Engine, name: str, work: Any, *_: Any) -> bool:
    return bool(work.row == row_of(engine, name))


def its_matcher(engine: Engine, name: str, matcher: AnswerMatcher, *_: Any) -> bool:
    row = row_of(engine, name)
    state = None if row is None else states(engine, Constrained).get(row)
    return state is not None and state.matcher is matcher


def many_logits(engine: Engine, name: str, *_: Any, **__: Any) -> bool:
    """For functions that are not told whose logits they have: while the victim is there."""
    return in_works(engine, name, STEPPED["works"])


def its_scoring(engine: Engine, name: str, scoring: Scoring, *_: Any) -> bool:
    return scoring.request.request_id == name


def in_scores(engine: Engine, name: str, _self: object, works: Any) -> bool:
    return any(work.segments[0].pages[0] in table for work in works for table in tables_of(engine, name))


def tables_of(engine: Engine, name: str) -> list[list[int]]:
    return [
        table
        for scoring in engine.scores.running
        if scoring.request.request_id == name
        for table in (scoring.pages, *scoring.scratch)
    ]


STEPPED: dict[str, Any] = {"works": []}


# Victim, where the function is looked up, its name, and whether a call has to do with the victim.
Stage = tuple[str, Any, str, Callable[..., bool]]


STAGES: list[Stage] = [
    ("bad", Scheduler, "_claim", is_sequence),
    ("bad", Scheduler, "_grow", is_sequence),
    ("bad", KVCache, "attach", is_sequence),
    ("bad", cdlm.scheduler.steps.row_steps.RowSteps, "_work", is_sequence),
    ("bad", Canvas, "open_row", first_is_row),
    ("bad", Canvas, "open_block", first_is_row),
    ("bad", Logprobs, "open_row", first_is_row),
    ("bad", Edits, "open_row", first_is_row),
    ("bad", Edits, "open_block", first_is_row),
    ("bad", Words, "open_row", first_is_row),
    ("bad", Words, "open_block", first_is_row),
    ("bad", Constrained, "open_row", first_is_row),
    ("bad", Constrained, "open_block", first_is_row),
    ("bad", ModelRunner, "layout", in_works),
    ("bad", ModelRunner, "forward", many_logits),
    ("bad", Denoiser, "decide", many_logits),
    ("bad", cdlm.model.runner, "without_prompt", of_work),
    ("bad", Guide, "prepare", in_works),
    ("bad", Guide, "second_places", in_works),
    ("bad", Logprobs, "prepare", in_works),
    ("bad", Edits, "prepare", in_works),
    ("bad", Guide, "edit", in_works),
    ("bad", Logprobs, "edit", in_works),
    ("bad", Constrained, "edit", in_works),
    ("bad", Edits, "edit", in_works),
    ("bad", Words, "edit", in_works),
    ("bad", LogitReader, "statistics", many_logits),
    ("bad", cdlm.model.decoding.logits.reader, "entropy", many_logits),
    ("bad", LogitReader, "draw", in_works),
    ("bad", cdlm.model.decoding.processors.constrained, "pick", of_work),
    ("bad", cdlm.model.decoding.logits.draws, "sample", lambda *_, temperature, **__: temperature == 0.7),
    ("bad", cdlm.model.decoding.logits.draws, "gumbel_noise", lambda _engine, _name, seed, *_: seed == 3),
    ("bad", Denoiser, "_rules", in_works),
    ("bad", Constrained, "decide", in_works),
    ("bad", Words, "decide", in_works),
    ("bad", AnswerMatcher, "take", its_matcher),
    ("bad", AnswerMatcher, "forced", its_matcher),
    ("bad", AnswerMatcher, "closes_after", its_matcher),
    ("bad", Denoiser, "_figures", in_works),
    ("bad", Denoiser, "results", many_logits),
    ("bad", Logprobs, "report", in_works),
    ("bad", cdlm.model.decoding.processors.logprobs, "token_logprobs", many_logits),
    ("bad", Canvas, "write", many_logits),
    ("bad", KVCache, "store", is_sequence),
    ("bad", cdlm.scheduler.scheduler, "step_output", is_sequence),
    ("bad staged", ModelRunner, "stage", lambda _e, _n, _s, spans, *_, **__: LONG[-1] == spans[0].token_ids[0]),
    ("bad staged", cdlm.scheduler.steps.staging.Staging, "advance", is_sequence),
    ("bad staged", StagedForward, "advance", lambda engine, name, staged, *_: staged is engine.sequences[name].staged),
    ("bad score", Scoring, "admit", its_scoring),
    ("bad score", Scoring, "plan", its_scoring),
    ("bad score", Scoring, "take", its_scoring),
    ("bad score", Scoring, "output", its_scoring),
    ("bad score", ModelRunner, "score", in_scores),
]


# What is done once for a request, in its first steps.
ONCE = ("_claim", "attach", "open_row", "stage", "admit", "take", "plan", "output", "score")
