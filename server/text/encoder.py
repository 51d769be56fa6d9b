"""Encodes text in which only a template can write special tokens."""

import json
import re
import secrets
import unicodedata
from collections.abc import Sequence

from tokenizers import Tokenizer

from cdlm.server.text.marked import Marked

# Braille: neither letters nor punctuation, caseless, unchanged by normalizers. The empty cell counts as a space.
_CELLS = [chr(code) for code in range(0x2801, 0x2900)]
_WORD_CATEGORIES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"))
_MARK_OF_TURN = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)
_NONCE_CELLS = 16  # 128 bits: secret names cannot be guessed.


class TextEncoder:
    """A tokenizer in which special tokens have secret names, and their own names are ordinary text.

    A text is encoded in one piece, as in transformers: start-of-text and space handling are the same. Truncation and
    padding in the tokenizer's file are ignored.

    Added tokens like ``<|user|>`` that the chat ``template`` writes count as special, whatever the file says.
    """

    def __init__(self, tokenizer: Tokenizer, template: str = "") -> None:
        spec = json.loads(tokenizer.to_str())
        for token in spec["added_tokens"]:
            # Some vocabularies do not mark the turn tokens of their templates as special.
            token["special"] |= bool(_MARK_OF_TURN.fullmatch(token["content"])) and token["content"] in template
        nonce = "".join(secrets.choice(_CELLS) for _ in range(_NONCE_CELLS))
        special = [token["content"] for token in spec["added_tokens"] if token["special"]]
        self._names = {content: nonce + _digits(number) for number, content in enumerate(special)}
        self._single = {token["content"] for token in spec["added_tokens"] if token["single_word"]}
        # The longest match wins, special or not.
        names = sorted((re.escape(token["content"]) for token in spec["added_tokens"]), key=len, reverse=True)
        self._added = re.compile("|".join(filter(None, names)) or "(?!)")
        for token in spec["added_tokens"]:
            if token["special"]:
                # ``single_word`` is checked before renaming.
                token.update(content=self._names[token["content"]], single_word=False)
        _rename(spec["model"], self._names)
        spec["truncation"] = spec["padding"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        for content, name in self._names.items():
            assert self._tokenizer.token_to_id(name) == tokenizer.token_to_id(content), content

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Encodes texts. In a ``Marked`` text, names that the template wrote become special tokens."""
        named = [self._named(text) if isinstance(text, Marked) else text for text in texts]
        # Unlike encode(), this releases the GIL.
        encodings = self._tokenizer.encode_batch_fast(named, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _named(self, text: Marked) -> str:
        plain, pieces, sent = text.plain(), [], 0
        for run in re.finditer(b"\0+", text.marks):
            for match in self._added.finditer(plain, run.start(), run.end()):
                content = match[0]
                if content not in self._names or (content in self._single and not _alone(plain, *match.span())):
                    continue
                pieces += [plain[sent : match.start()], self._names[content]]
                sent = match.end()
        return "".join([*pieces, plain[sent:]])


def _digits(number: int) -> str:
    return _CELLS[number // len(_CELLS)] + _CELLS[number % len(_CELLS)]


def _alone(text: str, start: int, end: int) -> bool:
    return not any(map(_in_words, text[max(0, start - 1) : start] + text[end : end + 1]))


def _in_words(character: str) -> bool:
    # As in the tokenizers library, which differs from Python's \w in marks and fractions.
    return unicodedata.category(character) in _WORD_CATEGORIES or character in "\u200c\u200d"


def _rename(model: dict[str, object], names: dict[str, str]) -> None:
    """Renames special tokens in the vocabulary too, so that ordinary text cannot produce them."""
    vocabulary, merges, unknown = model["vocab"], model.get("merges"), model.get("unk_token")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): ident for piece, ident in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(merges, list):
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        model["merges"] = [[left, right] for left, right in pairs if not {left, right, left + right} & names.keys()]
    if isinstance(unknown, str):
        model["unk_token"] = names.get(unknown, unknown)
