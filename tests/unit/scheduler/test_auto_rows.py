"""``--max-num-seqs auto``: rows that share a reading of the weights, within the step and the KV pool."""

import logging

import pytest

from cdlm.cli.plan.inputs import read_shape
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.roofline.accelerators import ACCELERATORS, accelerator_of_driver
from cdlm.model.roofline.cost import PRECISIONS, ModelCost
from cdlm.model.roofline.rows import (
    RowChoice,
    fewest,
    rows_by_rates,
    rows_in_pool,
    rows_in_step,
    typical_context,
    typical_decoding,
)
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.loading import rows_on
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import run


def by_rates(model: str, device: str, dtype: str = "bfloat16") -> RowChoice | None:
    shape, precision = read_shape(model), PRECISIONS[dtype]
    return rows_by_rates(
        ModelCost(shape.config, precision),
        ACCELERATORS[device].roof(precision),
        typical_decoding(shape.manifest),
        typical_context(shape.manifest),
        device,
    )


def test_rows_by_rates_are_where_the_roofline_bends() -> None:
    """At the row before, the weights are still read for longer than the rows are computed."""
    choice = by_rates("dream-7b", "h100-sxm")
    assert choice is not None
    assert choice.rows == 9
    assert "h100-sxm takes longer to compute" in choice.reason
    shape, precision = read_shape("dream-7b"), PRECISIONS["bfloat16"]
    cost, roof = ModelCost(shape.config, precision), ACCELERATORS["h100-sxm"].roof(precision)
    row = cost.student_row(typical_decoding(shape.manifest), 1024)
    for rows, computing in ((8, False), (9, True)):
        work = cost.forward(row, rows)
        assert (roof.compute_s(work) >= roof.memory_s(work)) is computing
    smaller = by_rates("dream-7b", "h100-sxm", "int8")
    assert smaller is not None
    assert smaller.rows < choice.rows  # Half the bytes to read, the same arithmetic.


def test_the_fewest_rows_win_and_say_why() -> None:
    assert rows_in_pool(pages=100, page_size=32, positions=1056).rows == 3
    assert rows_in_pool(pages=10, page_size=32, positions=1056).rows == 1
    assert rows_in_step(8192, 32).rows == 256
    choice = fewest(RowChoice(9, "rates"), rows_in_step(8192, 32), rows_in_pool(100, 32, 1056))
    assert choice.rows == 3
    assert choice.reason == "the KV pool holds no more requests of 1056 positions"
    assert fewest(None, rows_in_step(64, 32)).rows == 2  # Nothing is compute-bound.


@pytest.mark.parametrize(
    ("driver", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_devices_by_the_names_that_drivers_give(driver: str, known: str | None) -> None:
    found = accelerator_of_driver(driver)
    assert (None if found is None else found.name) == known


def test_the_engine_asks_for_the_rates_of_its_gpu() -> None:
    checkpoint = load_checkpoint(BUNDLED_STUDENT)
    options = EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs="auto")
    known = rows_on("NVIDIA H200", options, checkpoint)
    assert known is None or "NVIDIA H200" in known.reason
    unknown = rows_on("NVIDIA Quadro 4", options, checkpoint)
    assert unknown == RowChoice(64, "the rates of NVIDIA Quadro 4 are not known")


def test_on_a_cpu_it_is_the_default_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cdlm.scheduler.loading"):
        engine = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs="auto"))
    assert engine.runner.rows.size == engine.options.max_num_seqs == engine.describe().max_num_seqs == 64
    assert [line for line in caplog.messages if "max_num_seqs" in line] == [
        "max_num_seqs auto: 64 rows: the rates of a CPU are not known, and are not measured at the start"
    ]


def test_a_small_pool_holds_fewer_rows_and_all_requests_are_served(caplog: pytest.LogCaptureFixture) -> None:
    roomy = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs=1))
    size = roomy.cache.page_size
    page = roomy.runner.cache.keys[:, :size].nbytes * 2
    positions = typical_context(roomy.manifest) + roomy.manifest.block_length
    pages = 3 * -(-positions // size)
    with caplog.at_level(logging.INFO, logger="cdlm.scheduler.loading"):
        engine = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs="auto", kv_cache_memory=pages * page))
    assert engine.options.max_num_seqs == 3
    assert f"3 rows: the KV pool holds no more requests of {positions} positions" in caplog.text
    requests = [GenerateRequest(request_id=str(index), prompt_ids=[5, index + 6], max_tokens=8) for index in range(5)]
    assert set(run(engine, requests)) == {"0", "1", "2", "3", "4"}
