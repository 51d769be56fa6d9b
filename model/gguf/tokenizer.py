"""The tokenizer of a GGUF file as Hugging Face files: byte-level BPE, cut into words as the file says."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from cdlm.model.config import CheckpointError
from cdlm.model.gguf.config import token_id
from cdlm.model.gguf.file import GgufFile

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # Kinds of tokens, in ``tokenizer.ggml.token_type``.

# How text is cut before merges, for Llama 3 (Unicode classes: L letters, N numbers); Qwen cuts numbers into digits.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> Any:
    pattern = Regex(_WORDS.format(digits=digits))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _smollm(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _qwen2(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _split("")


def _llama_bpe(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = _split("{1,3}")
    tokenizer.model.ignore_merges = True  # A word that is a token is that token.


_PRE_TOKENIZERS: Mapping[str, Callable[[Tokenizer], None]] = {
    "smollm": _smollm,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "llama-bpe": _llama_bpe,
    "llama3": _llama_bpe,
    "llama-v3": _llama_bpe,
}


def build_tokenizer(file: GgufFile) -> Tokenizer:
    """The file's tokenizer.

    Raises:
        CheckpointError: it is of another kind than byte-level BPE, cuts words in an unknown way, or is damaged.
    """
    kind, cut = file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise CheckpointError(f"{file.path}: tokenizer.ggml.model {kind!r} is not known; known: gpt2 (byte-level BPE)")
    if cut not in _PRE_TOKENIZERS:
        known = ", ".join(sorted(_PRE_TOKENIZERS))
        raise CheckpointError(f"{file.path}: tokenizer.ggml.pre {cut!r} is not known; known: {known}")
    tokens, kinds = file.items("tokenizer.ggml.tokens", str), file.items("tokenizer.ggml.token_type", int)
    if len(kinds) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens have {len(kinds)} types")
    vocabulary = {text: ident for ident, (text, its) in enumerate(zip(tokens, kinds, strict=True)) if its != _UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in file.items("tokenizer.ggml.merges", str)]
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # The library raises no class of its own.
        raise CheckpointError(f"{file.path}: tokenizer.ggml.merges do not fit the tokens: {error}") from error
    _PRE_TOKENIZERS[cut](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text, its in zip(tokens, kinds, strict=True)
            if its == _CONTROL
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text, its in zip(tokens, kinds, strict=True) if its == _USER_DEFINED]
    )
    first = token_id(file, "bos")
    if first is not None and file.flag("tokenizer.ggml.add_bos_token", False):
        text = _text(file, tokens, first)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{text}:0 $A:0", pair=f"{text}:0 $A:0 {text}:1 $B:1", special_tokens=[(text, first)]
        )
    return tokenizer


def write_tokenizer(file: GgufFile, directory: Path) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``, with the chat template if the file has one."""
    build_tokenizer(file).save(str(directory / "tokenizer.json"))
    tokens = file.items("tokenizer.ggml.tokens", str)
    config: dict[str, object] = {"tokenizer_class": "TokenizersBackend", "clean_up_tokenization_spaces": False}
    for ours, name in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "mask": "mask"}.items():
        if (ident := token_id(file, name)) is not None:
            config[f"{ours}_token"] = _text(file, tokens, ident)
    if file.has("tokenizer.chat_template"):
        config["chat_template"] = file.text("tokenizer.chat_template")
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def _text(file: GgufFile, tokens: list[str], ident: int) -> str:
    if not 0 <= ident < len(tokens):
        raise CheckpointError(f"{file.path}: token {ident} is not one of the {len(tokens)}")
    return tokens[ident]
