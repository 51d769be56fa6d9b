"""The feed-forward of a layer."""

from collections.abc import Callable

from torch import Tensor, nn

from cdlm.model.network.product import fused


class MLP(nn.Module):
    """SwiGLU feed-forward (Shazeer, 2020, arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, width, bias=False)
        self.up_proj = nn.Linear(hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, hidden_size, bias=False)
        self.fused: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.gate_proj(x), self.up_proj(x)) if self.fused is None else self.fused(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(nn.functional.silu(gate) * up)
        return out

    def fuse(self) -> None:
        """Fuses the projections of gate and up; stores no matrix twice."""
        self.fused = fused((self.gate_proj, self.up_proj))
