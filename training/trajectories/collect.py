"""Records the teacher's decoding of examples, one token per step, shard by shard."""

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.training.config import CollectionSection
from cdlm.training.decoding.full import decode_full
from cdlm.training.decoding.rules import EngineRule
from cdlm.training.descent.parallel import barrier, rank, world_size
from cdlm.training.errors import TrainingError
from cdlm.training.trajectories.shard import Problem, Provenance, Shard
from cdlm.training.trajectories.store import TrajectoryWriter, model_fingerprint
from cdlm.training.trajectories.trajectory import Trajectory

logger = logging.getLogger(__name__)


def collect(
    model: Transformer,
    manifest: Manifest,
    examples: Iterable[tuple[list[int], list[int]]],
    directory: Path,
    section: CollectionSection,
    *,
    tokenizer: str,
    seed: int,
) -> None:
    """Decodes each example once per temperature and writes the trajectories to ``directory``.

    A row ends with the block that holds its stop token. Shard s holds the problems [s * shard_size, (s + 1) *
    shard_size) of a fixed list, so a killed run continues after the shards it has written. The processes of a group
    take turns at the shards; the first process writes the manifest at the end, with the shares of trajectories per
    temperature that stopped and that equal the truth.

    Args:
        examples: (prompt ids, truth ids) pairs; the truth ends with one end token.
        tokenizer: fingerprint of the tokenizer of the examples.
        seed: seed of the sampling noise.

    Raises:
        TrainingError: there is nothing to collect, or ``directory`` holds shards of another teacher, of other
            settings or of other examples.
        ValueError: a prompt is empty or leaves no room for ``generation_length``.
    """
    problems = [(prompt, truth, temperature) for prompt, truth in examples for temperature in section.temperatures]
    if not problems:
        raise TrainingError(f"{directory}: no examples or no temperatures to collect trajectories for")
    provenance = Provenance(
        tokenizer=tokenizer,
        teacher=model_fingerprint(model),
        block_length=manifest.block_length,
        generation_length=section.generation_length,
        hidden_size=model.config.hidden_size,
        mask_id=manifest.mask_token_id,
        shift=manifest.shift,
        temperatures=section.temperatures,
        seed=seed,
    )
    writer = TrajectoryWriter(directory, provenance)
    size = section.shard_size
    shards = [problems[start : start + size] for start in range(0, len(problems), size)]
    mine = range(len(shards))[rank() :: world_size()]
    pending = [number for number in mine if not writer.done(number, shards[number])]
    total, left = (sum(len(shards[number]) for number in numbers) for numbers in (mine, pending))
    silent = None if rank() == 0 else True
    bar = tqdm(total=total, initial=total - left, desc="trajectories", unit="trajectory", disable=silent)
    with bar, logging_redirect_tqdm():
        for number in pending:
            recorded: dict[int, Trajectory] = {}
            for batch in _batches(shards[number], section.batch_size):
                seeds = [(seed << 32) + number * size + index for index in batch]
                chosen = [shards[number][index] for index in batch]
                decoded = _decode(model, manifest, chosen, seeds, section.generation_length)
                recorded.update(zip(batch, decoded, strict=True))
                bar.update(len(batch))
            writer.write(number, [recorded[index] for index in range(len(recorded))])
    barrier()
    if rank() == 0:
        quality = _quality([writer.shard(number) for number in range(len(shards))], manifest.stop_token_ids)
        writer.finish(len(shards), quality)
        logger.info("trajectories: %d in %s, %s", len(problems), directory, quality)
    barrier()


def _batches(problems: list[Problem], batch_size: int) -> Iterator[list[int]]:
    """Yields indices of problems to decode together: equal temperature, similar prompt length."""
    order = sorted(range(len(problems)), key=lambda index: (problems[index][2], len(problems[index][0])))
    for _, group in groupby(order, key=lambda index: problems[index][2]):
        indexes = list(group)
        for start in range(0, len(indexes), batch_size):
            yield indexes[start : start + batch_size]


def _decode(
    model: Transformer, manifest: Manifest, problems: list[Problem], seeds: list[int], generation_length: int
) -> list[Trajectory]:
    """Decodes ``problems``, which share a temperature."""
    temperature = problems[0][2]
    decodings = decode_full(
        model,
        manifest,
        [prompt for prompt, _, _ in problems],
        generation_length=generation_length,
        rule=EngineRule("fixed_steps"),
        temperature=temperature,
        seeds=seeds,
        early_stop=True,
        keep_hidden=True,
    )
    trajectories = []
    for (prompt, truth, _), decoding in zip(problems, decodings, strict=True):
        assert decoding.hidden is not None
        hidden = decoding.hidden.to("cpu", torch.bfloat16)
        tokens, order = decoding.tokens.cpu(), decoding.order.cpu()
        trajectories.append(Trajectory(prompt, truth, tokens, order, hidden, temperature, generation_length))
    return trajectories


def _quality(shards: list[Shard], stop_ids: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Per temperature: number of trajectories, share that stopped, and share whose answer equals the truth."""
    found: dict[float, list[tuple[bool, bool]]] = {}
    for shard in shards:
        for index in range(len(shard)):
            _, truth, temperature = shard.problem(index)
            answer = _answer(shard.tokens(index), stop_ids)
            found.setdefault(temperature, []).append((answer is not None, answer == truth))
    return {
        str(temperature): {
            "count": len(entries),
            "stopped": round(sum(stopped for stopped, _ in entries) / len(entries), 4),
            "exact": round(sum(exact for _, exact in entries) / len(entries), 4),
        }
        for temperature, entries in sorted(found.items())
    }


def _answer(tokens: Tensor, stop_ids: tuple[int, ...]) -> list[int] | None:
    """The ids up to and including the first stop token; ``None`` if there is none."""
    ids: list[int] = tokens.tolist()
    first = next((index for index, token in enumerate(ids) if token in stop_ids), None)
    return None if first is None else ids[: first + 1]
