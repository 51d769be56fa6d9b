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
from cdlm.model.forwards.staged import StagedForward, StagedForwards
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.messages import GenerateRequest, TokenLogprob
from cdlm.scheduler.options import EngineOptions


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """State of a request from arrival to its last block.

    Attributes:
        params: the request's parameters, with a seed if it samples.
        replace_above: the confidence above which a step replaces a decided token; ``None`` replaces none.
        token_ids: the prompt and all finished blocks; without masked positions.
        computed: positions below this have exact keys and values in the KV cache.
        block_start: position of the current block.
        row: its row in the canvas while it runs.
        pages: its page table while it runs.
        second_pages: page table of the pass without the prompt, computed as far; empty without guidance.
        block_open: whether the canvas row holds the current block.
        forwards: forward passes of the current block.
        row_open: whether the canvas row holds this request's settings.
        stored: positions below this were offered to the prefix cache or come from it.
        cached: prompt positions that came from the prefix cache when the request was first admitted.
        queued: seconds from arrival to first admission.
        staged: its prefill in pieces, while that runs.
        fresh: whether a prefill in pieces has finished and no step has followed.
        border: [hidden], the hidden state of the last computed position, until the canvas row holds it.
        logprobs: offset in the current block -> log-probability, if requested.
        sent: number of tokens of the current block in partial outputs.
        finalized_at: offset in the current block -> the denoise step that finalized it, for canvas and step map.
        drafted: drafted tokens behind the token at ``block_start`` - 1, not verified yet.
        keys: prefix cache keys of its whole units so far.
        recompute: number of positions that a preemption dropped and that resuming computes again.
        compiling: the grammar it waits for; the engine removes it between steps once it is compiled.
        grammar: the grammar that the answer must follow.
    """

    request: GenerateRequest
    token_ids: list[int]
    prompt_length: int
    block_start: int
    params: DecodingParams
    stop_ids: list[int]
    rule: FinalizationRule
    max_steps: int
    replace_above: float | None = None
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
    staged: StagedForward | StagedForwards | None = None
    fresh: bool = False
    border: Tensor | None = None
    forwards: int = 0
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    sent: int = 0
    finalized_at: dict[int, int] = field(default_factory=dict)
    drafted: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    recompute: int = 0
    started: bool = False
    compiling: Future[CompiledGrammar] | None = None
    grammar: CompiledGrammar | None = None

    @classmethod
    def from_request(cls, request: GenerateRequest, manifest: Manifest, options: EngineOptions) -> "Sequence":
        """Makes a waiting sequence; parameters that are ``None`` get the values of ``options`` and ``manifest``."""
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
            replace_above=replacing(request, manifest, options),
        )

    @property
    def guided(self) -> bool:
        """Whether it uses classifier-free guidance: every forward computes it twice."""
        return self.params.guidance_scale > 0.0

    @property
    def tables(self) -> list[list[int]]:
        """Its page tables: with guidance, two."""
        return [self.pages, self.second_pages] if self.guided else [self.pages]

    @property
    def given(self) -> list[int]:
        """Prompt tokens inside the current block."""
        return self.token_ids[self.block_start :]

    @property
    def wanted(self) -> int:
        """Number of positions of the current block up to the answer's last token, prompt tokens included."""
        return self.prompt_length + self.request.max_tokens - self.block_start

    def pinned(self, block_length: int) -> dict[int, int]:
        """Offset in the current block -> known token after the end of the answer."""
        return dict(zip(range(self.wanted, block_length), self.request.pinned, strict=False))


def replacing(request: GenerateRequest, manifest: Manifest, options: EngineOptions) -> float | None:
    """The confidence above which a step of the request replaces a decided token; ``None`` if none is replaced.

    It comes from the request, else from options or checkpoint. A default gives way to what hinders it.
    """
    params = request.params
    given = [params.edit_threshold, options.edit_threshold, manifest.edit_threshold]
    value = next((value for value in given if value is not None), None)
    if value is None or value >= 1.0 or not manifest.can_replace:
        return None
    grammar = None if request.grammar is None else "grammar"
    return None if params.hinders_replacing(params.rule(options.default_rule), grammar) else value


def finalization_rule(params: DecodingParams, manifest: Manifest, options: EngineOptions) -> FinalizationRule:
    """The request's finalization rule; its number comes from the request, else from options or checkpoint."""
    name = params.rule(options.default_rule)
    if name == "guide":
        return FinalizationRule(name, 0.0)
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
