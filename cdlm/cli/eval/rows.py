"""The rows of the comparison table: each decodes one of three models in one way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import DEFAULT_ENTROPY_BOUND, DEFAULT_FACTOR
from cdlm.model.device import resolve_device, resolve_dtype
from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.errors import EngineError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.training.decoding.block_caches import DualCacheDecoder, PrefixCacheDecoder
from cdlm.training.decoding.decoder import CachedDecoder, Decoding, FullDecoder, TeacherDecoder
from cdlm.training.decoding.dkv_cache import DelayedCacheDecoder
from cdlm.training.decoding.dllm_cache import AdaptiveCacheDecoder
from cdlm.training.decoding.rules import EngineRule, Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAIVE, STOPPED, TRUNCATED, REFERENCE_STUDENT = (
    "naive_teacher", "naive_teacher_early_stop", "truncated_teacher", "student",
)  # fmt: skip

# Name of the row: what it does.
ROWS: dict[str, str] = {
    NAIVE: "full forwards, 1 token a step, whole canvas",
    STOPPED: "full forwards, 1 token a step, ends after the block with the end token",
    TRUNCATED: "full forwards, as many steps a block as the student takes, whole canvas",
    "prefix_cache": "Fast-dLLM prefix cache, threshold 0.9",
    "dual_cache": "Fast-dLLM dual cache, threshold 0.9",
    "dkv_cache": "dKV-Cache-Decode, 1 token a step, refreshed every 8 steps",
    "dllm_cache": "dLLM-Cache, 1 token a step, prompt every 50 steps, response every 7, ratio 0.25",
    "eb_sampler_teacher": f"full forwards, EB-Sampler, entropy bound {DEFAULT_ENTROPY_BOUND:g}",
    REFERENCE_STUDENT: "engine, as the checkpoint says: what is served unless a request asks otherwise",
    "student_tau_0.85": "engine, threshold 0.85",
    "student_tau_0.9": "engine, threshold 0.9",
    "student_tau_0.95": "engine, threshold 0.95",
    "student_tau_0.98": "engine, threshold 0.98",
    "student_tau_0.99": "engine, threshold 0.99",
    "student_factor": f"engine, factor {DEFAULT_FACTOR:g}",
    "student_eb_sampler": f"engine, entropy bound {DEFAULT_ENTROPY_BOUND:g}",
    "autoregressive": "engine, 1 token a step",
}
_STUDENT: dict[str, DecodingParams] = {
    REFERENCE_STUDENT: DecodingParams(),
    "student_tau_0.85": DecodingParams(confidence_threshold=0.85),
    "student_tau_0.9": DecodingParams(confidence_threshold=0.9),
    "student_tau_0.95": DecodingParams(confidence_threshold=0.95),
    "student_tau_0.98": DecodingParams(confidence_threshold=0.98),
    "student_tau_0.99": DecodingParams(confidence_threshold=0.99),
    "student_factor": DecodingParams(decoding="factor", decoding_factor=DEFAULT_FACTOR),
    "student_eb_sampler": DecodingParams(decoding="entropy_bound", entropy_bound=DEFAULT_ENTROPY_BOUND),
}


class TableError(RuntimeError):
    """The table cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens before the end token, and the work that they took; ``blocks`` counts decoded blocks."""

    token_ids: list[int]
    steps: int
    forwards: int
    blocks: int


Answerer = Callable[[list[list[int]]], list[Answer]]


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the table.

    Attributes:
        checkpoint: directory of its model.
        decoding: its decoder's settings, as JSON; with the checkpoint they fix the answers.
        tokenizer: its model's tokenizer.
        answer: decodes one request, for timing.
        answer_many: decodes many requests in batches, to the same tokens and figures as ``answer``.
    """

    name: str
    checkpoint: Path
    decoding: dict[str, Any]
    tokenizer: "PreTrainedTokenizerBase"
    answer: Answerer
    answer_many: Answerer


class Models:
    """Teacher, student and autoregressive model, each loaded when it is first needed.

    Args:
        runs: training run whose stages hold the checkpoints; ``None`` takes the bundled ones.
        generation_length: tokens on a teacher's canvas, and the most an engine generates.

    Raises (on use):
        CheckpointError, EngineStartError: a checkpoint cannot be loaded.
    """

    def __init__(self, runs: Path | None, generation_length: int) -> None:
        self.generation_length = generation_length
        names = ("teacher", "student", "autoregressive")
        if runs is None:
            bundled = {"student": BUNDLED_STUDENT}
            self.directories = {
                name: bundled.get(name, BUNDLED_STUDENT.with_name(f"{BUNDLED_STUDENT.name}-{name}")) for name in names
            }
        else:
            self.directories = {name: runs / name / "checkpoint" for name in names}
        self.device = resolve_device("auto")
        self._llms: dict[str, OfflineEngine] = {}
        self._stopped: dict[tuple[int, ...], Answer] = {}

    @cached_property
    def teacher(self) -> Checkpoint:
        """The bidirectional model."""
        dtype = resolve_dtype("auto", self.device)
        checkpoint = load_checkpoint(self.directories["teacher"], device=self.device, dtype=dtype)
        checkpoint.transformer.fuse()  # As the engine does: the rows differ in how they decode, not in the model code.
        return checkpoint

    def llm(self, name: str) -> OfflineEngine:
        """An engine for the stage ``student`` or ``autoregressive``, in this process."""
        if name not in self._llms:
            # Repetitions of a problem are timed: its prompt must be computed every time.
            options = EngineOptions(
                model=str(self.directories[name]),
                device=str(self.device),
                max_num_seqs=32,
                enable_prefix_caching=False,
            )
            self._llms[name] = OfflineEngine(options)
        return self._llms[name]

    def row(self, name: str, *, truncated_count: int) -> TableRow:
        """Makes the row ``name`` of ``ROWS``; ``truncated_count`` is the tokens per step of the truncated teacher."""
        if name in _STUDENT or name == "autoregressive":
            model = "student" if name in _STUDENT else name
            directory, params = self.directories[model], _STUDENT.get(name, DecodingParams())
            answer = self._engine_answerer(model, params)
            return TableRow(name, directory, params.model_dump(), load_tokenizer(directory), answer, answer)
        directory = self.directories["teacher"]
        settings = {"decoding": ROWS[name], **({"tokens_per_step": truncated_count} if name == TRUNCATED else {})}
        row = partial(TableRow, name, directory, settings, load_tokenizer(directory))
        one = self._teacher_answerer(self._decoder(name, truncated_count, early_stop=name not in (NAIVE, TRUNCATED)))
        if name == STOPPED:
            return row(one, self._once(one))
        if name not in (NAIVE, TRUNCATED):
            return row(one, one)
        # Later blocks change nothing before them, so the tokens are known once the end token is.
        block = self.teacher.manifest.block_length
        blocks = self.generation_length // block
        steps = blocks * -(-block // (1 if name == NAIVE else truncated_count))
        stopped = self._teacher_answerer(self._decoder(name, truncated_count, early_stop=True))
        if name == NAIVE:
            stopped = self._once(stopped)

        def answer_many(prompts: list[list[int]]) -> list[Answer]:
            return [Answer(found.token_ids, steps, steps, blocks) for found in stopped(prompts)]

        return row(one, answer_many)

    def _once(self, answerer: Answerer) -> Answerer:
        """The teacher's full decoding with early stop; cached, since two rows need it."""

        def answer(prompts: list[list[int]]) -> list[Answer]:
            fresh = [prompt for prompt in prompts if tuple(prompt) not in self._stopped]
            if fresh:
                self._stopped.update(zip(map(tuple, fresh), answerer(fresh), strict=True))
            return [self._stopped[tuple(prompt)] for prompt in prompts]

        return answer

    def _decoder(self, name: str, truncated_count: int, *, early_stop: bool) -> TeacherDecoder:
        parts = self.teacher.transformer, self.teacher.manifest
        length = self.generation_length
        cached: dict[str, Callable[..., CachedDecoder]] = {
            "prefix_cache": PrefixCacheDecoder,
            "dual_cache": DualCacheDecoder,
            "dkv_cache": DelayedCacheDecoder,
            "dllm_cache": AdaptiveCacheDecoder,
        }
        if name in cached:
            return cached[name](*parts, generation_length=length, early_stop=early_stop)
        rule: Rule = EngineRule("fixed_steps", at_least=truncated_count if name == TRUNCATED else 1)
        if name == "eb_sampler_teacher":
            rule = EngineRule("entropy_bound", DEFAULT_ENTROPY_BOUND)
        return FullDecoder(*parts, generation_length=length, early_stop=early_stop, rule=rule)

    def _teacher_answerer(self, decoder: TeacherDecoder) -> Answerer:
        block = self.teacher.manifest.block_length

        def answer(found: Decoding) -> Answer:
            return Answer(found.tokens, found.steps, found.steps, found.filled // block)

        return lambda prompts: [answer(found) for found in decoder(prompts)]

    def _engine_answerer(self, model: str, params: DecodingParams) -> Answerer:
        llm = self.llm(model)

        def answer(prompts: list[list[int]]) -> list[Answer]:
            requests = [
                GenerateRequest(
                    request_id=str(index), prompt_ids=prompt, max_tokens=self.generation_length, params=params
                )
                for index, prompt in enumerate(prompts)
            ]
            try:
                found = llm.generate(requests)
            except EngineError as error:
                raise TableError(f"the engine of the {model} model failed: {error}") from error
            return [Answer(done.token_ids, done.denoise_steps, done.forward_passes, done.blocks) for done in found]

        return answer
