"""Packs weights into the layout of oneDNN's kernels: on a CPU, products of a few blocks are up to twice as fast.

A plain matrix is packed again in every product, which costs as much as multiplying it by a few dozen rows. The packed
matrix replaces the plain one, except that an embedding is kept for lookups.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from cdlm.model.network.head import LmHead
from cdlm.model.network.mlp import MLP
from cdlm.model.network.product import Product, quantized
from cdlm.model.network.transformer import Layer, Transformer

# The layout depends on the expected number of rows: here, a small batch of blocks.
_EXPECTED_ROWS = 32
# oneDNN caches a kernel of a megabyte or more per number of rows. Rows are therefore padded: up to each key to a
# multiple of its value. More rows than the last key are multiplied in parts.
_ROW_STEPS = {32: 1, 512: 16, 1024: 32, 2048: 64}
_MOST_ROWS = max(_ROW_STEPS)
# Smaller fp32 matrices, and products of fewer rows in fp32, are faster unpacked.
_LEAST_FP32_WEIGHTS, _LEAST_FP32_ROWS = 200_000, 4
_COMPARED = 1 << 17  # Outputs that are compared to see whether single rows are rounded otherwise.
_LINEAR = torch.ops.mkldnn._linear_pointwise.default
HEAD_COLUMNS = 8192  # Logits of 64 rows, in fp32, stay in a core's cache.


class PackedProduct:
    """The product x @ weight.T + bias with packed weights.

    Args:
        weight: [out, in] fp32 or bf16 on the CPU; copied.
        bias: [out] or ``None``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features = len(weight)
        self._bias = None if bias is None else bias.clone()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)
        self._least = least_rows(*weight.shape, weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if (
            x.dim() == 2 and self._least <= len(x) <= _EXPECTED_ROWS
        ):  # Most steps: what follows would take a tenth of their time.
            out: Tensor = _LINEAR(x, self._packed, self._bias, "none", [], "")
            return out
        rows = x.flatten(0, -2)
        parts = [self._multiply(part) for part in torch.split(rows, _MOST_ROWS)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.view(*x.shape[:-1], self.out_features)

    def _multiply(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if count == 0:
            return rows.new_empty(0, self.out_features)
        step = next(step for most, step in _ROW_STEPS.items() if count <= most)
        padded = max(self._least, count + -count % step)
        if padded > count:
            rows = nn.functional.pad(rows, (0, 0, 0, padded - count))
        out: Tensor = _LINEAR(rows, self._packed, self._bias, "none", [], "")
        return out[:count]


@lru_cache
def least_rows(out_features: int, in_features: int, dtype: torch.dtype) -> int:
    """The rows that a single row is padded to, 1 or 2, so that this machine rounds it as it does beside others.

    oneDNN's bfloat16 product of one row adds in an order of its own on some processors if the row is long. That
    changes one in ten thousand outputs, and with it tokens: it is therefore measured, once per shape.
    """
    if dtype == torch.float32:
        return 1  # Rounding is too fine to change tokens.
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
    for _ in range(max(2, _COMPARED // (_EXPECTED_ROWS * out_features))):
        rows = torch.randn(_EXPECTED_ROWS, in_features, generator=generator).to(dtype)
        single = [_LINEAR(row, packed, None, "none", [], "") for row in torch.split(rows, 1)]
        if not torch.cat(single).equal(_LINEAR(rows, packed, None, "none", [], "")):
            return 2
    return 1


class PackedHead(LmHead):
    """Replaces the LM head; packed in parts of the vocabulary.

    Args:
        head: the plain LM head.
        tied: its weight is the embedding, which is kept.
    """

    def __init__(self, head: LmHead, *, tied: bool) -> None:
        super().__init__(head.in_features, head.out_features, bias=False, device="meta")
        self.weight = head.weight if tied else shape_of(head)
        self.products = [PackedProduct(part) for part in torch.split(head.weight.data, HEAD_COLUMNS)]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., hidden_size] -> logits [..., vocab]."""
        if len(self.products) == 1:
            return self.products[0](hidden)
        logits = hidden.new_empty(*hidden.shape[:-1], self.out_features)
        for start, part in self.parts(hidden, HEAD_COLUMNS):
            logits[..., start : start + part.shape[-1]] = part
        return logits

    def part_columns(self, rows: int, part_bytes: int) -> int:  # noqa: ARG002
        """See ``LmHead``: a fixed number."""
        return HEAD_COLUMNS

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:  # noqa: ARG002
        """See ``LmHead``: ignores ``columns``, since the parts were fixed when they were packed."""
        start = 0
        for product in self.products:
            yield start, product(hidden)
            start += product.out_features


def packable() -> bool:
    """Whether this machine has the kernels for which ``worthwhile`` was measured: x86 with AVX-512."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(known) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def worthwhile(weight: Tensor, rows: int) -> bool:
    """Whether packing makes products with ``weight`` faster, for steps of at least ``rows`` rows."""
    if weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and rows >= _LEAST_FP32_ROWS and weight.numel() >= _LEAST_FP32_WEIGHTS


@torch.inference_mode()
def pack(transformer: Transformer, wanted: Callable[[Tensor], bool]) -> None:
    """Packs the matrices for which ``wanted`` is true, layer by layer, and frees the plain ones.

    Skips layers that are quantized or split over ranks, and stacked experts. Fuses the transformer, which can only run
    inference afterwards.
    """
    transformer.fuse()
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        attention = layer.self_attn
        if isinstance(attention.fused, Product) and wanted(attention.fused.weight):
            assert isinstance(attention.written, Product)
            attention.written = _packed(attention.written, wanted)
            attention.fused = _packed(attention.fused, wanted)
            forget(attention.q_proj, attention.k_proj, attention.v_proj)
        if _plain(attention.o_proj) and wanted(attention.o_proj.weight):
            attention.o_proj = ProductLinear(attention.o_proj, PackedProduct(attention.o_proj.weight.data))
        mlp = layer.mlp if isinstance(layer.mlp, MLP) else layer.mlp.shared_experts
        if mlp is not None:
            _pack_mlp(mlp, wanted)
    head = transformer.lm_head
    if type(head) is LmHead and wanted(head.weight):
        transformer.lm_head = PackedHead(head, tied=transformer.config.tie_word_embeddings)


def _pack_mlp(mlp: MLP, wanted: Callable[[Tensor], bool]) -> None:
    if isinstance(mlp.fused, Product) and wanted(mlp.fused.weight):
        mlp.fused = _packed(mlp.fused, wanted)
        forget(mlp.gate_proj, mlp.up_proj)
    if _plain(mlp.down_proj) and wanted(mlp.down_proj.weight):
        mlp.down_proj = ProductLinear(mlp.down_proj, PackedProduct(mlp.down_proj.weight.data))


def _packed(product: Product, wanted: Callable[[Tensor], bool]) -> PackedProduct | Product:
    if wanted(product.weight):
        return PackedProduct(product.weight, product.bias)
    # A view of a matrix that is about to be freed.
    return Product(product.weight.clone(), None if product.bias is None else product.bias.clone())


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not quantized(module)


def forget(*linears: nn.Linear) -> None:
    """Frees the weights of linear layers, of which another product has a copy."""
    for linear in linears:
        linear.weight = shape_of(linear)


def shape_of(linear: nn.Linear) -> nn.Parameter:
    """A parameter on the meta device with the weight's shape."""
    return nn.Parameter(torch.empty_like(linear.weight, device="meta"), requires_grad=False)


class ProductLinear(nn.Linear):
    """Replaces a linear layer without bias by a product of its own. Its ``weight`` has a shape but no memory.

    ``product`` maps x [..., in] to [..., out].
    """

    def __init__(self, linear: nn.Linear, product: Callable[[Tensor], Tensor]) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.product = shape_of(linear), product

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.product(x)
