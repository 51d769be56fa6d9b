"""Tokens per second of processor time with verified drafts and without, in pairs, for drafts that agree at a set rate.

    OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python -m benchmarks.drafts --agreement 0.6

The model has the shape of SmolLM2-135M and random weights; ``--model`` takes another autoregressive checkpoint. The
adapter computes what a trained one does, and its drafts are replaced by tokens of the answer, each of which agrees with
the set probability if those before it did.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from cdlm.model.backbones import BACKBONES
from cdlm.model.config import Manifest, TransformerConfig
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.loading.checkpoint import describe_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions

SMOLLM2 = TransformerConfig(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
    tie_word_embeddings=True, rope_theta=100_000.0,
)  # fmt: skip
RANK = 32


def main(
    model: Annotated[Path | None, typer.Option(help="Checkpoint in the project's own format.")] = None,
    agreement: Annotated[float, typer.Option(help="Probability that a drafted token agrees.")] = 0.6,
    window: Annotated[int, typer.Option(help="Drafted tokens.")] = 4,
    draft_rows: Annotated[int, typer.Option(help="Most rows of a step that drafts.")] = 32,
    rows: Annotated[str, typer.Option(help="Batches to measure.")] = "1,4,16",
    tokens: Annotated[int, typer.Option(help="Tokens per answer.")] = 48,
    pairs: Annotated[int, typer.Option(help="Pairs of runs per batch.")] = 3,
    targets: Annotated[str, typer.Option(help="Layers that the adapter changes.")] = "o_proj,down_proj",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
) -> None:
    """Prints a line per batch: both rates of the best pair, the median ratio, and tokens per forward."""
    with tempfile.TemporaryDirectory() as directory:
        base = model or write_random_base(Path(directory) / "base")
        adapter = write_random_adapter(Path(directory) / "drafts", base, window, targets.split(","))
        options = {"model": str(base), "dtype": dtype, "max_num_seqs": 16, "max_model_len": 1024}
        plain = Engine(EngineOptions.model_validate(options))
        drafting = Engine(
            EngineOptions.model_validate({**options, "draft_adapter": str(adapter), "draft_rows": draft_rows})
        )
        for count in map(int, rows.split(",")):
            truth, _ = serve(plain, count, tokens)
            agree(drafting, truth, agreement)
            serve(drafting, count, tokens)
            found = [(serve(plain, count, tokens)[1], serve(drafting, count, tokens)[1]) for _ in range(pairs)]
            ratios = sorted(first[0] / second[0] for first, second in found)
            best = min(found, key=lambda pair: pair[0][0] + pair[1][0])
            rates = [count * tokens / seconds for seconds, _ in best]
            typer.echo(
                f"{count} rows: {rates[0]:.1f} -> {rates[1]:.1f} tokens per second of processor time, "
                f"ratio {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
                f"{(tokens - 1) / (best[1][1] - 1):.2f} tokens per forward"
            )


def serve(engine: Engine, rows: int, tokens: int) -> tuple[dict[str, list[int]], tuple[float, int]]:
    """Serves ``rows`` requests at once; returns their answers, and seconds of processor time and steps."""
    for row in range(rows):
        prompt = [5 + row + place for place in range(64)]
        engine.add(GenerateRequest(request_id=str(row), prompt_ids=prompt, max_tokens=tokens, ignore_eos=True))
    answers: dict[str, list[int]] = {str(row): [] for row in range(rows)}
    steps, started = 0, time.process_time()
    while engine.busy:
        for output in engine.step().outputs:
            answers[output.request_id] += output.token_ids
        steps += 1
    return answers, (time.process_time() - started, steps)


def agree(engine: Engine, truth: dict[str, list[int]], agreement: float) -> None:
    """Replaces the engine's drafts by tokens of ``truth`` that agree at a set rate."""
    assert engine.runner.drafting is not None
    rng = random.Random(0)

    def propose(work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        (sequence,) = (each for each in engine.scheduler.running if each.row == work.row)
        answered = work.block_start - sequence.prompt_length + len(accepted)
        known = truth[sequence.request.request_id][answered : answered + len(drafted)]
        return [token if rng.random() < agreement else (token + 1) % 1000 for token in known]

    engine.runner.drafting.verifier.propose = propose  # type: ignore[method-assign]


def write_random_base(directory: Path) -> Path:
    """Writes an autoregressive checkpoint with random weights."""
    torch.manual_seed(0)
    transformer = Transformer(SMOLLM2).to(torch.bfloat16)
    manifest = Manifest(
        block_length=1, confidence_threshold=0.9, mask_token_id=SMOLLM2.vocab_size, stop_token_ids=(2,),
        max_model_len=1024, shift=True, block_origin="absolute", prompt_attention="causal",
        first_token="autoregressive",
    )  # fmt: skip
    save_checkpoint(directory, transformer, manifest)
    return directory


def write_random_adapter(directory: Path, base: Path, window: int, targets: list[str]) -> Path:
    """Writes a gated adapter for the linear layers ``targets`` of a checkpoint, with small random weights."""
    with torch.device("meta"):
        transformer = Transformer(describe_checkpoint(base).shape)
    found = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    linears = {name: layer for name, layer in found.items() if name.rpartition(".")[2] in targets}
    lora = {
        name: (torch.randn(RANK, layer.in_features) * 0.01, torch.randn(layer.out_features, RANK) * 0.01)
        for name, layer in linears.items()
    }
    decoding = AdapterDecoding(drafts=GatedDrafts(mask_token_id=3, window=window))
    backbone = BACKBONES["cdlm"]
    write_adapter(directory, lora, backbone=backbone, r=RANK, alpha=RANK, base=str(base), decoding=decoding)
    return directory


if __name__ == "__main__":
    typer.run(main)
