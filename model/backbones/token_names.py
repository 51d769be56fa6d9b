"""Reads the texts and ids of tokens from a checkpoint's tokenizer files."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdlm.model.config import CheckpointError
from cdlm.model.files import read_json

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILE = "vocab.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class TokenNames:
    """Token texts and ids, read without building the tokenizer. Empty for a directory without tokenizer files.

    Attributes:
        ordinary: text -> id of the vocabulary that text is tokenized into.
        added: text -> id of tokens added to that vocabulary, most of them special.
        eos, mask: texts of the end and mask tokens in ``tokenizer_config.json``.
        template: the chat template's source; empty if there is none.
    """

    ordinary: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)
    eos: str | None = None
    mask: str | None = None
    template: str = ""

    def find(self, *names: str | None) -> list[int]:
        """The ids of the tokens called ``names``, in that order; names without a token are left out."""
        known = [name for name in names if name is not None]
        ids = [self.added.get(name, self.ordinary.get(name)) for name in known]
        return [ident for ident in ids if ident is not None]

    @property
    def known(self) -> bool:
        """Whether there are tokenizer files."""
        return bool(self.ordinary or self.added)

    def text(self, ident: int) -> str | None:
        """The text of the token with that id; ``None`` if there is none."""
        tokens = (*self.added.items(), *self.ordinary.items())
        return next((text for text, number in tokens if number == ident), None)

    def check_fits(self, vocab_size: int, directory: Path) -> None:
        """Checks that an embedding of ``vocab_size`` rows covers the tokenizer's tokens.

        Added tokens without a row are tolerated, with a warning, if neither a prompt's text nor the chat template can
        contain them.

        Raises:
            CheckpointError: a prompt or a chat can contain an id without a row.
        """
        beyond = [(text, ident) for text, ident in self.ordinary.items() if ident >= vocab_size]
        if beyond:
            raise _beyond(directory, *max(beyond, key=lambda pair: pair[1]), vocab_size, "text can contain it")
        for text in self.unused(vocab_size):
            if text in self.template:
                raise _beyond(directory, text, self.added[text], vocab_size, "the chat template writes it")
            if text == self.eos:
                raise _beyond(directory, text, self.added[text], vocab_size, "it is the end token")
        if unused := self.unused(vocab_size):
            shown = ", ".join(map(repr, unused[:3])) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
            logger.warning("%s: the embedding has no row for the added tokens %s", directory, shown)

    def unused(self, vocab_size: int) -> list[str]:
        """Added tokens without a row in an embedding of ``vocab_size`` rows."""
        return [text for text, ident in self.added.items() if ident >= vocab_size]


def read_token_names(directory: Path) -> TokenNames:
    """Reads the tokenizer files of a checkpoint directory.

    Raises:
        CheckpointError: one of them is not a JSON object, or is a link out of the directory.
    """
    config, stored = _optional(directory, CONFIG_FILE), _optional(directory, TOKENIZER_FILE)
    if stored:
        ordinary = _vocabulary(stored, directory / TOKENIZER_FILE)
    else:
        ordinary = _ids(_optional(directory, VOCABULARY_FILE), directory / VOCABULARY_FILE)
    added = _ids(_optional(directory, ADDED_FILE), directory / ADDED_FILE)
    by_id = config.get("added_tokens_decoder")
    for ident, token in by_id.items() if isinstance(by_id, Mapping) else ():
        text = _text(token)
        if text is not None and ident.isdecimal():
            added[text] = int(ident)
    added |= _added(stored, directory / TOKENIZER_FILE)
    # A vocabulary often lists its added tokens too.
    ordinary = {text: ident for text, ident in ordinary.items() if text not in added}
    return TokenNames(
        ordinary, added, _text(config.get("eos_token")), _text(config.get("mask_token")), _template(directory, config)
    )


def _optional(directory: Path, name: str) -> dict[str, Any]:
    return read_json(directory, name) if (directory / name).exists() else {}


def _added(stored: Mapping[str, Any], path: Path) -> dict[str, int]:
    tokens = stored.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, Mapping) for token in tokens):
        raise CheckpointError(f"{path}: added_tokens is no list of objects")
    if not all(isinstance(token.get("content"), str) for token in tokens):
        raise CheckpointError(f"{path}: a token of added_tokens has no content that is a text")
    return _ids({token["content"]: token.get("id") for token in tokens}, path)


def _vocabulary(stored: Mapping[str, Any], path: Path) -> dict[str, int]:
    """``model.vocab`` of ``tokenizer.json``: a mapping, or for unigram models a list of [text, score], one per id."""
    model = stored.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):
        if not all(isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in vocabulary):
            raise CheckpointError(f"{path}: model.vocab is no list of texts with scores")
        return {entry[0]: ident for ident, entry in enumerate(vocabulary)}
    return _ids(vocabulary, path)


def _ids(vocabulary: object, path: Path) -> dict[str, int]:
    found = dict(vocabulary) if isinstance(vocabulary, Mapping) else {}
    for text, ident in found.items():
        if isinstance(ident, bool) or not isinstance(ident, int):
            raise CheckpointError(f"{path}: the token {text[:64]!r} has the id {ident!r}, which is no whole number")
    return found


def _text(token: object) -> str | None:
    """The text of a stored token, which is the text itself or an object with flags."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _template(directory: Path, config: Mapping[str, Any]) -> str:
    path = directory / TEMPLATE_FILE
    if path.exists():
        return path.read_text(errors="replace")
    template = config.get("chat_template")
    return template if isinstance(template, str) else json.dumps(template or "", ensure_ascii=False)


def _beyond(directory: Path, text: str, ident: int, vocab_size: int, why: str) -> CheckpointError:
    return CheckpointError(
        f"{directory}: the tokenizer's token {text[:64]!r} has id {ident}, but the embedding has {vocab_size} rows;"
        f" {why}"
    )
