"""Collects trajectories of a pretrained teacher checkpoint."""

import logging
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import Manifest
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.config import AdapterConfig
from cdlm.training.backbone.examples import read_examples
from cdlm.training.errors import TrainingError
from cdlm.training.trajectories.collect import collect
from cdlm.training.trajectories.store import tokenizer_fingerprint

logger = logging.getLogger(__name__)


def collect_backbone(config: AdapterConfig, directory: Path) -> None:
    """Collects trajectories into ``directory/trajectories``, or resumes; ``torchrun`` processes share the work.

    Each process holds the whole teacher. Examples that exceed the generation length or the context are skipped; the log
    counts them.

    Raises:
        CheckpointError: the teacher or its tokenizer cannot be loaded.
        TrainingError: the examples cannot be used, or the directory holds the trajectories of others.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    section = config.trajectories
    if section.generation_length % config.block_length:
        raise TrainingError(
            f"generation_length {section.generation_length} is not a multiple of block_length {config.block_length}"
        )
    dtype = torch.float32 if config.optimization.mixed_precision == "no" else torch.bfloat16
    checkpoint = load_checkpoint(config.model, device=state.device, dtype=dtype, block_length=config.block_length)
    manifest, tokenizer = checkpoint.manifest, load_tokenizer(config.model)
    end_id = _end_id(section.end_token, tokenizer, manifest)
    examples = read_examples(config.data, tokenizer, chat_template=section.chat_template, end_id=end_id)
    fitting = [
        (prompt, truth)
        for prompt, truth in examples
        if len(truth) <= section.generation_length and len(prompt) + section.generation_length <= manifest.max_model_len
    ]
    if len(fitting) < len(examples):
        logger.warning("%s: %d of %d examples are too long", config.data, len(examples) - len(fitting), len(examples))
    collect(
        checkpoint.transformer,
        manifest,
        fitting,
        directory / "trajectories",
        section,
        tokenizer=tokenizer_fingerprint(tokenizer),
        seed=config.seed,
    )


def _end_id(token: str | None, tokenizer: PreTrainedTokenizerBase, manifest: Manifest) -> int:
    if token is None:
        return manifest.stop_token_ids[0]
    found = tokenizer.get_vocab().get(token)
    if found not in manifest.stop_token_ids:
        raise TrainingError(f"end_token {token!r} is not one of the checkpoint's stop tokens {manifest.stop_token_ids}")
    return int(found)
