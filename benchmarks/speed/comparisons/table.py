"""The comparisons of the benchmark, in the order in which they are measured."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.speed.comparisons.comparison import Cell, Comparison, Run, quotient, warmed
from benchmarks.speed.comparisons.curve import curve_contenders, curve_summary
from benchmarks.speed.comparisons.gaps import SteadyLoad
from benchmarks.speed.comparisons.linearity import linearity_contenders, without_attention
from benchmarks.speed.contenders.baselines import LoopName
from benchmarks.speed.contenders.load import BLOCK, Load, Round
from benchmarks.speed.contenders.workbench import Workbench

SIZES = (32, 512)  # Prompt tokens.


def _sizes(cell: Cell) -> tuple[int, int]:
    assert cell.batch is not None
    assert cell.prompt is not None
    return cell.batch, cell.prompt


def _loop(bench: Workbench, name: LoopName, load: Load) -> Run:
    return warmed(partial(bench.loops.run, name), load)


def _under(
    load: Callable[[Workbench, int, int], Load], **contenders: str
) -> Callable[[Workbench, Cell], dict[str, Run]]:
    """Prepares contenders, name -> attribute of the workbench, under a load of the cell's batch and prompt."""

    def prepare(bench: Workbench, cell: Cell) -> dict[str, Run]:
        found = load(bench, *_sizes(cell))
        return {name: warmed(getattr(bench, kind).run, found) for name, kind in contenders.items()}

    return prepare


def _offline_and_raw(bench: Workbench, cell: Cell) -> dict[str, Run]:
    load = bench.student_pace(*_sizes(cell))
    recording = bench.offline.record(load)
    return {"offline": warmed(bench.offline.run, load), "raw": lambda: recording.replay()}


def _forward_cost(bench: Workbench, cell: Cell) -> dict[str, Run]:
    load = bench.equal_work(*_sizes(cell))
    loops: tuple[LoopName, ...] = ("dual_cache", "prefix_cache", "naive")
    return {"offline": warmed(bench.offline.run, load), **{name: _loop(bench, name, load) for name in loops}}


def _dual_cache(bench: Workbench, cell: Cell) -> dict[str, Run]:
    fast, slow = bench.student_pace(*_sizes(cell)), bench.equal_work(*_sizes(cell))
    return {
        "offline": warmed(bench.offline.run, fast),
        "dual_cache": _loop(bench, "dual_cache", slow),
        "dual_cache_same_pace": _loop(bench, "dual_cache", fast),
    }


def _mixed(bench: Workbench, _cell: Cell) -> dict[str, Run]:
    settings, engine = bench.settings, bench.offline
    prompts = settings.prompts or SIZES
    count, blocks = settings.mixed, settings.new_tokens // BLOCK
    lengths = [tokens for shift in (8, 4, 2, 1) if (tokens := blocks // shift * BLOCK)]
    load = Load(
        tuple(prompts[index % len(prompts)] for index in range(count)),
        tuple(lengths[index // len(prompts) % len(lengths)] for index in range(count)),
        bench.pace.steps_per_block,
    )
    mixed, alone = engine.record(load), engine.record(load, one_by_one=True)
    return {
        "mixed": warmed(engine.run, load),
        "one_by_one": warmed(engine.run_one_by_one, load),
        "raw_mixed": lambda: mixed.replay(),
        "raw_one_by_one": lambda: alone.replay(),
    }


def _gaps(bench: Workbench, _cell: Cell) -> dict[str, Run]:
    steps = bench.pace.steps_per_block
    steady = SteadyLoad(bench.settings, steps, joins=0)
    joined = SteadyLoad(bench.settings, steps, joins=bench.settings.joins)
    steady.offline(bench.offline)
    steady.served(bench.http)
    return {
        "steady": lambda: steady.offline(bench.offline),
        "joined": lambda: joined.offline(bench.offline),
        "steady_http": lambda: steady.served(bench.http),
        "joined_http": lambda: joined.served(bench.http),
    }


def _gap_summary(rounds: list[Round]) -> dict[str, Any]:
    return {name: max(one[name]["gap_max_s"] for one in rounds) for name in rounds[0]}


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "offline_over_raw",
        "Seconds of the engine without a server over seconds of its own transformer and LM head calls, replayed with "
        "their page tables and index tensors ready. Student's pace.",
        _offline_and_raw,
        {"offline_over_raw": quotient("offline", "raw", "seconds")},
        batches=(1, 16), prompts=(32,),
    ),
    Comparison(
        "packed_over_plain_weights",
        "Tokens/s of the engine without a server over those with its weights as checkpoints store them "
        "(``--pack-weights false``). Student's pace.",
        _under(Workbench.student_pace, offline="offline", unpacked="unpacked"),
        {"packed_over_plain_weights": quotient("offline", "unpacked", "tokens_per_s")},
        batches=(1, 16), prompts=(32,),
    ),
    Comparison(
        "http_over_offline",
        "Tokens/s of streamed HTTP completions over those of the engine without a server; as many streams as the batch,"
        " each of which sends its next request, of 128 to 384 tokens, when it has its answer. Student's pace.",
        _under(Workbench.student_streams, http="http", offline="offline"),
        {"http_over_offline": quotient("http", "offline", "tokens_per_s")},
        batches=(16, 64), prompts=(32,),
    ),
    Comparison(
        "http_over_offline_burst",
        "The same with one request per stream, all sent at once: the first steps are not full, as requests arrive one "
        "after the other, and nor are the last.",
        _under(Workbench.student_pace, http="http", offline="offline"),
        {"http_over_offline_burst": quotient("http", "offline", "tokens_per_s")},
        batches=(16, 64), prompts=(32,),
    ),
    Comparison(
        "forward_cost",
        "Seconds per forward of a bidirectional decoder over those of the engine, one token per forward in both.",
        _forward_cost,
        {
            f"forward_cost_vs_{name}": quotient(name, "offline", "seconds_per_forward")
            for name in ("dual_cache", "prefix_cache", "naive")
        },
        batches=(1,), prompts=SIZES,
    ),
    Comparison(
        "tokens_per_s_vs_dual_cache",
        "Tokens/s of the engine at the student's pace over those of the dual cache at one token per forward, and "
        "(same_pace) at as many as the student.",
        _dual_cache,
        {
            "tokens_per_s_vs_dual_cache": quotient("offline", "dual_cache", "tokens_per_s"),
            "tokens_per_s_vs_dual_cache_same_pace": quotient("offline", "dual_cache_same_pace", "tokens_per_s"),
        },
        batches=(1,), prompts=SIZES,
    ),
    Comparison(
        "tokens_per_s_vs_transformers",
        "Tokens/s of the engine at the student's pace over those of transformers' generate with a causal model of "
        "the same shape; and of that causal model on the engine over generate.",
        _under(Workbench.student_pace, offline="offline", transformers="transformers", autoregressive="autoregressive"),
        {
            "tokens_per_s_vs_transformers": quotient("offline", "transformers", "tokens_per_s"),
            "autoregressive_vs_transformers": quotient("autoregressive", "transformers", "tokens_per_s"),
        },
        batches=(1, 16), prompts=(32,),
    ),
    Comparison(
        "tokens_per_s_vs_vllm",
        "Tokens/s over HTTP of the engine at the student's pace over those of vLLM with a causal model of the same "
        "shape, same client.",
        _under(Workbench.student_pace, vllm="vllm_http", http="http"),
        {"tokens_per_s_vs_vllm": quotient("http", "vllm", "tokens_per_s")},
        batches=(1, 16), prompts=(32,),
    ),
    Comparison(
        "tokens_per_s_against_batch",
        "Tokens/s of the engine at growing batch: block-causal model at the student's pace, causal model of the same "
        "shape. The ratio is the first over the second, at the smallest and the largest batch.",
        curve_contenders,
        {
            "student_over_autoregressive_smallest_batch": lambda one: _of_curve(one, 0),
            "student_over_autoregressive_largest_batch": lambda one: _of_curve(one, -1),
        },
        prompts=(32,), summary=curve_summary,
    ),
    Comparison(
        "throughput_64_mixed_vs_one_by_one",
        "Tokens/s of requests of mixed lengths run together over those of the same requests run one after another; "
        "and the same ratio for the replayed forwards alone, which is what batching can give. Student's pace.",
        _mixed,
        {
            "throughput_64_mixed_vs_one_by_one": quotient("mixed", "one_by_one", "tokens_per_s"),
            "raw_64_mixed_vs_one_by_one": quotient("raw_mixed", "raw_one_by_one", "tokens_per_s"),
        },
    ),
    Comparison(
        "inter_block_gap_p99",
        "99th percentile of the time between two blocks of a short request while long prompts join, over that "
        "without them; engine steps in this process, and over HTTP. Student's pace.",
        _gaps,
        {
            "inter_block_gap_p99": quotient("joined", "steady", "gap_p99_s"),
            "inter_block_gap_p99_http": quotient("joined_http", "steady_http", "gap_p99_s"),
        },
        summary=_gap_summary,
    ),
    Comparison(
        "time_per_block_64_vs_2",
        "Seconds of the last block of one long request over those of its second block; and the same without the "
        "seconds that a replay spends inside attention. Student's pace.",
        linearity_contenders,
        {
            "time_per_block_64_vs_2": lambda one: one["offline"]["block_last"] / one["offline"]["block_2"],
            "time_per_block_64_vs_2_without_attention": without_attention,
        },
    ),
)  # fmt: skip


def _of_curve(one: Round, index: int) -> float:
    batch = sorted({int(name.partition("@")[2]) for name in one})[index]
    return one[f"student@{batch}"]["tokens_per_s"] / one[f"autoregressive@{batch}"]["tokens_per_s"]
