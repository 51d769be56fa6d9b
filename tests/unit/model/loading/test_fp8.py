"""Weights and activations in float8: numerics on a CPU, which computes the same products slowly, and refusals."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdlm.model.config import CheckpointError, TransformerConfig
from cdlm.model.loading.fp8 import Fp8Product, check_fp8, round_layers, scaled
from cdlm.model.loading.packing import ProductLinear, pack
from cdlm.model.network.transformer import Layer, Transformer
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.training.batches.attention import RowAttention
from tests.support.models.checkpoints import build_checkpoint


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Float64: activations and weights rounded to float8 with their scales, then multiplied exactly."""

    def rounded(values: Tensor) -> Tensor:
        wide = values.double()
        scale = (wide.abs().amax(dim=1, keepdim=True) / 448).clamp(min=1e-12).float()
        return (wide.float() / scale).to(torch.float8_e4m3fn).double() * scale.double()

    out = rounded(x) @ rounded(weight).T
    return out if bias is None else out + bias.double()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_a_product_is_that_of_the_rounded_numbers(rows: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = (torch.randn(rows, 64, generator=generator) * torch.logspace(-3, 3, rows)[:, None]).bfloat16()
    weight = (torch.randn(48, 64, generator=generator) * torch.logspace(-2, 2, 48)[:, None]).bfloat16()
    bias = torch.randn(48, generator=generator).bfloat16() if biased else None
    found = Fp8Product.of(weight, bias)(x)
    assert found.dtype == torch.bfloat16
    expected = reference(x, weight, bias)
    # bf16 keeps 8 bits; sums of 64 terms that cancel are off by a little of their largest terms.
    largest = expected.abs().amax(dim=1, keepdim=True)
    assert ((found.double() - expected).abs() <= 2**-8 * expected.abs() + 2**-10 * largest).all()
    # Each number has three bits behind its first, so it is off by a sixteenth of itself at most.
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    terms = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.double().abs())
    assert ((found.double() - exact).abs() <= 0.14 * terms).all()


def test_rows_do_not_depend_on_each_other_and_any_shape_is_taken() -> None:
    product = Fp8Product.of(torch.randn(32, 48).bfloat16())
    x = torch.randn(2, 5, 48).bfloat16()
    together = product(x)
    assert together.shape == (2, 5, 32)
    alone = torch.stack([product(row[None])[0] for row in x.flatten(0, 1)]).view(2, 5, 32)
    torch.testing.assert_close(together, alone, rtol=2**-8, atol=1e-3)
    large = torch.cat((x[0, :1], 1e4 * x[0, 1:2]))
    torch.testing.assert_close(product(large)[0], together[0, 0], rtol=2**-8, atol=1e-3)
    assert product(x[:0]).shape == (0, 5, 32)


def test_zeros_stay_and_a_row_that_is_not_finite_is_nan_alone() -> None:
    rounded, scale = scaled(torch.tensor([[0.0] * 16, [1.0] * 16]))
    assert (rounded[0].float() == 0).all()
    assert scale.isfinite().all()
    x = torch.randn(4, 16).bfloat16()
    x[1, 3], x[2, 0] = math.nan, math.inf
    found = Fp8Product.of(torch.randn(16, 16).bfloat16())(x)
    assert found.isfinite().all(dim=1).tolist() == [True, False, False, True]
    assert found[1:3].isnan().all()


def test_the_part_for_keys_and_values_is_that_of_the_whole() -> None:
    weight, bias = torch.randn(48, 32).bfloat16(), torch.randn(48).bfloat16()
    whole, x = Fp8Product.of(weight, bias), torch.randn(3, 32).bfloat16()
    torch.testing.assert_close(whole.since(16)(x), whole(x)[:, 16:], rtol=2**-8, atol=1e-3)
    assert whole.since(16).weight.untyped_storage().data_ptr() == whole.weight.untyped_storage().data_ptr()


def random_transformer(intermediate: int = 96) -> Transformer:
    config = TransformerConfig(
        vocab_size=90, hidden_size=64, intermediate_size=intermediate, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=16, attention_bias=True,
    )  # fmt: skip
    torch.manual_seed(0)
    built = Transformer(config)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built.bfloat16().requires_grad_(False)


@torch.inference_mode()
def hidden(transformer: Transformer) -> Tensor:
    ids = torch.arange(40)[None] % 90
    return transformer(ids, torch.arange(40)[None], RowAttention(None))[0].float()


def test_all_layers_run_in_it_and_states_stay_close() -> None:
    plain, small = (random_transformer() for _ in range(2))
    round_layers(small)
    for layer in small.layers:
        assert isinstance(layer, Layer)
        out, down = layer.self_attn.o_proj, layer.mlp.down_proj
        assert isinstance(out, ProductLinear)
        assert isinstance(down, ProductLinear)
        products = layer.self_attn.fused, layer.self_attn.written, layer.mlp.fused, out.product, down.product
        assert all(isinstance(product, Fp8Product) for product in products)
    matrices = {name for name, weight in small.named_parameters() if weight.ndim == 2}
    assert {name for name, weight in small.named_parameters() if weight.is_meta} == {
        name for name in matrices if name.startswith("layers.")
    }
    assert small.stored_shapes() == plain.stored_shapes()
    before, after = hidden(plain), hidden(small)
    assert 0 < (before - after).norm() < 0.15 * before.norm()
    pack(small, lambda _weight: True)  # Which leaves them alone.
    assert isinstance(small.layers[0].mlp.fused, Fp8Product)


def test_sizes_that_do_not_fit_stay_as_they_are_and_the_log_says_which(caplog: pytest.LogCaptureFixture) -> None:
    transformer = random_transformer(intermediate=72)
    kept = transformer.layers[0].get_parameter("mlp.down_proj.weight").clone()
    with caplog.at_level(logging.WARNING):
        round_layers(transformer)
    assert caplog.messages == ["quantization fp8: sizes that are no multiples of 16 keep these in 16 bits: down_proj"]
    assert transformer.layers[0].get_parameter("mlp.down_proj.weight").equal(kept)
    assert hidden(transformer).isfinite().all()


def test_where_it_cannot_be_the_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineStartError, match=r"^quantization fp8 needs an NVIDIA GPU of compute capability 8\.9"):
        OfflineEngine(EngineOptions(model=str(build_checkpoint(tmp_path)), device="cpu", quantization="fp8"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-SXM4-80GB")
    gpu = torch.device("cuda")
    with pytest.raises(CheckpointError, match=r"quantization fp8 .*8\.9 or newer; NVIDIA A100-SXM4-80GB has 8\.0"):
        check_fp8(gpu, torch.bfloat16, 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    check_fp8(gpu, torch.bfloat16, 1)
    with pytest.raises(CheckpointError, match="quantization fp8 gives bfloat16, not float16"):
        check_fp8(gpu, torch.float16, 1)
    with pytest.raises(CheckpointError, match="tensor_parallel_size 2"):
        check_fp8(gpu, torch.bfloat16, 2)
