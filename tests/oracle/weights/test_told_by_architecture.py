"""DreamReasoner and Stable-DiffCoder decode as plain loops over transformers' own Qwen3 and Llama do."""

from pathlib import Path

import pytest

from tests.support.matrix import some
from tests.support.models.hf_block_checkpoints import EOS, MASK, build
from tests.support.models.published import Published, check_prompts, logits_of

FORMATS = {"DreamReasoner": Published(32, MASK, EOS, 0.9), "Stable-DiffCoder": Published(4, 5, EOS, 0.95)}


@pytest.mark.parametrize("seed", some(range(5), every=5))
@pytest.mark.parametrize("name", FORMATS)
def test_prompts_of_every_length_modulo_the_block(tmp_path: Path, name: str, seed: int) -> None:
    check_prompts(tmp_path, logits_of(build(tmp_path, name, seed=seed)), FORMATS[name], seed)
