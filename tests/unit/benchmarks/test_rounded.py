from pathlib import Path

import torch
from torch import nn

from benchmarks.rounded import main
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.checkpoints import build_checkpoint


def test_layers_hold_sixteen_values_a_group_and_nothing_else_changes(tmp_path: Path) -> None:
    source = build_checkpoint(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    main(source, tmp_path / "rounded", group=16)
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "rounded")
    assert after.manifest == before.manifest
    assert (tmp_path / "rounded" / "tokenizer.json").read_text() == "{}"
    linears = 0
    for (name, old), new in zip(before.transformer.named_modules(), after.transformer.modules(), strict=True):
        if isinstance(old, nn.Linear) and name != "lm_head":
            assert isinstance(new, nn.Linear)
            linears += 1
            values, rounded = old.weight.view(-1, 16), new.weight.view(-1, 16)
            scale = values.abs().amax(-1, keepdim=True) / 7.5
            assert ((values - rounded).abs() <= 0.6 * scale + 1e-6).all()
            assert max(len(row.unique()) for row in rounded) <= 16
            assert not old.weight.equal(new.weight)
        elif isinstance(old, nn.Embedding):
            assert torch.equal(old.weight, new.weight)  # type: ignore[arg-type]
    assert linears == 14
