"""Compares products with int8 weights and int8 activations with packed fp32 and bf16, on one CPU core.

    taskset -c 0 .venv/bin/python -m benchmarks.int8 products
    .venv/bin/python -m benchmarks.int8 scores --count 400

A case is all products of one layer: queries, keys and values together, output, gate and up together, down. In a round
every kind runs once, and ratios are formed inside rounds, so that what else the machine does weighs on all alike.
Scores are those of the bundled student on the problems of ``cdlm eval``, with plain and with such products.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

from cdlm.cli.eval.sets import draw_evaluation, is_right
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.packing import PackedProduct
from cdlm.model.network.mlp import MLP
from cdlm.model.network.transformer import Layer, Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions

Product = Callable[[Tensor], Tensor]

BLOCK = 32
ROWS = (1, 16)
# Width, width of keys and values, hidden units: the shapes of ``benchmarks/speed/contenders/shapes.py``.
LAYERS = {"dream-0.1b": (384, 128, 1536), "dream-0.5b": (896, 128, 4864)}


def shapes(name: str) -> list[tuple[int, int]]:
    """Outputs and inputs of the products of one layer."""
    width, kv, hidden = LAYERS[name]
    return [(width + 2 * kv, width), (width, width), (2 * hidden, width), (width, hidden)]


class TokenScaled:
    """Weights [out, in] with a scale per output and activations with a scale per token, through oneDNN."""

    def __init__(self, weight: Tensor) -> None:
        self._scales = weight.abs().amax(dim=1) / 127
        rounded = (weight / self._scales[:, None]).round().to(torch.int8)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(127)
        rounded = (x / scale).round_().to(torch.int8)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 0, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.mul_(scale)


def whole_scaled(weight: Tensor) -> Product:
    """PyTorch's dynamic linear layer: one scale for all tokens of a forward, so rows depend on each other."""
    linear = nn.Linear(weight.shape[1], len(weight), bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig  # type: ignore[assignment]
    made: Product = DynamicLinear.from_float(linear)  # type: ignore[no-untyped-call]
    return made


KINDS: dict[str, tuple[Callable[[Tensor], Product], torch.dtype]] = {
    "packed fp32": (PackedProduct, torch.float32),
    "packed bf16": (lambda weight: PackedProduct(weight.bfloat16()), torch.bfloat16),
    "int8, a scale per token": (TokenScaled, torch.float32),
    "int8, a scale per forward": (whole_scaled, torch.float32),
}


def measured(name: str, rows: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds of each kind's milliseconds, and of its ratios to the packed products of the same round."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(out, into, generator=generator) / into**0.5 for out, into in shapes(name)]
    inputs = [torch.randn(rows * BLOCK, into, generator=generator) for _, into in shapes(name)]
    products = {kind: [make(weight) for weight in weights] for kind, (make, _) in KINDS.items()}
    given = {kind: [x.to(dtype) for x in inputs] for kind, (_, dtype) in KINDS.items()}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    exact = [x @ weight.T for x, weight in zip(inputs, weights, strict=True)]
    errors = {
        kind: max(
            float((product(x).float() - right).norm() / right.norm())
            for product, x, right in zip(products[kind], given[kind], exact, strict=True)
        )
        for kind in KINDS
    }
    for _ in range(rounds):
        for kind in KINDS:
            begun = time.perf_counter()
            for product, x in zip(products[kind], given[kind], strict=True):
                product(x)
            times[kind].append(time.perf_counter() - begun)

    def ratio(kind: str, other: str) -> float:
        return statistics.median(mine / theirs for mine, theirs in zip(times[kind], times[other], strict=True))

    return {
        kind: {
            "ms": 1e3 * statistics.median(own),
            "over fp32": ratio(kind, "packed fp32"),
            "over bf16": ratio(kind, "packed bf16"),
            "error": errors[kind],
        }
        for kind, own in times.items()
    }


app = typer.Typer(add_completion=False)


@app.command("products")
def products(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each kind runs.")] = 200,
    output: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
) -> None:
    """Prints a table of all shapes, rows and kinds."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name in LAYERS:
            for rows in ROWS:
                case = found[f"{name}, {rows} rows"] = measured(name, rows, rounds)
                for kind, figures in case.items():
                    ratios = f"{figures['over fp32']:.2f} | {figures['over bf16']:.2f}"
                    line = f"| {name} | {rows} | {kind} | {figures['ms']:.2f} | {ratios} | {figures['error']:.1e} |"
                    typer.echo(line)
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n")


@app.command("scores")
def scores(
    count: Annotated[int, typer.Option(min=1, help="Problems of each task.")] = 400,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 2026,
) -> None:
    """Prints how many problems the bundled student solves, and how many answers stay the same."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    for task in ("words", "functions"):
        problems = draw_evaluation(task, None, count, seed, "held_out")
        requests = [
            GenerateRequest(
                request_id=str(index),
                prompt_ids=tokenizer.encode(problem.prompt, add_special_tokens=False),
                max_tokens=256,
            )
            for index, problem in enumerate(problems)
        ]
        answers: dict[str, list[list[int]]] = {}
        for kind in ("float32", "int8"):
            llm = OfflineEngine(EngineOptions(model=str(BUNDLED_STUDENT), dtype="float32", max_num_seqs=16))
            if kind == "int8":
                round_products(llm.engine.runner.transformer)
            done = llm.generate(requests)
            answers[kind] = [each.token_ids for each in done]
            texts = [str(tokenizer.decode(each.token_ids, skip_special_tokens=True)) for each in done]
            right = sum(is_right(problem, text) for problem, text in zip(problems, texts, strict=True))
            steps = sum(each.denoise_steps for each in done)
            typer.echo(f"| {task} | {kind} | {right} of {len(problems)} | {steps} |")
        same = sum(before == after for before, after in zip(*answers.values(), strict=True))
        typer.echo(f"{task}: {same} of {len(problems)} answers are the same")


def round_products(transformer: Transformer) -> None:
    """Puts ``TokenScaled`` in place of all products of the layers; for inference."""
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        attention, mlp = layer.self_attn, layer.mlp
        assert isinstance(mlp, MLP)
        whole = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        attention.fused = TokenScaled(torch.cat(whole))
        attention.written = TokenScaled(torch.cat(whole[1:]))
        mlp.fused = TokenScaled(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)))
        for owner, name in ((attention, "o_proj"), (mlp, "down_proj")):
            linear = getattr(owner, name)
            linear.forward = TokenScaled(linear.weight)


if __name__ == "__main__":
    app()
