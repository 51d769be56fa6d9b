"""Typed messages between the API process and the engine process (msgpack through msgspec, never pickle)."""

from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from cdlm.model.decoding.params import DecodingParams

FinishReason = Literal["stop", "length", "error"]
Phase = Literal["prefill", "denoise", "commit", "score", "mixed", "idle"]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Generate at most ``max_tokens`` tokens after ``prompt_ids``.

    ``logprobs`` asks for the log-probability of every token and of that many alternatives. ``stream_prefix`` asks for
    tokens as soon as all before them are finalized, ``stream_canvas`` for the block after every denoise step.
    ``grammar``, in the Lark dialect of llguidance, is what the answer must be by the time a stop token ends it
    (docs/structured-output.md).

    ``pinned`` are the tokens behind ``max_tokens`` generated ones. Those of them that lie in the same block as the last
    generated one are known there from its first step on, so that it is denoised between both; the others are not used.

    ``client`` is whom the request is for: those that wait are admitted fairly between clients. ``priority``, in
    -2**31 .. 2**31 - 1, orders the waiting requests of one client: those with a lower value are admitted first, equal
    ones in the order in which they came, and so that none starves one in eight is the client's oldest in any case. It
    changes no other client's share, and nothing once a request runs.

    Only requests with the same ``cache_salt`` share keys and values of prompts that begin alike; "" is one too.
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
    grammar: str | None = None
    pinned: list[int] = []
    client: str = ""
    priority: int = 0
    cache_salt: str = ""


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Tell the log-probability of every prompt token given those before it, and of ``logprobs`` alternatives.

    It is answered with one ``BlockOutput`` whose ``logprobs`` begin with the second token; their ``step`` is 0.
    ``client`` and ``priority`` order those that wait to be scored as they do ``GenerateRequest``s. Scoring reads and
    leaves no keys and values of other requests, which is all that a ``cache_salt`` can ask for.
    """

    request_id: str
    prompt_ids: list[int]
    logprobs: int = 0
    client: str = ""
    priority: int = 0
    cache_salt: str = ""


class AbortRequest(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Drop a request, whatever its state; unknown ids are no error (it may have just finished)."""

    request_id: str


class ShutdownRequest(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave the step loop and exit 0."""


EngineInput = GenerateRequest | ScoreRequest | AbortRequest | ShutdownRequest


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's log-probability in the model's own distribution (docs/sampling.md).

    ``step`` is the denoise step of its block that finalized it, from 1 on; ``top_ids`` and ``top_logprobs`` are the
    likeliest tokens in its place, best first.
    """

    token_id: int
    logprob: float
    step: int
    top_ids: list[int]
    top_logprobs: list[float]


class BlockCanvas(msgspec.Struct, frozen=True, array_like=True):
    """A block after a denoise step: generated positions up to ``max_tokens``, ``None`` where nothing is finalized.

    ``steps`` says after which denoise step each was finalized, from 1 on.
    """

    step: int
    token_ids: list[int | None]
    steps: list[int | None]


class BlockOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one finished block (the last one may be cut by ``max_tokens`` or a stop token).

    A ``partial`` one comes before its block is finished: its tokens will not change, and the next output of the block
    begins behind them.

    A stop token that ended the request is not part of ``token_ids``; ``stop_token_id`` is that token where it is one of
    the request's own, ``None`` for an end token of the checkpoint. ``denoise_steps`` and
    ``forward_passes`` count what this block took; ``cached_tokens`` are the request's prompt tokens that need not be
    computed, ``queue_seconds`` how long it waited for its first step; both are the same in each of its blocks.
    ``logprobs``, if they were asked for, are those of ``token_ids``, and of the stop token after them if one ended the
    request.
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


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one engine step (durations in seconds) and of the state it left behind.

    ``admitted_prompt_tokens`` are the prompts of requests that took part for the first time, ``cached_prompt_tokens``
    those of their tokens that the prefix cache held. ``nonfinite_sequences`` ended because the model's logits were NaN
    or infinite.
    """

    forward_seconds: float = 0.0
    phase: Phase = "idle"
    batch_rows: int = 0
    batch_tokens: int = 0
    finalized_tokens: int = 0
    steps_per_block: list[int] = []
    queue_seconds: list[float] = []
    admitted_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    early_stop_saved_blocks: int = 0
    nonfinite_sequences: int = 0
    running: int = 0
    waiting: int = 0
    pages_free: int = 0
    pages_active: int = 0
    pages_cached: int = 0


class StepReport(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """What one step produced: finished blocks of any number of requests, and the figures."""

    outputs: list[BlockOutput]
    stats: EngineStats


class StepBegun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """The engine begins to work on these requests; sent before their first step, which may kill it."""

    request_ids: list[str]


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine has loaded its checkpoint and takes requests.

    Prompt and answer of a request with guidance have at most ``max_guided_len`` tokens, of others ``max_model_len``.
    """

    max_model_len: int
    max_guided_len: int
    block_length: int
    confidence_threshold: float
    vocab_size: int
    mask_token_id: int
    stop_token_ids: list[int]
    page_size: int
    num_pages: int
    device: str
    dtype: str
    parameters: int


class EngineFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The engine could not start; ``message`` names the file or setting and the reason."""

    message: str


EngineOutput = StepReport | StepBegun | EngineReady | EngineFailed


def encode(message: EngineInput | EngineOutput) -> bytes:
    """A message as bytes."""
    return msgspec.msgpack.encode(message, enc_hook=vars)


def decoder(kind: Any) -> "msgspec.msgpack.Decoder[Any]":
    """Reads messages of the types ``kind``; bytes that are none raise ``msgspec.DecodeError``."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_validated)


def _validated(model: type[BaseModel], value: object) -> BaseModel:
    return model.model_validate(value)
