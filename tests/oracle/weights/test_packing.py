"""Packed weights: the same products and tokens, no matrix stored twice, and few kernels kept."""

from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

import cdlm.model.loading.packing
from cdlm.model.config import TransformerConfig
from cdlm.model.decoding.logits.confidence import confidence_and_best, peaks_of_head
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.packing import PackedHead, PackedProduct, pack, packable, worthwhile
from cdlm.model.loading.quantization import quantize
from cdlm.model.network.head import LmHead
from cdlm.model.network.transformer import Transformer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.loading import load_weights
from cdlm.scheduler.options import EngineOptions
from cdlm.training.batches.attention import RowAttention
from tests.support.drafts import build_draft_adapter
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.matrix import matrix
from tests.support.models.checkpoints import OTHER_HALF, axes, build_checkpoint

pytestmark = pytest.mark.skipif(not packable(), reason="this processor has no AVX-512")

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are packed too, their vocabulary in several parts."""
    monkeypatch.setattr("cdlm.scheduler.loading.worthwhile", lambda weight, rows: True)  # noqa: ARG005
    monkeypatch.setattr(cdlm.model.loading.packing, "HEAD_COLUMNS", 24)


def random_transformer(dtype: torch.dtype, **shape: bool) -> Transformer:
    config = TransformerConfig(
        vocab_size=90, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    built = Transformer(config)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.to(dtype).requires_grad_(False)


@pytest.mark.parametrize(
    ("dtype", "biased", "shape"),
    matrix(
        list(DTYPES),
        [False, True],
        [(0,), (1,), (31,), (33,), (64,), (3, 17), (513,), (1300,), (2048,), (5000,)],
    ),
)
def test_a_product_of_any_number_of_rows(dtype: torch.dtype, biased: bool, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    bias = torch.randn(40, generator=generator).to(dtype) if biased else None
    x = torch.randn(*shape, 24, generator=generator).to(dtype)
    expected = nn.functional.linear(x, weight, bias)
    product = PackedProduct(weight, bias)
    weight.zero_()
    with torch.inference_mode():
        found = product(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=DTYPES[dtype] * 10, rtol=DTYPES[dtype])


@pytest.mark.parametrize("rows", [33, 512, 544, 1504, 2048])
def test_the_rows_of_a_step_are_one_product(rows: int) -> None:
    """A block that is committed beside sixteen others is not worth another reading of the weights."""
    product, x = PackedProduct(torch.randn(40, 24)), torch.randn(rows, 24)
    with torch.inference_mode(), torch.profiler.profile() as profile:
        product(x)
    assert sum(event.name == "mkldnn::_linear_pointwise" for event in profile.events() or ()) == 1


@pytest.mark.parametrize("shape", [{}, {"attention_bias": True}, {"qk_norm": True, "tie_word_embeddings": True}])
@pytest.mark.usefixtures("everything")
def test_states_and_logits_stay_and_plain_matrices_go(shape: dict[str, bool]) -> None:
    plain, packed = (random_transformer(torch.float32, **shape) for _ in range(2))
    pack(packed, lambda _weight: True)
    ids, positions = torch.randint(90, (40,)), torch.arange(40)
    attention = [RowAttention(None) for _ in range(2)]
    with torch.inference_mode():
        before, after = (
            each(ids[None], positions[None], mask)[0] for each, mask in zip((plain, packed), attention, strict=True)
        )
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(packed.logits(before), plain.logits(before), atol=1e-4, rtol=1e-4)
    assert packed.stored_shapes() == plain.stored_shapes()
    matrices = {name for name, weight in packed.named_parameters() if weight.is_meta}
    kept = {"embed_tokens.weight"}
    assert matrices == {name for name, weight in plain.named_parameters() if weight.ndim == 2} - kept


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [0, 30, 89, 90])
def test_the_search_of_a_packed_head(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, mask: int) -> None:
    monkeypatch.setattr(
        "cdlm.model.decoding.logits.confidence._HEAD_PART_BYTES", {"cpu": 4 * 24 * 5}
    )  # Five rows at a time.
    generator = torch.Generator().manual_seed(1)
    head = LmHead(16, 90, bias=False)
    head.weight = nn.Parameter(torch.randn(90, 16, generator=generator).to(dtype), requires_grad=False)
    hidden = torch.randn(13, 16, generator=generator).to(dtype)
    with torch.inference_mode():
        expected = confidence_and_best(head(hidden), mask)
        confidence, token, _ = peaks_of_head(hidden, PackedHead(head, tied=True), mask)
    assert token.tolist() == expected[1].tolist()
    torch.testing.assert_close(confidence, expected[0], atol=DTYPES[dtype], rtol=DTYPES[dtype])


@pytest.mark.usefixtures("everything")
@axes(sample=OTHER_HALF)
def test_a_packed_engine_equals_the_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=8)
    requests = random_requests(12, seed=8)
    # Prompts of more than six tokens are computed in pieces, for which keys and values are asked alone.
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=8, page_size=4, max_prefill_tokens=6))
    transformer = engine.runner.transformer
    assert isinstance(transformer.lm_head, PackedHead)
    assert len(transformer.lm_head.products) > 1
    assert transformer.layers[0].self_attn.q_proj.weight.is_meta
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.usefixtures("everything")
def test_it_can_be_left_out(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), pack_weights=False))
    assert type(engine.runner.transformer.lm_head) is LmHead


@pytest.mark.usefixtures("everything")
def test_quantized_layers_keep_their_weights(tmp_path: Path) -> None:
    transformer = load_checkpoint(build_checkpoint(tmp_path)).transformer
    quantize(transformer, "int8")
    ids, positions = torch.randint(60, (1, 9)), torch.arange(9)[None]
    with torch.inference_mode():
        before = transformer(ids, positions, RowAttention(None))
        pack(transformer, lambda _weight: True)
        assert transformer(ids, positions, RowAttention(None)).equal(before)
    assert isinstance(transformer.lm_head, PackedHead)


def test_what_is_worth_it() -> None:
    large, small = torch.empty(512, 512), torch.empty(128, 512)
    assert worthwhile(large, rows=32)
    assert not worthwhile(large, rows=1)  # Single rows.
    assert not worthwhile(small, rows=32)
    assert not worthwhile(large.half(), rows=32)
    assert not worthwhile(large.to("meta"), rows=32)
    assert worthwhile(small.bfloat16(), rows=1) is torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_a_model_that_drafts_is_packed_for_the_rows_of_its_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdlm.model.loading.packing, "_LEAST_FP32_WEIGHTS", 0)
    base = build_checkpoint(tmp_path / "base", "autoregressive_without_mask")
    drafts = str(build_draft_adapter(tmp_path / "drafts", base))
    for adapter, packed in ((None, False), (drafts, True)):
        checkpoint = load_weights(EngineOptions(model=str(base), draft_adapter=adapter, dtype="float32"))
        assert isinstance(checkpoint.transformer.lm_head, PackedHead) is packed


def test_kernels_of_many_numbers_of_rows_do_not_fill_the_memory() -> None:
    """Unbounded it was two megabytes for each number of rows that a product met."""
    process = psutil.Process()
    product: partial[Tensor] = partial(PackedProduct(torch.randn(512, 512)))
    with torch.inference_mode():
        product(torch.randn(32, 512))
        before = process.memory_info().rss
        for rows in range(1, 1500, 2):
            product(torch.randn(rows, 512))
    assert process.memory_info().rss - before < 200 * 2**20


@pytest.mark.parametrize("shape", [(576, 1536), (576, 576), (512, 2048)])
def test_in_bfloat16_a_row_alone_is_rounded_as_beside_others(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(7)
    product = PackedProduct(torch.randn(shape, generator=generator).bfloat16())
    for _ in range(6):
        rows = torch.randn(32, shape[1], generator=generator).bfloat16()
        whole = product(rows)
        for count in (1, 2, 5, 11):
            assert torch.cat([product(part) for part in torch.split(rows, count)]).equal(whole)
