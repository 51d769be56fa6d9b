"""The stage between teacher and student: the teacher's trajectories on problems of the training split."""

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from cdlm.training.batches.stream import encode
from cdlm.training.config import RecipeConfig
from cdlm.training.data.mixture import training_stream
from cdlm.training.descent.stages import load_stage
from cdlm.training.trajectories.collect import collect
from cdlm.training.trajectories.store import tokenizer_fingerprint


def run_trajectories(config: RecipeConfig, directory: Path) -> None:
    """Collects or resumes ``directory/trajectories`` from ``directory/teacher``; a worker's entry point.

    Raises:
        TrainingError: the teacher is missing, or the directory holds trajectories of another one.
    """
    checkpoint, tokenizer = load_stage(directory, "teacher")
    section, seed = config.trajectories, f"{config.seed}/trajectories"
    problems = list(islice(training_stream(seed, dict(config.mixture)), section.examples))
    examples = [
        (example.prompt, example.answer)
        for example in encode(problems, tokenizer, random.Random(seed))
        if len(example.answer) <= section.generation_length  # The teacher could not finish the others.
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        collect(
            checkpoint.transformer,
            replace(checkpoint.manifest, block_length=config.manifest.block_length),
            examples,
            directory / "trajectories",
            section,
            tokenizer=tokenizer_fingerprint(tokenizer),
            seed=config.seed,
        )
