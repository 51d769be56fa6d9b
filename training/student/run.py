"""The student stage of a small model: all weights train, starting from the teacher's."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cdlm.training.batches.stream import encode
from cdlm.training.config import RecipeConfig
from cdlm.training.data.mixture import training_stream
from cdlm.training.data.problem import Task
from cdlm.training.descent.loop import workers_share
from cdlm.training.descent.parallel import rank, world_size
from cdlm.training.descent.stages import load_stage, train_stage
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
    teacher, tokenizer = load_stage(directory, "teacher")
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
    held_out = stream.rows(range(stream.held_out), "development") if stream.held_out else None

    def measure() -> dict[str, float]:
        if held_out is None:
            return {}
        _, figures = objective(held_out)
        return {f"development_{name}": figure for name, figure in figures.items()}

    train_stage(directory / "student", section, model, tokenizer, manifest, stream.batches, objective, measure)


def _draw_truth(
    mixture: dict[Task, float], tokenizer: PreTrainedTokenizerBase, seed: str, count: int
) -> list[tuple[list[int], list[int]]]:
    """``count`` new problems of the training split."""
    problems = list(islice(training_stream(f"truth/{seed}", mixture), count))
    return [(example.prompt, example.answer) for example in encode(problems, tokenizer, random.Random(seed))]
