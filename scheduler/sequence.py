"""One request inside the engine: its tokens, its current block, its pages and counters."""

import secrets
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import RULE_NUMBERS, FinalizationRule
from cdlm.model.forwards.staged import StagedForward
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.messages import GenerateRequest, TokenLogprob
from cdlm.scheduler.options import EngineOptions


@dataclass(slots=True, eq=False)
class Sequence:
    """State of a request from arrival to its last block.

    Attributes:
        params: those of the request, with a seed if its tokens are drawn.
        token_ids: the prompt and every finished block; never holds a masked position.
        computed: positions below this have exact keys and values in the pool.
        block_start: position of the current block.
        row: its row of the canvas while it runs.
        pages: its page table while it runs.
        second_pages: that of the pass without the prompt, which has computed as much; empty without guidance.
        block_open: the canvas row holds the current block.
        forwards: forward passes of the current block.
        row_open: the canvas row holds this request's settings.
        stored: positions below this were offered to the prefix cache, or come from it.
        cached: prompt positions that came from the prefix cache when the request was first admitted.
        queued: seconds it waited before it was first admitted.
        staged: the forward over its known tokens, while that is taken in pieces.
        fresh: such a forward has just been finished, and no step has followed yet.
        border: the state behind the computed positions, until the canvas row holds it.
        logprobs: by offset, those of the current block, if they were asked for.
        sent: tokens of the current block that partial outputs have carried.
        finalized_at: by offset, the denoise step of the current block that finalized it, if its canvas is asked for.
        keys: what the prefix cache knows the beginnings of its tokens by; grows with them.
        recompute: positions whose keys were dropped by a preemption and are computed again on resuming.
        compiling: the grammar it waits for; taken away by the engine between two steps once it is done.
        grammar: what the answer must follow.
    """

    request: GenerateRequest
    token_ids: list[int]
    prompt_length: int
    block_start: int
    params: DecodingParams
    stop_ids: list[int]
    rule: FinalizationRule
    max_steps: int
    arrival: float = field(default_factory=time.monotonic)
    computed: int = 0
    row: int | None = None
    pages: list[int] = field(default_factory=list)
    second_pages: list[int] = field(default_factory=list)
    row_open: bool = False
    block_open: bool = False
    stored: int = 0
    cached: int = 0
    queued: float = 0.0
    staged: StagedForward | None = None
    fresh: bool = False
    border: Tensor | None = None
    forwards: int = 0
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    sent: int = 0
    finalized_at: dict[int, int] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    recompute: int = 0
    started: bool = False
    compiling: Future[CompiledGrammar] | None = None
    grammar: CompiledGrammar | None = None

    @classmethod
    def from_request(cls, request: GenerateRequest, manifest: Manifest, options: EngineOptions) -> "Sequence":
        """A waiting sequence; ``None`` in the request's parameters takes the values of ``options`` and manifest."""
        params = request.params
        rule = finalization_rule(params, manifest, options)
        max_steps = params.max_steps_per_block or manifest.block_length
        if params.sampled and params.seed is None:
            params = params.model_copy(update={"seed": secrets.randbits(63)})
        stop_ids = [] if request.ignore_eos else list(manifest.stop_token_ids)
        return cls(
            request=request,
            token_ids=list(request.prompt_ids),
            prompt_length=len(request.prompt_ids),
            block_start=first_block_start(len(request.prompt_ids), manifest),
            params=params,
            stop_ids=stop_ids + [token for token in request.stop_token_ids if token not in stop_ids],
            rule=rule,
            max_steps=min(max_steps, int(rule.limit)) if rule.name == "fixed_steps" else max_steps,
        )

    @property
    def guided(self) -> bool:
        """Whether every forward computes it twice, once without its prompt."""
        return self.params.guidance_scale > 0.0

    @property
    def tables(self) -> list[list[int]]:
        """The page tables that it may hold."""
        return [self.pages, self.second_pages] if self.guided else [self.pages]

    @property
    def given(self) -> list[int]:
        """Prompt tokens inside the current block."""
        return self.token_ids[self.block_start :]

    @property
    def wanted(self) -> int:
        """Positions of the current block up to the request's last token, prompt tail included."""
        return self.prompt_length + self.request.max_tokens - self.block_start

    def pinned(self, block_length: int) -> dict[int, int]:
        """Tokens behind the answer's end that lie in the current block, by their offset in it."""
        return dict(zip(range(self.wanted, block_length), self.request.pinned, strict=False))


def finalization_rule(params: DecodingParams, manifest: Manifest, options: EngineOptions) -> FinalizationRule:
    """The rule a request asks for, its number from the request, else the checkpoint's threshold or the options'."""
    name = params.rule(options.decoding)
    given: float | None = getattr(params, RULE_NUMBERS[name])
    if given is not None:
        return FinalizationRule(name, given)
    match name:
        case "threshold":
            return FinalizationRule(name, manifest.confidence_threshold)
        case "fixed_steps":
            return FinalizationRule(name, options.steps_per_block or manifest.block_length)
        case _:
            return FinalizationRule(name, getattr(options, RULE_NUMBERS[name]))
