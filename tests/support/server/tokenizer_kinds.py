"""Tokenizer directories of every common build, tiny, as checkpoints have them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the cat sat on the mat and the user said hello world", "a theme, the mat; user users 'quoted' don't"] * 8
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Spaces beside special tokens, and words of a client between them.
SPACED = (
    "{% for message in messages %}{{ message.role }} <|im_start|> {{ message.content }} <|im_end|> \n{% endfor %}"
    "{{ eos_token }} "
)


def _train(tokenizer: Tokenizer, special: list[AddedToken] | list[str] = SPECIAL, *, bytes_too: bool = False) -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytes_too else []
    trainer: Any = trainers.BpeTrainer(
        vocab_size=420 if bytes_too else 120, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The same with 256 byte tokens, for byte fallback."""
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    model["vocab"] |= {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    model |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    return Tokenizer.from_str(json.dumps(spec))


def byte_level(*, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, bytes_too=True)
    return tokenizer


def byte_level_with_prefix() -> Tokenizer:
    tokenizer = byte_level(prefix=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def qwen_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, bytes_too=True)
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])
    return tokenizer


def metaspace(scheme: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    _train(tokenizer)
    tokenizer = _with_bytes(tokenizer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()]
    )
    return tokenizer


def llama_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    _train(tokenizer)
    tokenizer = _with_bytes(tokenizer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def stripping() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken("<unk>"),
        AddedToken("<s>", normalized=True),
        AddedToken("</s>", lstrip=True, rstrip=True),
        AddedToken("<|im_start|>", rstrip=True),
        AddedToken("<|im_end|>", lstrip=True, single_word=True),
    ]
    _train(tokenizer, special, bytes_too=True)
    tokenizer.add_tokens([AddedToken("theme", single_word=True, special=False), AddedToken("qu", special=False)])
    return tokenizer


def cut_and_filled() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=32, pad_id=0, pad_token="<unk>")
    return tokenizer


def left_over_processor() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [(name, 0.0) for name in SPECIAL] + [("\u2581", -3.0), ("\u2581the", -4.0), ("\u2581user", -5.0)]
    pieces += [(chr(code), -6.0 - code / 1000) for code in range(0x21, 0x7F)]
    pieces += [("<", -1.0), ("\n", -6.0), ("at", -4.5), ("he", -4.6)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def word_piece() -> Tokenizer:
    letters = [chr(code) for code in range(0x21, 0x7F)]
    words = [*SPECIAL, *letters, *("##" + letter for letter in letters), "the", "cat", "user", "hello", "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return tokenizer


def word_as_special() -> Tokenizer:
    """A special token that is a word; the vocabulary comes to the same piece by merges."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["user"])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_level_with_prefix": byte_level_with_prefix,
    "qwen_like": qwen_like,
    "metaspace_first": lambda: metaspace("first"),
    "metaspace_always": lambda: metaspace("always"),
    "metaspace_never": lambda: metaspace("never"),
    "llama_like": llama_like,
    "stripping": stripping,
    "cut_and_filled": cut_and_filled,
    "left_over_processor": left_over_processor,
    "unigram": unigram,
    "word_piece": word_piece,
    "word_as_special": word_as_special,
    "named_in_config": byte_level,
}


def build_tokenizer(directory: Path, kind: str, template: str | None = TEMPLATE, **config: Any) -> Path:
    """Writes the two files of a tokenizer; with ``named_in_config``, some special tokens are in the second one only."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = KINDS[kind]()
    tokenizer.save(str(directory / "tokenizer.json"))
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": True,
    }
    if kind == "named_in_config":
        size = tokenizer.get_vocab_size()
        plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        values["added_tokens_decoder"] = {
            str(size): {"content": "<|late|>", **plain},
            str(size + 1): {"content": "<|later|>", **plain, "rstrip": True},
        }
        values["eos_token"] = "<|later|>"
    if template is not None:
        values["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(values | config))
    return directory
