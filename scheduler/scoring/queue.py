"""Runs scoring requests: admission, a share of each step's tokens, results."""

import math
from collections.abc import Iterator
from functools import partial

from cdlm.model.config import Manifest
from cdlm.model.row import NOT_FINITE, TokenScore
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.messages import BlockOutput, ScoreRequest
from cdlm.scheduler.scoring.request import Scoring, ScoringPlan
from cdlm.scheduler.steps.faults import Fault, attempt, run_apart
from cdlm.scheduler.waiting.queue import FairQueue
from cdlm.scheduler.waiting.validation import check_common

_SHARE = 4  # After a step without scoring, the next one reserves 1 / _SHARE of its tokens for it.


class ScoreQueue:
    """Runs scoring requests with the tokens of each step that generation leaves.

    After a step that left none, a part of the next step is reserved. Waiting requests are admitted fairly between
    clients, by the tokens of their scored prompts. An admitted request holds all pages that it needs to finish.
    """

    def __init__(self, manifest: Manifest, cache: KVCache, runner: ModelRunner, step_tokens: int) -> None:
        # What a step reserves at least, so that no request waits for ever.
        self.slot_tokens = step_tokens // _SHARE
        self.manifest, self.cache, self.runner = manifest, cache, runner
        self.waiting: FairQueue[Scoring] = FairQueue()
        self.running: list[Scoring] = []
        self._scorings: dict[str, Scoring] = {}
        self.tokens = 0  # Tokens scored in the last step.
        self.rows = 0
        self.looked_up = self.found = 0  # Tokens of requests admitted to the last step, and those in the prefix cache.
        self._starved = False

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._scorings

    @property
    def busy(self) -> bool:
        """Whether there is work for a step."""
        return bool(self.running or self.waiting)

    @property
    def tables(self) -> Iterator[list[int]]:
        """All page tables of admitted requests."""
        for scoring in self.running:
            yield scoring.pages
            yield from scoring.scratch

    def add(self, request: ScoreRequest) -> None:
        """Queues a request; raises ``RequestError`` if it can never be served."""
        vocab = self.runner.transformer.config.vocab_size
        check_common(request, vocab)
        if len(request.prompt_ids) > self.manifest.max_model_len:
            raise RequestError(
                f"prompt ({len(request.prompt_ids)}) exceeds the context of {self.manifest.max_model_len}"
            )
        if self.manifest.mask_token_id in request.prompt_ids:
            raise RequestError("prompt has the mask token, which has no probability")
        if not 1 <= request.start < max(2, len(request.prompt_ids)):
            raise RequestError(f"start ({request.start}) must be the position of a token that is not the first")
        _check_slots(request, self.manifest, vocab)
        scoring = Scoring(request, self.manifest, self.cache)
        if scoring.pages_needed > self.cache.num_pages:
            raise RequestError(f"prompt needs more than the {self.cache.num_pages} KV pages there are")
        if request.slots and scoring.canvas_tokens > self.slot_tokens:
            raise RequestError(f"the slots and what is between them have more than {self.slot_tokens} positions")
        self._scorings[request.request_id] = scoring
        self.waiting.append(scoring)

    def abort(self, request_id: str) -> None:
        """Drops a request and frees its pages; ignores an unknown id."""
        if request_id in self._scorings:
            self._clear(self._scorings[request_id])
            self._leave(self._scorings[request_id])

    def reserve(self, budget: int) -> int:
        """How many of a step's ``budget`` tokens generation must leave for scoring."""
        return budget // _SHARE if self.busy and self._starved else 0

    def admit(self) -> tuple[list[str], list[BlockOutput]]:
        """Admits waiting requests to the next step; returns the ids of the admitted and the outputs of failed ones."""
        joined: list[str] = []
        self.looked_up = self.found = 0
        failed: list[BlockOutput] = []
        while len(self.running) < self.runner.rows.size:
            scoring = self.waiting.first()
            if scoring is None:
                break
            admitted = attempt("admission", scoring.admit)
            if isinstance(admitted, Fault):
                failed.append(self._fail(scoring, admitted.reason))
                continue
            if not admitted:
                break
            self.waiting.charge(scoring.request.client, prompt_tokens=len(scoring.ids))
            self.waiting.take(scoring)
            self.running.append(scoring)
            self.looked_up += len(scoring.ids)
            self.found += scoring.cached
            joined.append(scoring.request.request_id)
        return joined, failed

    def step(self, budget: int) -> list[BlockOutput]:
        """Runs one forward of at most ``budget`` tokens for admitted requests; returns the outputs of finished ones.

        A request that raises or has logits that are not finite ends with finish reason ``error``; the others continue.
        """
        plans, outputs = self._plan(budget)
        self.rows, self.tokens = len(plans), sum(len(plan.work.token_ids) for _, plan in plans)
        self._starved = self.busy and not plans
        results = run_apart("a scoring step", [plan for _, plan in plans], self._run)
        for (scoring, plan), scores in zip(plans, results, strict=True):
            booked = scores if isinstance(scores, Fault) else attempt("scoring", partial(_book, scoring, plan, scores))
            if booked is not None:
                outputs.append(self._fail(scoring, booked.reason))
        for scoring in [scoring for scoring in self.running if scoring.done]:
            output = attempt("the end of scoring", scoring.output)
            if isinstance(output, Fault):
                output = self._fail(scoring, output.reason)
            else:
                self._leave(scoring)
            outputs.append(output)
        return outputs

    def _run(self, plans: list[ScoringPlan]) -> list[list[TokenScore]]:
        for source, target in (copy for plan in plans for copy in plan.copies):
            self.runner.copy_page(source, target)
        return self.runner.score([plan.work for plan in plans])

    def _plan(self, budget: int) -> tuple[list[tuple[Scoring, ScoringPlan]], list[BlockOutput]]:
        """Plans the step: (request, plan) pairs, and the outputs of requests whose planning failed."""
        failed: list[BlockOutput] = []
        plans = []
        for scoring in list(self.running):
            plan = attempt("planning scores", partial(scoring.plan, budget))
            if isinstance(plan, Fault):
                failed.append(self._fail(scoring, plan.reason))
            elif plan is not None:
                plans.append((scoring, plan))
                budget -= len(plan.work.token_ids)
        return plans, failed

    def _leave(self, scoring: Scoring) -> None:
        del self._scorings[scoring.request.request_id]
        if scoring in self.waiting:
            self.waiting.remove(scoring)
        else:
            self.running.remove(scoring)
        scoring.release()

    def _clear(self, scoring: Scoring) -> None:
        """Zeroes the request's own keys and values, which may not be finite: no logits have checked them yet."""
        for table, start in ((scoring.pages, scoring.cached), *((table, 0) for table in scoring.scratch)):
            attempt("clearing pages", partial(self.runner.clear, table, start))

    def _fail(self, scoring: Scoring, reason: str) -> BlockOutput:
        self._clear(scoring)
        self._leave(scoring)
        return BlockOutput(request_id=scoring.request.request_id, token_ids=[], finish_reason="error", error=reason)


def _check_slots(request: ScoreRequest, manifest: Manifest, vocab: int) -> None:
    """Raises ``RequestError`` for slots that cannot be masked or have no candidates."""
    positions = [slot.position for slot in request.slots]
    if not positions:
        return
    if manifest.block_length == 1 or manifest.mask_token_id >= vocab:
        raise RequestError("slots need a model that denoises blocks, with a mask token in its vocabulary")
    if positions != sorted(set(positions)) or not 1 <= positions[0] <= positions[-1] < len(request.prompt_ids):
        raise RequestError("slots must be positions of the prompt but the first, in rising order")
    for slot in request.slots:
        valid = all(0 <= token < vocab and token != manifest.mask_token_id for token in slot.candidates)
        if not slot.candidates or not valid:
            raise RequestError(f"slot {slot.position} needs candidates that are tokens of the vocabulary")


def _book(scoring: Scoring, plan: ScoringPlan, scores: list[TokenScore]) -> Fault | None:
    if not all(math.isfinite(score.logprob) for score in scores):
        return Fault(NOT_FINITE)
    scoring.take(plan, scores)
    return None
