"""Milliseconds of processor time per step of cdlm-nano, to compare two commits on a busy machine.

    OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python -m benchmarks.steps

Prints one line per kind of rows, the least of four runs. Run it at both commits in turn, several times.
"""

import time

import typer

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions

KINDS = {
    "1 greedy": (1, DecodingParams()),
    "16 greedy": (16, DecodingParams()),
    "16 sampled": (16, DecodingParams(temperature=0.8, seed=3)),
    "16 with a frequency penalty": (16, DecodingParams(frequency_penalty=0.5)),
}
RUNS = 4


def main() -> None:
    """Measures all kinds with one engine; a first run of each is not counted."""
    engine = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs=16))
    for kind, (rows, params) in KINDS.items():
        best = min([step_ms(engine, rows, params) for _ in range(1 + RUNS)][1:])
        typer.echo(f"{kind}: {best:.2f} ms")


def step_ms(engine: Engine, rows: int, params: DecodingParams) -> float:
    """Serves ``rows`` requests of three blocks at once; returns the milliseconds per step."""
    for row in range(rows):
        prompt = [5 + row, 9, 2, 7, 3, 40 + row]
        engine.add(
            GenerateRequest(request_id=str(row), prompt_ids=prompt, max_tokens=96, params=params, ignore_eos=True)
        )
    steps, started = 0, time.process_time()
    while engine.busy:
        engine.step()
        steps += 1
    return (time.process_time() - started) / steps * 1e3


if __name__ == "__main__":
    typer.run(main)
