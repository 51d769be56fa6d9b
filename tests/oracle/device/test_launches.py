"""How many operators and kernels a step launches for each layer with Triton kernels."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.matrix import some
from tests.support.models.checkpoints import build_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="it counts in Triton's interpreter")

MOST = 10


class Launches(TorchDispatchMode):
    """Counts operators that compute something, and kernels; not the operators that interpret a kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        from triton.runtime.interpreter import GridExecutor

        self.found: Counter[str] = Counter()
        self._inside = False
        launch = GridExecutor.__call__

        def launched(executor: Any, *args: Any, **kwargs: Any) -> None:
            self.found[f"kernel {executor.fn.__name__}"] += 1
            self._inside = True
            launch(executor, *args, **kwargs)
            self._inside = False

        monkeypatch.setattr(GridExecutor, "__call__", launched)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if not (self._inside or func.is_view or "empty" in name or name in ("aten::_unsafe_view", "aten::lift_fresh")):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def launches(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Those of a step in which one row denoises, and another commits a block and denoises the next."""
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=2, attention_backend="triton"))
    for name, threshold in (("steady", 1.0), ("commits", 1e-9)):
        params = DecodingParams(confidence_threshold=threshold)
        engine.add(
            GenerateRequest(request_id=name, prompt_ids=[5, 9, 2], max_tokens=40, ignore_eos=True, params=params)
        )
    engine.step()
    with monkeypatch.context() as patch, Launches(patch) as counted:
        engine.step()
    return counted.found


@pytest.mark.parametrize("axis", some(["qk_norm_tied", "shifted", "plain"], every=3))
def test_a_layer_is_at_most_ten_launches(tmp_path: Path, axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for layers in (1, 3):
        directory = build_checkpoint(tmp_path / str(layers), axis, seed=5, num_layers=layers, block_length=4)
        found.append(launches(directory, monkeypatch))
    few, many = found
    more = many - few
    assert not few - many
    assert {count % 2 for count in more.values()} == {0}, more
    assert more.total() // 2 <= MOST, more
    # Both kinds are counted.
    assert more["kernel paged_attention"] == 2
    assert sum(more[f"aten::{name}"] for name in ("linear", "mm", "addmm")) == 8
