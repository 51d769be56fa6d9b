"""The fingerprint of a tokenizer, in this process and in another."""

import subprocess
import sys
from pathlib import Path

from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.pretraining.tokenizer import train_tokenizer
from cdlm.training.trajectories.store import tokenizer_fingerprint
from tests.support.places import ROOT


def test_tokenizer_fingerprint_is_stable_and_sees_every_id(tmp_path: Path) -> None:
    for name, size in (("small", 300), ("large", 310)):
        train_tokenizer(tmp_path / name, vocab_size=size, samples=50, seed=0, weights={"words": 1.0}, max_length=64)
    small, large = load_tokenizer(tmp_path / "small"), load_tokenizer(tmp_path / "large")
    assert tokenizer_fingerprint(small) != tokenizer_fingerprint(large)
    small.save_pretrained(tmp_path / "copy")
    code = (
        "import sys; from pathlib import Path; from cdlm.model.tokens.tokenizer import load_tokenizer;"
        "from cdlm.training.trajectories.store import tokenizer_fingerprint;"
        "print(tokenizer_fingerprint(load_tokenizer(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "copy")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert output.stdout.strip() == tokenizer_fingerprint(small)
    before = tokenizer_fingerprint(small)
    small.pad_token = small.eos_token
    assert tokenizer_fingerprint(small) != before
