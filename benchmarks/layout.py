"""Measures what the layout of a step costs the host: milliseconds of the processor's time, before anything is launched.

    .venv/bin/python -m benchmarks.layout --rows 64

Rows have blocks of 32 and between 32 and 2,048 cached tokens; a third of them commit a block in the step.
"""

import random
import statistics
from time import process_time
from typing import Annotated, Any

import torch
import typer

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.config import TransformerConfig
from cdlm.model.forwards.layout import build_layout
from cdlm.model.row import RowWork, Span
from cdlm.model.uploads import Uploads

BLOCK, PAGE, CACHED, POOL = 32, 32, 2048, 10_000
CPU = torch.device("cpu")
BACKENDS: dict[str, AttentionFactory] = {"triton": TritonAttention, "sdpa": SdpaAttention}


def rows_of_a_step(rows: int, seed: int = 0) -> list[RowWork]:
    """Rows with page tables that lie anywhere in a pool."""
    draw = random.Random(seed)
    works = []
    for row in range(rows):
        start = BLOCK * draw.randint(1, CACHED // BLOCK)
        pages = draw.sample(range(POOL), -(-(start + BLOCK) // PAGE))
        clean = [Span(start - BLOCK, [1] * BLOCK)] if row % 3 == 0 else []
        works.append(RowWork(row=row, pages=pages, clean=clean, block_start=start))
    return works


def measure(rows: int, backend: str, repeats: int = 100) -> dict[str, Any]:
    """Median and smallest milliseconds of a layout."""
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_layers": 1, "head_dim": 4}
    config = TransformerConfig(vocab_size=8, num_heads=28, num_kv_heads=4, **shape)
    cache = PagedCache(config, num_pages=1, page_size=PAGE, device=CPU, dtype=torch.float32)
    works, uploads = rows_of_a_step(rows), Uploads(CPU)
    found = []
    for _ in range(repeats):
        uploads.begin()
        begun = process_time()
        build_layout(works, BLOCK, cache, BACKENDS[backend], place=uploads.place)
        found.append(1e3 * (process_time() - begun))
    return {"rows": rows, "backend": backend, "median_ms": statistics.median(found), "least_ms": min(found)}


def main(
    rows: Annotated[int, typer.Option(help="Rows of a step.")] = 64,
    repeats: Annotated[int, typer.Option(help="Layouts per figure.")] = 100,
) -> None:
    """Prints a line for each backend."""
    torch.set_num_threads(1)
    for backend in BACKENDS:
        found = measure(rows, backend, repeats)
        typer.echo(f"{backend:8} {found['median_ms']:.2f} ms (least {found['least_ms']:.2f} ms)")


if __name__ == "__main__":
    typer.run(main)
