"""The command: ``python -m benchmarks.threads``. Servers that differ in threads alone, beside busy processes.

All servers of a shape are up at once and are asked in turn, so that whatever else the machine does meets all of them.
"""

import contextlib
import datetime
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.speed.contenders.load import BLOCK, Load
from benchmarks.speed.contenders.served import Served
from benchmarks.speed.contenders.shapes import SHAPES, default_cache
from benchmarks.speed.machine import ROOT, commit, load_average, machine
from cdlm.cli.local_server import local_server
from cdlm.scheduler.child import WAITING
from cdlm.scheduler.steps.threads import free_cores

NICE = 10
PROMPT = 32
GNU_SPINS = "300000"  # What its runtime does where nothing is said.


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to start the server.

    Attributes:
        threads: ``None`` leaves the choice to the server, 0 takes every core.
        waiting: the variables that say how threads wait.
    """

    name: str
    threads: int | None = None
    waiting: dict[str, str] = field(default_factory=dict)

    def flags(self) -> list[str]:
        """Those of ``cdlm serve``."""
        return [] if self.threads is None else ["--threads", str(self.threads or free_cores())]

    def variables(self) -> dict[str, str]:
        """Its environment: nothing of this process's says how many threads there are, or how they wait."""
        mine = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_NUM_THREADS")}
        return mine | self.waiting


CONTENDERS = (
    Contender("default"),
    Contender("all cores, waiting as GNU OpenMP does", 0, {"GOMP_SPINCOUNT": GNU_SPINS}),
    Contender("all cores, passive", 0, {"OMP_WAIT_POLICY": "PASSIVE"}),
    Contender("one thread", 1),
)


def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"Repeat for several: {', '.join(SHAPES)}.")] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Requests at a time. [1 and 16]")] = None,
    busy: Annotated[list[int] | None, typer.Option(min=0, help="Busy processes beside it. [0, 1 and 2]")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Repeat for several; all if none is named.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Loads of every server, after one that is not counted.")] = 7,
    tokens: Annotated[int, typer.Option(min=1, help="Of an answer; its block takes 32 steps.")] = BLOCK,
    cache: Annotated[Path | None, typer.Option(help="Where built checkpoints are kept.")] = None,
    output: Annotated[Path | None, typer.Option(help="Result directory.")] = None,
) -> None:
    """Measure the latency of loads on an idle machine and beside busy processes of a lower priority."""
    output = output or ROOT / "benchmarks" / "results" / f"{datetime.date.today().isoformat()}-threads"
    chosen = [one for one in CONTENDERS if not contender or one.name in contender]
    if unknown := set(contender or ()) - {one.name for one in chosen}:
        raise typer.BadParameter(f"unknown contender: {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.threads", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "load_average": load_average(),
        "contenders": [asdict(one) for one in chosen],
        "cases": [],
    }
    for name in shape or ["nano", "dream-0.1b"]:
        idle: dict[int, dict[str, float]] = {}
        with _servers(name, chosen, max(streams or [16]), cache or default_cache()) as servers:
            for count, beside in itertools.product(streams or [1, 16], busy or [0, 1, 2]):
                load = Load.equal(count, PROMPT, tokens)
                with _busy(beside):
                    seconds = _measure(servers, load, rounds)
                result["cases"].append({"shape": name, "streams": count, "busy": beside, "seconds": seconds})
                medians = {server: statistics.median(values) for server, values in seconds.items()}
                if not beside:
                    idle[count] = medians
                found = ", ".join(_cell(server, median, idle.get(count)) for server, median in medians.items())
                print(f"{name}, {count} streams, {beside} busy: {found}", file=sys.stderr)  # noqa: T201
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n")


@contextlib.contextmanager
def _servers(shape: str, chosen: list[Contender], rows: int, cache: Path) -> Iterator[dict[str, Served]]:
    """One of each contender; those that are not asked sleep."""
    directory = SHAPES[shape].directory(cache)
    with contextlib.ExitStack() as held:
        servers = {}
        for contender in chosen:
            flags = ["--max-num-seqs", str(rows), "--dtype", "float32", "--kv-cache-memory", "1GiB", *contender.flags()]
            url = held.enter_context(local_server(directory, flags=flags, variables=contender.variables()))
            servers[contender.name] = Served(url, SHAPES[shape].transformer().vocab_size, diffusion=True)
            held.callback(servers[contender.name].close)
        yield servers


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """That many processes of a lower priority which compute without end."""
    command = ["nice", "-n", str(NICE), sys.executable, "-c", "while True: pass"]
    # Linux shares cores between sessions first (autogroup): a job of another terminal has one of its own.
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _measure(servers: dict[str, Served], load: Load, rounds: int) -> dict[str, list[float]]:
    """Seconds of a load, for every server and round; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds + 1):
        for name, server in servers.items():
            seconds[name].append(server.run(load)["seconds"])
    return {name: values[1:] for name, values in seconds.items()}


def _cell(server: str, seconds: float, idle: dict[str, float] | None) -> str:
    """The median seconds of a load, and how often those with no busy process that is."""
    return f"{server} {seconds:.3f} s" + (f" ({seconds / idle[server]:.2f})" if idle else "")


if __name__ == "__main__":
    typer.run(main)
