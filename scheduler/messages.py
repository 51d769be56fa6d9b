"""Typed messages between the API process and the engine process (msgpack through msgspec, never pickle)."""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import BaseModel

from cdlm.model.decoding.params import DecodingParams

FinishReason = Literal["stop", "length", "error"]
Phase = Literal["prefill", "denoise", "commit", "score", "mixed", "idle"]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Generate at most ``max_tokens`` tokens after ``prompt_ids``.

    ``logprobs`` requests the log-probability of each token and of that many alternatives; ``stream_prefix`` a partial
    output as soon as all tokens before are finalized; ``stream_canvas`` the block after each denoise step; ``step_map``
    the denoise step that finalized each token. ``grammar``, in llguidance's Lark dialect, is what an answer that a stop
    token ends must match (docs/structured-output.md).

    ``pinned`` are known tokens that follow after ``max_tokens`` generated ones. Only those in the block of the last
    generated token are used: that block is denoised with known tokens on both sides.

    Waiting requests are admitted fairly between values of ``client``. ``priority``, in -2**31 .. 2**31 - 1, orders the
    waiting requests of one client: lower values first, equal values in order of arrival; to prevent starvation, one
    admission in eight is the client's oldest request. It does not affect other clients or running requests.

    Only requests with equal ``cache_salt`` ("" included) share cached prefixes.
    """

    request_id: str
    prompt_ids: list[int]
    max_tokens: int
    params: DecodingParams = DecodingParams()
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    stream_prefix: bool = False
    stream_canvas: bool = False
    step_map: bool = False
    grammar: str | None = None
    pinned: list[int] = []
    client: str = ""
    priority: int = 0
    cache_salt: str = ""


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """A masked position, and the tokens whose log-probabilities there are wanted."""

    position: int
    candidates: list[int]


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Compute the log-probability of each prompt token from position ``start`` on, given those before it, and of
    ``logprobs`` alternatives.

    With ``slots`` instead, in rising order, all their positions are masked at once, in one forward, whatever tokens the
    prompt has there; what is computed is the log-probability of each candidate of each slot (docs/decide.md).

    The answer is one ``BlockOutput`` whose ``logprobs`` begin with the token at ``start``, or are those of all slots'
    candidates in order; their ``step`` is 0. ``client``, ``priority`` and ``cache_salt`` are as in ``GenerateRequest``.
    """

    request_id: str
    prompt_ids: list[int]
    start: int = 1
    slots: list[Slot] = []
    logprobs: int = 0
    client: str = ""
    priority: int = 0
    cache_salt: str = ""


class AbortRequest(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Drop a request in any state; an unknown id is ignored, since the request may have just finished."""

    request_id: str


class ShutdownRequest(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave the step loop and exit 0."""


EngineInput = GenerateRequest | ScoreRequest | AbortRequest | ShutdownRequest


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's natural log-probability before edits of logits (docs/sampling.md).

    ``step`` is the denoise step of its block that finalized it, counted from 1; ``top_ids`` and ``top_logprobs`` are
    the most likely tokens at its position, best first.
    """

    token_id: int
    logprob: float
    step: int
    top_ids: list[int]
    top_logprobs: list[float]


class BlockCanvas(msgspec.Struct, frozen=True, array_like=True):
    """A block after a denoise step: its generated positions up to ``max_tokens``, ``None`` at masked positions.

    ``steps`` has the denoise step that wrote each position last, counted from 1. ``final`` is false while these tokens
    may still be replaced.
    """

    step: int
    token_ids: list[int | None]
    steps: list[int | None]
    final: bool = True


class BlockOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one finished block; ``max_tokens`` or a stop token may cut the last one.

    A ``partial`` output comes before the block is finished: its tokens are final, and the next output of the block
    continues after them.

    ``token_ids`` excludes the stop token that ended the request; ``stop_token_id`` is that token if the request listed
    it, ``None`` for an end token of the checkpoint. ``denoise_steps`` and ``forward_passes`` are those of this block.
    ``cached_tokens`` counts the prompt tokens from the prefix cache, ``queue_seconds`` the wait for the first step;
    both are equal in all blocks of a request. ``logprobs``, if requested, has one entry per token in ``token_ids``, and
    one for the stop token if one ended the request. ``step_map``, if requested, has for each token in ``token_ids`` the
    denoise step of its block that finalized it, counted from 1.
    """

    request_id: str
    token_ids: list[int]
    denoise_steps: int = 0
    forward_passes: int = 0
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    error: str | None = None
    logprobs: list[TokenLogprob] | None = None
    partial: bool = False
    canvas: BlockCanvas | None = None
    step_map: list[int] | None = None


class Counted(NamedTuple):
    """The counter ``cdlm_NAME`` that a figure of steps is added to; ``vllm`` is vLLM's name for it, if it has one."""

    name: str
    about: str
    vllm: str | None = None


class Measured(NamedTuple):
    """The histogram ``cdlm_NAME`` that observes a figure of steps, or each of its items; idle steps have no figure.

    ``vllm`` is vLLM's name for it, if it has one.
    """

    name: str
    about: str
    buckets: tuple[float, ...]
    vllm: str | None = None


FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_FORWARD = Measured("forward_duration_seconds", "Duration of a forward pass", FAST)
_FINALIZED = Measured("tokens_finalized_per_forward", "Tokens finalized by a forward pass, all rows", (0, *_POWERS))
_BLOCK_STEPS = Measured("denoise_steps_per_block", "Denoise steps per block", _STEPS)
_QUEUE = Measured(
    "queue_time_seconds", "Wait of a sequence before its first step", SLOW, vllm="request_queue_time_seconds"
)
_LOOKED_UP = Counted("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", vllm="prefix_cache_queries")
_FOUND = Counted("prefix_cache_hits", "Prompt tokens found in the prefix cache", vllm="prefix_cache_hits")
_PREEMPTED = Counted("preemptions", "Sequences that gave up their pages", vllm="num_preemptions")
_VERIFICATIONS = Counted(
    "draft_verifications", "Forwards of a request that verified or drafted", vllm="spec_decode_num_drafts"
)
_DRAFTED = Counted("draft_tokens", "Drafted tokens that were verified", vllm="spec_decode_num_draft_tokens")
_ACCEPTED = Counted(
    "accepted_draft_tokens", "Drafted tokens that were accepted", vllm="spec_decode_num_accepted_tokens"
)
_REPLACED = Counted("replaced_tokens", "Decided tokens that a later step of their block replaced")
_NONFINITE = Counted(
    "nonfinite_sequences", "Sequences ended by logits that are NaN or infinite", vllm="corrupted_requests"
)


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one engine step (durations in seconds) and of the state after it.

    ``admitted_prompt_tokens`` counts the prompt tokens of requests in their first step, ``cached_prompt_tokens`` how
    many of these came from the prefix cache. ``nonfinite_sequences`` counts requests that ended because logits were NaN
    or infinite. Those that are annotated are metrics (``server/observe/metrics.py``).
    """

    forward_seconds: Annotated[float, _FORWARD] = 0.0
    phase: Phase = "idle"
    batch_rows: Annotated[int, Measured("batch_rows", "Rows of a forward pass", _POWERS)] = 0
    batch_tokens: Annotated[int, Measured("batch_tokens", "Tokens of a forward pass", _TOKENS)] = 0
    finalized_tokens: Annotated[int, _FINALIZED] = 0
    replaced_tokens: Annotated[int, _REPLACED] = 0
    verifications: Annotated[int, _VERIFICATIONS] = 0
    draft_tokens: Annotated[int, _DRAFTED] = 0
    accepted_draft_tokens: Annotated[int, _ACCEPTED] = 0
    steps_per_block: Annotated[list[int], _BLOCK_STEPS] = []
    queue_seconds: Annotated[list[float], _QUEUE] = []
    admitted_prompt_tokens: Annotated[int, _LOOKED_UP] = 0
    cached_prompt_tokens: Annotated[int, _FOUND] = 0
    preemptions: Annotated[int, _PREEMPTED] = 0
    halved_steps: Annotated[int, Counted("halved_steps", "Steps taken in halves for want of GPU memory")] = 0
    recomputed_tokens: Annotated[int, Counted("recomputed_tokens", "Tokens computed again after preemption")] = 0
    early_stop_saved_blocks: Annotated[
        int, Counted("early_stop_saved_blocks", "Blocks not run because a stop token came")
    ] = 0
    nonfinite_sequences: Annotated[int, _NONFINITE] = 0
    running: int = 0
    waiting: int = 0
    pages_free: int = 0
    pages_active: int = 0
    pages_cached: int = 0


class StepReport(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """The outputs of one step, of any number of requests, and its figures."""

    outputs: list[BlockOutput]
    stats: EngineStats


class StepBegun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """The engine is about to run the first step of these requests; sent before the step, which may kill it."""

    request_ids: list[str]


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine has loaded its checkpoint and accepts requests.

    Prompt plus answer have at most ``max_guided_len`` tokens with guidance, else ``max_model_len``. ``can_replace``:
    whether requests may have an ``edit_threshold``.
    """

    max_model_len: int
    max_guided_len: int
    block_length: int
    confidence_threshold: float
    can_replace: bool
    vocab_size: int
    mask_token_id: int
    stop_token_ids: list[int]
    page_size: int
    num_pages: int
    max_num_seqs: int
    device: str
    dtype: str
    parameters: int


class EngineFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The engine could not start; ``message`` names the file or setting and the reason."""

    message: str


EngineOutput = StepReport | StepBegun | EngineReady | EngineFailed


def encode(message: object) -> bytes:
    """Encodes a message, or options, as msgpack."""
    return msgspec.msgpack.encode(message, enc_hook=vars)


def decoder(kind: Any) -> "msgspec.msgpack.Decoder[Any]":
    """A decoder for messages of the types ``kind``; invalid bytes raise ``msgspec.DecodeError``."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_validated)


def _validated(model: type[BaseModel], value: object) -> BaseModel:
    return model.model_validate(value)
