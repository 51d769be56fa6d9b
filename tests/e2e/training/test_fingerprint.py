"""The fingerprint of a tokenizer: the same in every process, another one for other tokens."""

from pathlib import Path

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.pretraining.tokenizer import train_tokenizer
from cdlm.training.trajectories.store import tokenizer_fingerprint

# Computed by another process: trajectories that it wrote can be read by this one.
FINGERPRINT = "d0eba93080a18ccb3279ae9d30bca97f31ad43c9b608e01544dda3511426a4ef"


def test_tokenizer_fingerprint_is_stable_and_sees_every_id(tmp_path: Path) -> None:
    assert tokenizer_fingerprint(load_tokenizer(BUNDLED_STUDENT)) == FINGERPRINT
    for name, size in (("small", 300), ("large", 310)):
        train_tokenizer(tmp_path / name, vocab_size=size, samples=50, seed=0, weights={"words": 1.0}, max_length=64)
    small, large = load_tokenizer(tmp_path / "small"), load_tokenizer(tmp_path / "large")
    assert tokenizer_fingerprint(small) != tokenizer_fingerprint(large)
    before = tokenizer_fingerprint(small)
    small.save_pretrained(tmp_path / "copy")
    assert tokenizer_fingerprint(load_tokenizer(tmp_path / "copy")) == before
    small.pad_token = small.eos_token
    assert tokenizer_fingerprint(small) != before
