"""The backbone's own properties: products fused for inference change nothing, and rotation is relative."""

import pytest
import torch

from cdlm.model.config import TransformerConfig
from cdlm.model.network.rope import RotaryEmbedding, rotate
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention


@pytest.fixture(params=[False, True], ids=["plain", "biased"])
def transformer(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
        attention_bias=request.param, qk_norm=not request.param,
    )  # fmt: skip
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # Biases start at zero, where a lost one would not show.
    return model.requires_grad_(False)


def test_fused_products_keep_states_names_and_memory(transformer: Transformer) -> None:
    ids, positions = torch.randint(50, (2, 7)), torch.arange(7).expand(2, 7)
    stored = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    before = transformer(ids, positions, RowAttention(None))
    transformer.fuse()
    torch.testing.assert_close(transformer(ids, positions, RowAttention(None)), before)
    after = transformer.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in stored.items())
    attention = transformer.layers[0].self_attn
    assert attention.q_proj.weight.untyped_storage().data_ptr() == attention.fused.weight.untyped_storage().data_ptr()
    # The single layers and the product read one memory.
    attention.v_proj.weight.zero_()
    assert not transformer(ids, positions, RowAttention(None)).allclose(before)


def test_what_is_trained_cannot_be_fused(transformer: Transformer) -> None:
    transformer.requires_grad_(True)
    with pytest.raises(ValueError, match="trained"):
        transformer.fuse()


def test_rotation_turns_pairs_by_position_and_keeps_distances() -> None:
    rotary = RotaryEmbedding(8, theta=100.0)
    x, y = torch.randn(2, 8)
    far, near = (rotate(torch.stack((x, y))[:, None], *rotary(torch.tensor(at))) for at in ([9, 5], [4, 0]))
    torch.testing.assert_close((far[0] * far[1]).sum(), (near[0] * near[1]).sum())
    torch.testing.assert_close(near[1, 0], y)  # Position 0 turns nothing.
    first = rotate(x[None, None], *rotary(torch.tensor([1])))[0, 0]
    angle = torch.tensor(1.0)  # theta^0
    torch.testing.assert_close(first[0], x[0] * angle.cos() - x[4] * angle.sin())
    torch.testing.assert_close(first[4], x[4] * angle.cos() + x[0] * angle.sin())
