"""A vocabulary of any size for random checkpoints: every id has text, so that a server has its usual work."""

import json
from itertools import count, islice, product
from pathlib import Path
from string import ascii_lowercase

from tokenizers import pre_tokenizers

SPECIAL = ("<|endoftext|>", "<|mask|>")


def write_vocabulary(directory: Path, size: int, tokenizer_class: str) -> int:
    """Writes the files of Qwen2's tokenizer with ``size`` ids, the last two special; returns the mask token's id."""
    single = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("\u0120" + "".join(letters) for length in count(1) for letters in product(ascii_lowercase, repeat=length))
    pieces = [*single, *islice(words, size - len(single) - len(SPECIAL))]  # U+0120 is how a byte vocabulary spells " ".
    (directory / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": tokenizer_class,
        "added_tokens_decoder": {str(len(pieces) + i): {"content": name, **plain} for i, name in enumerate(SPECIAL)},
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "mask_token": SPECIAL[1],
        "errors": "replace",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return size - 1
