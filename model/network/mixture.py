"""Mixtures of experts: feed-forwards of which each token takes a few (Shazeer et al., 2017, arXiv 1701.06538)."""

from collections.abc import Callable, Iterator
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from cdlm.model.config import MixtureConfig
from cdlm.model.network.mlp import MLP

# Keeps the division by a sum of scores defined; far below the last place of any other sum.
_LEAST_SUM = 1e-20
# ``torch.nn.functional.grouped_mm`` wants rows that begin at multiples of this.
_ALIGNED_BYTES = 16


class GroupedProduct(Protocol):
    """The product of each row with the matrix of its group."""

    def __call__(self, rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        """rows [R, in] in the order of their groups, weights [groups, out, in] -> [R, out].

        ``ends`` [groups] int64 has the number of rows up to the end of each group.
        """
        ...


def gated(both: Tensor) -> Tensor:
    """silu(gate) * up; both [rows, 2 * width]: gates, then ups -> [rows, width]."""
    gate, up = both.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """``GroupedProduct`` with PyTorch: one operator where a GPU has one, else a loop over the groups that have rows."""
    aligned = all(size * rows.itemsize % _ALIGNED_BYTES == 0 for size in weights.shape[1:])
    if rows.device.type == "cuda" and rows.itemsize == 2 and aligned:
        return product_by_operator(rows, weights, ends)
    parts, start = [rows.new_empty(0, weights.shape[1])], 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            parts.append(nn.functional.linear(rows[start:end], weights[group]))
        start = end
    return torch.cat(parts)


def product_by_operator(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """``GroupedProduct`` in one operator, for 16-bit matrices whose rows begin at multiples of 16 bytes."""
    return nn.functional.grouped_mm(rows, weights.transpose(1, 2), offs=ends.int())


class Router(nn.Module):
    """Chooses the experts of each token, in fp32 whatever the type of the other layers."""

    def __init__(self, hidden_size: int, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, hidden_size))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=hidden_size**-0.5)
        self.expert_bias = nn.Parameter(torch.zeros(config.experts)) if config.biased else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, hidden_size] -> weights fp32 and numbers of the chosen experts, [rows, experts_per_token] each."""
        config = self.config
        logits = nn.functional.linear(x.float(), self.weight)
        scores = logits.sigmoid() if config.scores == "sigmoid" else logits.softmax(-1)
        preferred = scores if self.expert_bias is None else scores + self.expert_bias
        if config.groups_per_token < config.groups:
            preferred = self._in_best_groups(preferred)
        chosen = preferred.topk(config.experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if config.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + _LEAST_SUM)
        return weights * config.scale, chosen

    def _in_best_groups(self, preferred: Tensor) -> Tensor:
        """The values of the best groups' experts; -inf for those of the others."""
        config = self.config
        of_groups = preferred.view(-1, config.groups, config.experts // config.groups)
        best = of_groups.topk(2, dim=-1).values.sum(-1).topk(config.groups_per_token, dim=-1).indices
        kept = torch.zeros(of_groups.shape[:-1], dtype=torch.bool, device=preferred.device).scatter(-1, best, True)
        return of_groups.masked_fill(~kept[..., None], float("-inf")).view_as(preferred)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follows the other layers to their device, but not to a shorter type."""

        def moved(tensor: Tensor) -> Tensor:
            there = fn(tensor)
            return there if there.itemsize >= tensor.itemsize else tensor.to(there.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


class Experts(nn.Module):
    """The experts of a layer, their matrices stacked: gates and ups [experts, 2 * width, hidden], downs."""

    def __init__(self, hidden_size: int, config: MixtureConfig) -> None:
        super().__init__()
        self.width = config.width
        self.gate_up = nn.Parameter(torch.empty(config.experts, 2 * config.width, hidden_size))
        self.down = nn.Parameter(torch.empty(config.experts, hidden_size, config.width))
        for stack in (self.gate_up, self.down):
            if not stack.is_meta:
                nn.init.normal_(stack, std=stack.shape[-1] ** -0.5)

    def forward(
        self,
        rows: Tensor,
        chosen: Tensor,
        product: GroupedProduct = grouped_product,
        gate: Callable[[Tensor], Tensor] = gated,
    ) -> Tensor:
        """rows [R, hidden_size], chosen [R, k] int64 -> the outputs of each row's experts [R, k, hidden_size].

        An output depends on its row and its expert alone.
        """
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        numbers = torch.arange(len(self.down), device=flat.device)
        ends = torch.searchsorted(flat[order], numbers, right=True)
        out = product(gate(product(rows[order // chosen.shape[1]], self.gate_up, ends)), self.down, ends)
        return out[order.argsort()].view(*chosen.shape, rows.shape[-1])

    def stored_shapes(self, name: str) -> Iterator[tuple[str, torch.Size]]:
        """The names and shapes of what a parameter consists of: matrices of single experts."""
        owner, _, leaf = name.rpartition(".")
        for expert in range(len(self.down)):
            for part in ("gate_proj", "up_proj") if leaf == "gate_up" else ("down_proj",):
                stored = f"{expert}.{part}.weight"
                yield f"{owner}.{stored}", self.memory(stored).shape

    def memory(self, stored: str) -> Tensor:
        """The memory of one expert's matrix, for example of ``3.up_proj.weight``."""
        expert, part, _ = stored.split(".")
        if part == "down_proj":
            return self.down.data[int(expert)]
        both = self.gate_up.data[int(expert)]
        return both[: self.width] if part == "gate_proj" else both[self.width :]


class Mixture(nn.Module):
    """A router, its experts, and perhaps an expert that every token gets."""

    def __init__(self, hidden_size: int, config: MixtureConfig) -> None:
        super().__init__()
        self.router = Router(hidden_size, config)
        self.experts = Experts(hidden_size, config)
        self.shared_experts = MLP(hidden_size, config.shared_width) if config.shared_width else None

    def forward(
        self,
        x: Tensor,
        product: GroupedProduct = grouped_product,
        gate: Callable[[Tensor], Tensor] = gated,
    ) -> Tensor:
        """x [..., hidden_size] -> same shape; ``product`` and ``gate`` compute the experts."""
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(rows)
        outputs = self.experts(rows, chosen, product, gate)
        out: Tensor = (weights[:, None] @ outputs.float())[:, 0].to(x.dtype)
        if self.shared_experts is not None:
            out = out + self.shared_experts(rows)
        return out.view(x.shape)
