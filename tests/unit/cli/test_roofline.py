"""Costs on paper: against numbers worked out by hand, a real transformer's, and sums over single steps."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cdlm.cli.plan.capacity import Capacity, replicas, request_work
from cdlm.cli.plan.presets import PRESETS
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.backbones import find_backbone
from cdlm.model.config import MixtureConfig, TransformerConfig
from cdlm.model.network.parameters import active_parameters, count_parameters
from cdlm.model.network.transformer import Transformer
from cdlm.model.roofline.accelerators import ACCELERATORS, UnknownAcceleratorError, find_accelerator
from cdlm.model.roofline.cost import PRECISIONS, Decoding, ModelCost
from cdlm.model.roofline.roof import Roof, Work, crossover_batch, ridge_batch, whole_batch

TINY = TransformerConfig(
    vocab_size=10, hidden_size=4, intermediate_size=6, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=2
)
WIDE = TransformerConfig(
    vocab_size=50, hidden_size=24, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
BF16 = PRECISIONS["bfloat16"]


def preset(name: str, dtype: str = "bfloat16", tensor_parallel: int = 1) -> ModelCost:
    config, _ = find_backbone(PRESETS[name]).read(PRESETS[name])
    return ModelCost(config, PRECISIONS[dtype], tensor_parallel)


def roof(name: str) -> Roof:
    return find_accelerator(name).roof(BF16)


def test_costs_worked_out_by_hand() -> None:
    cost = ModelCost(TINY, BF16)
    # A layer: q and o 4x4, k and v 4x2, three matrices 4x6: 120. Norms 2 x 4. Embedding and head 10 x 4.
    assert (count_parameters(TINY).matrices, count_parameters(TINY).vectors) == (240, 20)
    assert cost.weight_bytes == 2 * 340
    assert cost.streamed_bytes == 2 * 300  # All but the embedding.
    assert cost.kv_bytes_per_token == 2 * 2 * 1 * 2 * 2
    # 3 tokens: 2 x 3 x 240. 15 pairs: 4 x 15 x 2 heads x 2 x 2 layers. One prediction: 2 x 10 x 4.
    assert cost.row(tokens=3, pairs=15, cached=2, predicted=1) == Work(1440 + 480 + 80, (2 + 3) * 16)
    assert cost.forward(Work(2000, 80), 5) == Work(10_000, 600 + 400)


def test_a_tied_head_is_stored_and_read_once() -> None:
    tied = ModelCost(replace(TINY, tie_word_embeddings=True), BF16)
    assert tied.weight_bytes == tied.streamed_bytes == 2 * 300


def test_weight_only_precisions_narrow_the_matrices_and_nothing_else() -> None:
    assert ModelCost(TINY, PRECISIONS["int8"]).weight_bytes == 240 + 2 * 100
    assert ModelCost(TINY, PRECISIONS["int4"]).weight_bytes == 120 + 2 * 100
    assert ModelCost(TINY, PRECISIONS["int4"]).kv_bytes_per_token == 16
    assert ModelCost(TINY, PRECISIONS["float32"]).weight_bytes == 4 * 340


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True}, {"qk_norm": True}, {"tie_word_embeddings": True}])
def test_parameters_are_those_of_the_transformer(changes: dict[str, bool]) -> None:
    config = replace(WIDE, **changes)  # type: ignore[arg-type]
    real = sum(parameter.numel() for parameter in Transformer(config).parameters())
    assert count_parameters(config).total == real


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flops_and_cache_are_those_of_a_real_forward(kv_heads: int) -> None:
    config = replace(WIDE, num_kv_heads=kv_heads)
    cost, cpu, block, context = ModelCost(config, PRECISIONS["float32"]), torch.device("cpu"), 8, 16
    cache = PagedCache(config, num_pages=8, page_size=8, device=cpu, dtype=torch.float32)
    # One row denoises behind its context; the other commits a block and denoises the next.
    segments = [
        Segment(context, block, [0, 1, 2]),
        Segment(context - block, block, [3, 4, 5]),
        Segment(context, block, [3, 4, 5]),
    ]
    attention = SdpaAttention(cache, segments)
    transformer = Transformer(config)
    # Only the plain backend is made of products that the counter knows.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        hidden = transformer(torch.zeros(24, dtype=torch.long), attention.positions, attention)
        transformer.logits(hidden[:11])
    # Committed tokens see up to their own end. Power-of-two groups keep these segments unpadded.
    work = cost.row(block, block * (context + block), context, 0)
    work += cost.row(2 * block, block * context + block * (context + block), context - block, 11)
    assert counter.get_total_flops() == work.flops
    assert PagedCache.bytes_per_page(config, 8, torch.float32) == 8 * cost.kv_bytes_per_token


@pytest.mark.parametrize("tokens_per_forward", [1, 2, 4, 8])
def test_a_mean_forward_is_the_mean_over_the_steps_of_a_block(tokens_per_forward: int) -> None:
    block, context, cost = 8, 40, ModelCost(WIDE, BF16)
    steps = block // tokens_per_forward
    total = cost.row(2 * block, block * context + block * (context + block), context - block, block)
    for step in range(1, steps):
        total += cost.row(block, block * (context + block), context, block - step * tokens_per_forward)
    mean = cost.student_row(Decoding(block, tokens_per_forward, commit_share=1.0), context)
    assert mean.flops == pytest.approx(total.flops / steps)
    assert mean.bytes == pytest.approx(total.bytes / steps)


def test_a_block_whose_commit_is_a_forward_of_its_own() -> None:
    block, context, forwards, cost = 9, 36, 3, ModelCost(WIDE, BF16)
    total = cost.row(block, block * context, context - block, 1)  # The commit predicts the first token alone.
    for masked in (8, 4):
        total += cost.row(block, block * (context + block), context, masked)
    mean = cost.student_row(Decoding(block, block / forwards, commit_share=1.0, commit_alone=True), context)
    assert mean.flops == pytest.approx(total.flops / forwards)
    assert mean.bytes == pytest.approx(total.bytes / forwards)


def test_the_last_block_has_no_commit() -> None:
    assert Decoding(32, 4, commit_share=0.0).tokens == 32
    assert Decoding(32, 4, commit_share=0.5).tokens == 34
    assert Decoding(32, 4, commit_share=1.0).tokens == 36  # (8 x 32 + 32) / 8.


def test_prefill_sees_the_whole_prompt_or_about_half_of_it() -> None:
    cost = ModelCost(TINY, BF16)
    assert cost.prefill(6, "full", 2) == cost.row(6, 36, 0, 0)
    assert cost.prefill(6, "causal", 2) == cost.row(6, 1 + 2 + 3 + 4 + 5 + 6, 0, 0)
    assert cost.prefill(6, "block_causal", 2) == cost.row(6, 2 * (2 + 4 + 6), 0, 0)


def test_ridge_batch_is_where_both_times_meet() -> None:
    device, weights, row = Roof(1000, 100), Work(0, 600), Work(2000, 80)
    assert device.ridge == 10
    assert ridge_batch(row, weights, device) == pytest.approx(5)  # 2 N = 6 + 0.8 N.
    work = weights + row.times(5)
    assert device.compute_s(work) == device.memory_s(work) == device.seconds(work) == 10
    assert work.intensity == device.ridge
    assert ridge_batch(Work(2000, 200), weights, device) is None
    assert (whole_batch(4.2), whole_batch(5.0), whole_batch(0.3), whole_batch(None)) == (5, 5, 1, None)


def test_known_figures_of_a_7b_model_on_an_a100() -> None:
    cost, device = preset("dream-7b"), roof("a100")
    assert device.ridge == pytest.approx(153, abs=0.1)
    assert cost.weight_bytes / device.bytes_per_s == pytest.approx(7.5e-3, abs=0.05e-3)
    denoise = cost.row(32, 32 * 32, 0, 32)
    assert whole_batch(ridge_batch(denoise, cost.weights, device)) == 5
    assert cost.forward(denoise, 1).intensity == pytest.approx(32, rel=0.02)  # Two FLOPs a weight of two bytes.


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("dream-7b", 2 * 7.62),
        ("llada-8b", 2 * 8.02),
        ("sdar-1.7b", 4.06),
        ("sdar-4b", 4.97 + 3.86),
        ("sdar-8b", 4.9 + 4.92 + 4.98 + 1.58),
        ("dream-reasoner-8b", 2 * 8.190735360),
        ("stable-diffcoder-8b", 2 * 8.25),
        ("nemotron-labs-diffusion-8b", 2 * 8.49),
        ("llada2-mini", 2 * 16.26),
        ("sdar-30b-a3b", 2 * 30.53),
        ("fast-dllm-v2-1.5b", 2 * 1.54),
        ("fast-dllm-v2-7b", 2 * 7.62),
    ],
)
def test_presets_are_as_large_as_the_published_weights(name: str, gigabytes: float) -> None:
    assert preset(name).weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.005)


MIXED = replace(
    WIDE,
    num_layers=3,
    mixture=MixtureConfig(experts=8, experts_per_token=2, width=10, shared_width=6, biased=True, dense_layers=1),
)


def test_of_the_experts_a_forward_computes_and_reads_those_that_are_chosen() -> None:
    count = count_parameters(MIXED)
    assert count.total == sum(parameter.numel() for parameter in Transformer(MIXED).parameters())
    expert = 3 * 24 * 10
    assert count.experts == 2 * 8 * expert
    assert active_parameters(MIXED) == count.total - 2 * 6 * expert
    cost = ModelCost(MIXED, BF16)
    assert cost.weight_bytes == 2 * count.total
    # One token reads two of eight experts, two tokens on average 2 + 2 * 6/8, many tokens all.
    others = 2 * (count.matrices + count.vectors + count.head)
    for tokens, experts in ((1, 2), (2, 3.5), (1e6, 8)):
        assert cost.read(tokens).bytes == pytest.approx(others + 2 * 2 * experts * expert)
    assert cost.weights == cost.read(1e6)
    row = cost.row(tokens=2, pairs=0, cached=0, predicted=0)
    assert row.flops == 2 * 2 * (count.matrices + 2 * 2 * expert)
    assert cost.forward(row, 1).bytes == pytest.approx(cost.read(2).bytes + row.bytes)
    assert cost.forward(row, 5).bytes == pytest.approx(cost.read(10).bytes + 5 * row.bytes)
    whole = request_work(cost, Work(0, 0), row, 6, Decoding(4, 2, 1.0), 5)
    assert whole.bytes == pytest.approx(3 * (row.bytes + cost.read(10).bytes / 5))


@pytest.mark.parametrize(("name", "billions"), [("llada2-mini", 1.44), ("sdar-30b-a3b", 3.35)])
def test_active_parameters_of_published_mixtures(name: str, billions: float) -> None:
    assert active_parameters(preset(name).config) / 1e9 == pytest.approx(billions, rel=0.01)


def test_crossover_is_the_first_batch_at_which_the_student_is_behind() -> None:
    for tokens_per_forward in (2, 4, 9.7):
        cost, device = preset("dream-7b"), roof("h100")
        student = cost.student_row(Decoding(32, tokens_per_forward, 1.0), 1024)
        other = cost.autoregressive_row(1024)

        def rate(row: Work, tokens: float, batch: int, cost: ModelCost = cost, device: Roof = device) -> float:
            return batch * tokens / device.seconds(cost.forward(row, batch))

        leads = [rate(student, tokens_per_forward, batch) > rate(other, 1, batch) for batch in range(1, 400)]
        border = crossover_batch(student, other, cost.weights, tokens_per_forward, device)
        assert border == 1 + leads.index(False)
        assert not any(leads[border - 1 :])


def test_a_long_context_of_many_key_value_heads_is_never_overtaken() -> None:
    cost, device = preset("llada-8b"), roof("h100")
    student, other = cost.student_row(Decoding(32, 4, 1.0), 4000), cost.autoregressive_row(4000)
    assert crossover_batch(student, other, cost.weights, 4, device) is None
    assert device.seconds(cost.forward(student, 1e9)) < 4 * device.seconds(cost.forward(other, 1e9))


def test_one_token_a_forward_never_leads() -> None:
    cost, device = preset("dream-7b"), roof("h100")
    student, other = cost.student_row(Decoding(32, 1, 1.0), 1024), cost.autoregressive_row(1024)
    assert crossover_batch(student, other, cost.weights, 1, device) == 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_more_work_never_takes_less_time(name: str) -> None:
    cost, device = preset(name), roof("l4")
    decoding = Decoding(32, 4, 1.0)
    times = [device.seconds(cost.forward(cost.student_row(decoding, 512), batch)) for batch in (1, 2, 8, 64, 512)]
    assert times == sorted(times)
    rates = [batch / seconds for batch, seconds in zip((1, 2, 8, 64, 512), times, strict=True)]
    assert rates == sorted(rates)
    contexts = [device.seconds(cost.forward(cost.student_row(decoding, context), 8)) for context in (64, 512, 4096)]
    assert contexts == sorted(contexts)
    half, four = preset(name, "int8"), preset(name, "int4")
    assert four.weight_bytes < half.weight_bytes < cost.weight_bytes


def test_tensor_parallel_divides_weights_flops_and_cache_but_no_head() -> None:
    whole = preset("dream-7b")  # 28 heads, 4 key-value heads.
    row = whole.autoregressive_row(1000)
    for devices, cache in ((2, 2), (4, 4), (28, 4)):
        part = preset("dream-7b", tensor_parallel=devices)
        assert part.weight_bytes == whole.weight_bytes / devices
        assert part.streamed_bytes == whole.streamed_bytes / devices
        assert part.autoregressive_row(1000).flops == row.flops / devices
        assert part.kv_bytes_per_token == whole.kv_bytes_per_token / cache


def test_efficiency_lowers_its_own_roof() -> None:
    device = ACCELERATORS["h200"].roof(BF16, compute_efficiency=0.5, memory_efficiency=0.8)
    peak = roof("h200")
    assert (device.flops_per_s, device.bytes_per_s) == (0.5 * peak.flops_per_s, 0.8 * peak.bytes_per_s)


def test_devices_are_found_by_name_alias_and_case() -> None:
    assert find_accelerator("H100") is find_accelerator("h100-sxm") is ACCELERATORS["h100-sxm"]
    with pytest.raises(UnknownAcceleratorError, match="'abacus' is not known; known: .*h100-sxm.*cpu"):
        find_accelerator("abacus")


def test_capacity_counts_whole_pages_a_request() -> None:
    room = Capacity(memory_bytes=1000, reserve=0.1, weight_bytes=300, page_bytes=50, page_size=16)
    assert (room.free_bytes, room.pages) == (600, 12)
    assert [room.requests(positions) for positions in (16, 17, 33, 193)] == [12, 6, 4, 0]
    assert replace(room, weight_bytes=950.0).pages == 0


def test_replicas_hold_prefill_forwards_and_a_share_of_the_weights() -> None:
    cost = ModelCost(TINY, BF16)  # 600 bytes are read.
    work = request_work(cost, Work(1000, 40), Work(2000, 80), 12, Decoding(8, 4, 1.0), batch=6)
    assert work == Work(1000 + 3 * 2000, 40 + 3 * (80 + 100))
    device = Roof(1000, 100)
    assert device.seconds(work) == 7
    assert [replicas(work, device, rate) for rate in (0.01, 1 / 7, 0.15, 1.0)] == [1, 1, 2, 7]
