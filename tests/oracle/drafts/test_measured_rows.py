"""The engine equals the slow decoder while it measures how many rows should draft."""

import itertools
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.steps.batch import Batch, StepResult
from tests.support.drafts import build_draft_adapter, count_accepted, drafting_engine, propose
from tests.support.engines import oracle_answer, random_requests, run
from tests.support.models.checkpoints import build_checkpoint


def test_rows_that_are_measured_change_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps have other rows per request all the time, since the times of steps are taken from a list."""
    base = build_checkpoint(tmp_path / "base", "autoregressive_without_mask", seed=4)
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    kinds = itertools.cycle([DecodingParams(), DecodingParams(temperature=0.9, seed=11), DecodingParams(min_tokens=9)])
    requests = [
        msgspec.structs.replace(request, params=params, max_tokens=30)
        for request, params in zip(random_requests(8, seed=2), kinds, strict=False)
    ]
    truth = {request.request_id: oracle_answer(base, request) for request in requests}
    engine = drafting_engine(base, adapter, page_size=4, max_num_seqs=3, draft_rows=None)
    planner, seconds = engine.scheduler.drafts, itertools.cycle([0.5, 1.0, 0.1, 3.0, 0.2])
    assert planner is not None
    planned: set[int] = set()
    take = planner.took

    def took(batch: Batch, result: StepResult) -> None:
        planned.update(draft.tokens for draft in batch.drafts.values())
        planned.update([0] if len(batch.drafts) < len(batch.rows) else [])
        take(batch, replace(result, seconds=next(seconds)))

    monkeypatch.setattr(planner, "took", took)
    propose(engine, monkeypatch, {name: answer.token_ids for name, answer in truth.items()}, 0.6)
    counted = count_accepted(engine, monkeypatch)
    answers = run(engine, requests, join_every=4)
    for name, expected in truth.items():
        assert (answers[name].token_ids, answers[name].finish_reason) == (expected.token_ids, expected.finish_reason)
    assert counted()[2] > 20
    assert len(planned) > 4
