"""Times a mixture of experts on this machine against the least that its chosen weights allow.

    .venv/bin/python -m benchmarks.mixture --output benchmarks/results/DATE-mixture

One layer's mixture with random weights, in the shapes of LLaDA2.0-mini and SDAR-30B-A3B: a gigabyte or more in bf16,
which no cache holds. A row is a block. The floor is the longer of two times: reading the router, the shared expert and
the experts that the rows really chose, at the bandwidth of a large sum; and their products, at the rate of the best
product of an expert's shape. Both rates are measured in the same run.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.experts import MODELS, random_mixture, read_bytes, weights_per_token
from cdlm.cli.plan.presets import PRESETS
from cdlm.model.backbones import find_backbone
from cdlm.model.device import DTYPES

ROWS = (1, 16)
REPEATS = 7


def main(
    output: Annotated[Path, typer.Option(help="Directory for result.json.")],
    dtype: Annotated[str, typer.Option(help=f"Type of the experts: {', '.join(DTYPES)}.")] = "bfloat16",
) -> None:
    """Times both shapes at 1 and 16 rows, and writes the figures."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    layers = [figures for model in MODELS for figures in measure(model, DTYPES[dtype])]
    text = json.dumps({"dtype": dtype, "machine": machine, "layers": layers}, indent=2)
    typer.echo(text)
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").write_text(text + "\n")


@torch.inference_mode()
def measure(model: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The figures of one shape, for each number of rows."""
    shape, manifest = find_backbone(PRESETS[model]).read(PRESETS[model])
    assert shape.mixture is not None
    mixture = random_mixture(shape.hidden_size, shape.mixture, torch.device("cpu"), dtype)
    bytes_per_s = bandwidth()
    figures = []
    for rows in ROWS:
        x = torch.randn(rows * manifest.block_length, shape.hidden_size, dtype=dtype)
        seconds, share = timed(lambda x=x: mixture(x))  # type: ignore[misc]
        used = len(mixture.router(x)[1].unique())
        read = read_bytes(mixture, used)
        flops = 2 * len(x) * weights_per_token(shape.hidden_size, shape.mixture)
        per_expert = max(1, len(x) * shape.mixture.experts_per_token // used)
        flops_per_s = product_rate(mixture.experts.gate_up[0], per_expert)
        floor = max(read / bytes_per_s, flops / flops_per_s)
        figures.append(
            {
                "model": model,
                "rows": rows,
                "tokens": len(x),
                "experts": shape.mixture.experts,
                "experts_chosen": used,
                "bytes_read": read,
                "bytes_of_all": sum(parameter.nbytes for parameter in mixture.parameters()),
                "flops": flops,
                "bytes_per_s": bytes_per_s,
                "flops_per_s": flops_per_s,
                "read_s": read / bytes_per_s,
                "compute_s": flops / flops_per_s,
                "seconds": seconds,
                "seconds_over_floor": seconds / floor,
                "processor_share": share,
            }
        )
    return figures


def bandwidth() -> float:
    """Bytes/s of a sum over a gigabyte in fp32."""
    numbers = torch.ones(1 << 28)
    return numbers.nbytes / timed(numbers.sum)[0]


def product_rate(weight: Tensor, rows: int) -> float:
    """FLOP/s of the product of ``rows`` rows with one expert's matrix, which stays in the cache."""
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype)
    return 2 * rows * weight.numel() / timed(lambda: nn.functional.linear(x, weight))[0]


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of ``run``, and the share of the processor that this process had, per thread."""
    run()
    times = []
    busy, began = time.process_time(), time.perf_counter()
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    share = (time.process_time() - busy) / (time.perf_counter() - began) / torch.get_num_threads()
    return statistics.median(times), share


if __name__ == "__main__":
    typer.run(main)
