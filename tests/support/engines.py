"""Runs requests through the engine and through the slow decoder."""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import msgspec
from safetensors.torch import load_file
from torch import Tensor

from cdlm.model.config import Manifest, TransformerConfig
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import EOS
from tests.support.oracle.decoder import OracleAnswer, decode
from tests.support.oracle.edits import OracleEdits
from tests.support.oracle.guide import OracleGuide


class Answer:
    """All blocks of one request."""

    def __init__(self, outputs: list[BlockOutput]) -> None:
        self.token_ids = [token for output in outputs for token in output.token_ids]
        self.logprobs = [entry for output in outputs for entry in output.logprobs or []]
        self.step_map = [step for output in outputs for step in output.step_map or []]
        self.finish_reason = outputs[-1].finish_reason
        self.steps = [output.denoise_steps for output in outputs]


def run(engine: Engine, requests: list[GenerateRequest], join_every: int = 0) -> dict[str, Answer]:
    """Runs all requests; with ``join_every``, one more joins after every so many steps."""
    queue = list(requests)
    outputs: dict[str, list[BlockOutput]] = defaultdict(list)
    step = 0
    while queue or engine.busy:
        while queue and (not join_every or step % join_every == 0 or not engine.busy):
            engine.add(queue.pop(0))
            if join_every:
                break
        for output in engine.step().outputs:
            outputs[output.request_id].append(output)
        engine.check()
        step += 1
    assert engine.cache.pool.active == 0
    return {name: Answer(blocks) for name, blocks in outputs.items()}


def engine_with_few_pages(directory: Path) -> Engine:
    """30 pages of 4 tokens, so that eight requests cannot all run at once."""
    roomy = Engine(EngineOptions(model=str(directory), page_size=4))
    bytes_per_page = roomy.runner.cache.keys[:, :4].numel() * 2 * 4
    return Engine(EngineOptions(model=str(directory), page_size=4, kv_cache_memory=30 * bytes_per_page))


@dataclass(frozen=True)
class _Asked:
    """What the slow decoder is asked; equal where weights and all that it is told are equal, wherever they lie."""

    told: str
    weights: dict[str, Tensor] = field(compare=False)
    shape: TransformerConfig = field(compare=False)
    manifest: Manifest = field(compare=False)
    request: GenerateRequest = field(compare=False)
    guide: OracleGuide | None = field(compare=False)


@lru_cache(maxsize=4)
def _read(directory: Path, changed_ns: int) -> tuple[dict[str, Tensor], TransformerConfig, Manifest, str]:
    """Reads weights, shape and manifest, and their digest; cached while the file does not change."""
    checkpoint = load_checkpoint(directory)
    weights = {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    shape, manifest = checkpoint.transformer.config, checkpoint.manifest
    return weights, shape, manifest, _digest(weights, shape, manifest)


def _digest(weights: dict[str, Tensor], *more: object) -> str:
    """A digest of all weights and of what ``more`` looks like."""
    found = sha256(repr(more).encode())
    for name, weight in weights.items():
        found.update(f"{name} {list(weight.shape)}".encode() + weight.detach().numpy().tobytes())
    return found.hexdigest()


def _changed_ns(directory: Path) -> int:
    return (directory / "model.safetensors").stat().st_mtime_ns


def read_checkpoint(directory: Path) -> tuple[dict[str, Tensor], TransformerConfig, Manifest]:
    """Weights, shape and manifest of a checkpoint, as the slow decoder takes them."""
    return _read(directory, _changed_ns(directory))[:3]


def oracle_answer(directory: Path, request: GenerateRequest, guide: OracleGuide | None = None) -> OracleAnswer:
    """The slow decoder's answer; with a guide, the rule of requests that name none is ``guide``.

    Tests ask much of it more than once, for the same weights in other folders too: it decodes once.
    """
    weights, shape, manifest, digest = _read(directory, _changed_ns(directory))
    unnamed = msgspec.structs.replace(request, request_id="")
    told = repr((digest, guide and _digest(guide.weights, guide.shape), unnamed))
    return _decoded(_Asked(told, weights, shape, manifest, request, guide))


@lru_cache(maxsize=1024)
def _decoded(asked: _Asked) -> OracleAnswer:
    request, guide = asked.request, asked.guide
    return decode(
        asked.weights,
        asked.shape,
        asked.manifest,
        list(request.prompt_ids),
        request.max_tokens,
        rule=request.params.rule("guide" if guide else "threshold"),
        threshold=request.params.confidence_threshold,
        factor=1.0 if request.params.decoding_factor is None else request.params.decoding_factor,
        entropy_bound=0.1 if request.params.entropy_bound is None else request.params.entropy_bound,
        steps_per_block=request.params.steps_per_block,
        guidance_scale=request.params.guidance_scale,
        temperature=request.params.temperature,
        seed=request.params.seed,
        ignore_eos=request.ignore_eos,
        edits=OracleEdits(
            presence_penalty=request.params.presence_penalty,
            frequency_penalty=request.params.frequency_penalty,
            repetition_penalty=request.params.repetition_penalty,
            logit_bias=request.params.logit_bias,
            min_tokens=request.params.min_tokens,
            allowed_token_ids=tuple(request.params.allowed_token_ids),
            bad_words=tuple(tuple(word) for word in request.params.bad_words),
        ),
        pinned=request.pinned,
        edit_threshold=None if request.params.edit_threshold == 1.0 else request.params.edit_threshold,
        guide=guide,
    )


def random_requests(count: int, seed: int) -> list[GenerateRequest]:
    """Requests of all lengths, which ask for the step of each token as well."""
    rng = random.Random(seed)
    return [
        GenerateRequest(
            request_id=f"r{index}",
            prompt_ids=[rng.randrange(EOS) for _ in range(rng.randint(1, 37))],
            max_tokens=rng.randint(1, 45),
            params=DecodingParams(confidence_threshold=rng.choice((None, 0.2, 0.9))),
            ignore_eos=rng.random() < 0.5,
            step_map=True,
        )
        for index in range(count)
    ]


def assert_equal_to_oracle(
    directory: Path, requests: list[GenerateRequest], answers: dict[str, Answer], guide: OracleGuide | None = None
) -> None:
    for request in requests:
        truth, answer = oracle_answer(directory, request, guide), answers[request.request_id]
        assert answer.token_ids == truth.token_ids, request
        assert (answer.finish_reason, answer.steps) == (truth.finish_reason, truth.steps), request
        assert answer.step_map == (truth.step_map if request.step_map else []), request


def kept_pages(engine: Engine) -> list[int]:
    """The pages of all entries of the prefix cache, of the oldest first."""
    return [page for entry in engine.cache._entries.values() for page in entry.pages]
