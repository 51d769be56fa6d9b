"""Mixtures of experts: who computes a token does not depend on the other tokens, and every way computes the same."""

import pytest
import torch
from torch import Tensor, nn

from cdlm.model.config import CheckpointError, MixtureConfig, TransformerConfig
from cdlm.model.network.mixture import Mixture, Router, grouped_product, product_by_operator
from cdlm.model.network.transformer import Transformer

SIGMOID = MixtureConfig(
    experts=12, experts_per_token=3, width=24, shared_width=16, scores="sigmoid", biased=True, groups=4,
    groups_per_token=2, scale=2.5,
)  # fmt: skip
SOFTMAX = MixtureConfig(experts=8, experts_per_token=2, width=24)


def made(config: MixtureConfig, seed: int = 0) -> Mixture:
    torch.manual_seed(seed)
    mixture = Mixture(32, config)
    if mixture.router.expert_bias is not None:
        nn.init.normal_(mixture.router.expert_bias, std=0.3)
    return mixture.requires_grad_(False)


@pytest.mark.parametrize("config", [SIGMOID, SOFTMAX])
def test_a_token_does_not_depend_on_the_others(config: MixtureConfig) -> None:
    mixture = made(config)
    x = torch.randn(37, 32)
    together = mixture(x)
    weights, chosen = mixture.router(x)
    for row in (0, 20, 36):
        alone, own = mixture.router(x[row : row + 1])
        assert own[0].tolist() == chosen[row].tolist()
        torch.testing.assert_close(alone[0], weights[row], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(mixture(x[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
    order = torch.randperm(37)
    torch.testing.assert_close(mixture(x[order]), together[order], atol=1e-5, rtol=1e-5)
    crowd = torch.cat((x[:1].expand(50, 32), x))  # Many rows for the same experts leave nobody out.
    torch.testing.assert_close(mixture(crowd)[50:], together, atol=1e-5, rtol=1e-5)
    assert mixture(x[:0]).shape == (0, 32)
    assert mixture(x.view(1, 37, 32)).shape == (1, 37, 32)


def test_the_bias_chooses_but_does_not_weigh() -> None:
    mixture = made(SIGMOID)
    router, x = mixture.router, torch.randn(5, 32)
    assert router.expert_bias is not None
    router.expert_bias.data.zero_()
    router.expert_bias.data[[1, 2, 10]] = 100.0
    weights, chosen = router(x)
    scores = torch.sigmoid(x @ router.weight.T)[:, [1, 2, 10]]
    assert (chosen.sort().values == torch.tensor([1, 2, 10])).all()
    by_expert = weights.gather(1, chosen.argsort())
    torch.testing.assert_close(by_expert, scores / scores.sum(1, keepdim=True) * 2.5)


def test_a_group_counts_by_its_two_best() -> None:
    """The single best expert stays out where its group's second is bad."""
    config = MixtureConfig(experts=6, experts_per_token=2, width=4, scores="sigmoid", groups=3)
    router = Router(6, config)
    router.weight.data = torch.eye(6)
    logits = torch.tensor([[4.0, -9.0, 2.0, 2.5, 1.0, 1.0]])
    assert sorted(router(logits)[1][0].tolist()) == [2, 3]


def test_softmax_weights_with_and_without_their_sum() -> None:
    router = made(SOFTMAX).router
    x = torch.randn(5, 32)
    of_all = (x @ router.weight.T).softmax(-1)
    best = of_all.topk(2).values
    torch.testing.assert_close(router(x)[0], best / best.sum(-1, keepdim=True))
    plain = Router(32, MixtureConfig(experts=8, experts_per_token=2, width=24, normalized=False))
    plain.load_state_dict(router.state_dict())
    torch.testing.assert_close(plain(x)[0], best)


def test_a_router_stays_in_fp32() -> None:
    mixture = made(SIGMOID)
    before = mixture.router.weight.clone()
    mixture.to(torch.bfloat16)
    assert mixture.experts.down.dtype == torch.bfloat16
    assert mixture.router.weight.equal(before)
    out = mixture(torch.randn(3, 32, dtype=torch.bfloat16))
    assert (out.dtype, mixture.router(torch.randn(3, 32, dtype=torch.bfloat16))[0].dtype) == (
        torch.bfloat16,
        torch.float32,
    )


@pytest.mark.parametrize("counts", [[3, 0, 9, 1], [0, 0, 0, 5], [0, 0, 0, 0]])
def test_grouped_products(counts: list[int]) -> None:
    rows, weights = torch.randn(sum(counts), 6), torch.randn(4, 5, 6)
    expected: list[Tensor] = []
    for group, count in enumerate(counts):
        begin = sum(counts[:group])
        expected += [weights[group] @ row for row in rows[begin : begin + count]]
    found = grouped_product(rows, weights, torch.tensor(counts).cumsum(0))
    torch.testing.assert_close(found, torch.stack(expected) if expected else rows.new_empty(0, 5))


@pytest.mark.parametrize("counts", [[3, 0, 9, 1], [0, 0, 0, 5]])
def test_the_operator_computes_the_same(counts: list[int]) -> None:
    """On a CPU, where the loop is taken otherwise."""
    rows, weights = torch.randn(sum(counts), 24).bfloat16(), torch.randn(4, 16, 24).bfloat16()
    ends = torch.tensor(counts).cumsum(0)
    found = product_by_operator(rows, weights, ends)
    torch.testing.assert_close(found, grouped_product(rows, weights, ends), atol=1e-1, rtol=1e-2)


def test_which_layers_have_experts() -> None:
    config = TransformerConfig(
        vocab_size=8, hidden_size=32, intermediate_size=40, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=16,
        mixture=MixtureConfig(experts=4, experts_per_token=2, width=24, shared_width=48, dense_layers=1),
    )  # fmt: skip
    with torch.device("meta"):
        transformer = Transformer(config)
    assert [isinstance(layer.mlp, Mixture) for layer in transformer.layers] == [False, True, True]  # type: ignore[union-attr]
    shapes = transformer.stored_shapes()
    assert shapes["layers.0.mlp.up_proj.weight"] == (40, 32)
    assert shapes["layers.1.mlp.experts.3.up_proj.weight"] == (24, 32)
    assert shapes["layers.2.mlp.experts.0.down_proj.weight"] == (32, 24)
    assert shapes["layers.2.mlp.shared_experts.gate_proj.weight"] == (48, 32)
    assert shapes["layers.2.mlp.router.weight"] == (4, 32)
    assert sum(shape.numel() for shape in shapes.values()) == sum(each.numel() for each in transformer.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": 0}, "experts must be positive, got 0"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"shared_width": -1}, "shared_width must not be negative, got -1"),
        ({"scores": "tanh"}, "scores must be one of softmax, sigmoid, got 'tanh'"),
        ({"groups": 5}, "8 experts cannot be dealt to 5 groups"),
        ({"groups": 8}, "8 groups of one expert have no two best scores"),
        ({"groups": 2, "groups_per_token": 3}, "a token cannot have 3 of 2 groups"),
        ({"groups": 4, "experts_per_token": 3}, "a token cannot have 3 of 2 experts"),
        ({"experts_per_token": 9}, "a token cannot have 9 of 8 experts"),
    ],
)
def test_impossible_mixtures(changes: dict[str, object], message: str) -> None:
    keys: dict[str, object] = {"experts": 8, "experts_per_token": 2, "width": 4}
    with pytest.raises(CheckpointError, match=message):
        MixtureConfig(**keys | changes)  # type: ignore[arg-type]
