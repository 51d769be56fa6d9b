"""The student stage of a small model: all weights train, starting from the teacher's."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.batches.stream import encode
from cdlm.training.config import RecipeConfig
from cdlm.training.data.mixture import training_stream
from cdlm.training.data.problem import Task
from cdlm.training.descent.loop import Loop, workers_share
from cdlm.training.descent.optimizers import make_optimizers
from cdlm.training.descent.parallel import rank, world_size
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import export
from cdlm.training.student.objective import AskedLogits, StudentObjective
from cdlm.training.student.stream import StudentStream
from cdlm.training.trajectories.store import TrajectoryStore, tokenizer_fingerprint
from cdlm.training.trajectories.trajectory import Trajectory

logger = logging.getLogger(__name__)

_HELD_OUT = 16  # Trajectories whose losses are logged and never trained on; fewer in a small store.


def run_student(config: RecipeConfig, directory: Path) -> None:
    """Trains or resumes the student in ``directory/student`` on ``directory/trajectories``; a worker's entry point.

    ``directory/student/checkpoint`` can be served: the teacher's manifest with the configured block length and
    threshold.

    Raises:
        TrainingError: the teacher or its trajectories are missing or do not fit, or the loss is not finite.
    """
    source = directory / "teacher" / "checkpoint"
    if not (source / "model.safetensors").exists():
        raise TrainingError(f"{source} is missing: run the teacher stage first")
    teacher, tokenizer = load_checkpoint(source), load_tokenizer(source)
    manifest = replace(
        teacher.manifest,
        block_length=config.manifest.block_length,
        confidence_threshold=config.manifest.confidence_threshold,
        bidirectional=False,
    )
    section, model = config.student, teacher.transformer
    store = TrajectoryStore.open(
        directory / "trajectories",
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        block_length=manifest.block_length,
        hidden_size=model.config.hidden_size,
    )
    trajectories: Sequence[Trajectory] = store
    if section.only_exact:
        trajectories = [trajectory for trajectory in store if trajectory.exact]
        logger.info("student: %d of %d trajectories arrived at the truth", len(trajectories), len(store))
    stream = StudentStream(
        trajectories,
        seed=f"{config.seed}/student",
        mask_id=manifest.mask_token_id,
        end_id=manifest.stop_token_ids[0],
        block_length=manifest.block_length,
        held_out=min(_HELD_OUT, len(trajectories) // _HELD_OUT),
        max_tokens=workers_share(section.tokens_per_batch),
        first_step=section.first_step,
        consistency_share=section.consistency_share,
        fresh_truth=partial(_draw_truth, dict(config.mixture), tokenizer) if section.fresh_truth else None,
        truths=section.truths,
        rank=rank(),
        world_size=world_size(),
    )
    # The objective keeps the head as it is now, the teacher's: the loop puts a resumed student's weights in place.
    objective = StudentObjective(AskedLogits(model, shift=manifest.shift), model.lm_head.weight, section)
    model.train().requires_grad_(True)
    # The residual stream in bf16 halves the memory traffic that dominates small layers on a CPU.
    model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))
    held_out = stream.rows(range(stream.held_out), "development") if stream.held_out else None

    def measure() -> dict[str, float]:
        if held_out is None:
            return {}
        _, figures = objective(held_out)
        return {f"development_{name}": figure for name, figure in figures.items()}

    Loop(
        directory / "student",
        section,
        model,
        make_optimizers(model, section),
        batches=stream.batches,
        loss=objective,
        measure=measure,
        export=partial(export, directory / "student" / "checkpoint", model, tokenizer, manifest),
    ).run()


def _draw_truth(
    mixture: dict[Task, float], tokenizer: PreTrainedTokenizerBase, seed: str, count: int
) -> list[tuple[list[int], list[int]]]:
    """``count`` new problems of the training split."""
    problems = list(islice(training_stream(f"truth/{seed}", mixture), count))
    return [(example.prompt, example.answer) for example in encode(problems, tokenizer, random.Random(seed))]
