"""The tokenizer of a checkpoint: user text to ids, chats to ids, ids to text."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import jinja2
from pydantic import JsonValue
from tokenizers import Tokenizer

from model.config import CheckpointError
from model.grammar.vocabulary import Vocabulary
from model.token_bytes import TokenBytes
from server.errors import invalid, too_long
from server.tool_format import native_messages, plain_messages

# Shorter texts take less time to encode than a thread takes to answer.
_INLINE_CHARACTERS = 2_000

# Between a suffix and the prompt behind it, where the vocabulary has no tokens for infilling.
INFILL_SEPARATOR = "\n\n"
_INFILL_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")

Result = TypeVar("Result")
Render = Callable[[list[dict[str, JsonValue]], list[JsonValue]], str]


class TextError(Exception):
    """The tokenizer of a checkpoint cannot be loaded; the message names the folder and the reason."""


class TextCodec:
    """Encodes text so that nothing a user writes can become a special token, and decodes ids.

    ``render`` turns messages and tools into the text of a chat; ``None`` when the checkpoint has no chat template.
    One that does not know tools (``knows_tools``) is given none, and sees them as text.
    """

    def __init__(self, tokenizer: Tokenizer, render: Render | None = None, *, knows_tools: bool = False) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # Literal special tokens inside text become ordinary characters.
        self._tokenizer.encode_special_tokens = True
        self._render, self._knows_tools = render, knows_tools
        self._bytes = TokenBytes(tokenizer)
        self._special = self._bytes.special
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._splitter = re.compile(f"({'|'.join(names)})") if names else None
        ids = {token.content: ident for ident, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._infill = [ids[name] for name in _INFILL_TOKENS] if ids.keys() >= set(_INFILL_TOKENS) else None
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        # A normalizer may shorten text before it is cut into tokens.
        self._token_characters = longest * (4 if self._tokenizer.normalizer else 1)

    @classmethod
    def load(cls, directory: Path, chat_template: Path | None = None) -> "TextCodec":
        """Loads from a local checkpoint folder; runs no code from it. Raises ``TextError``.

        ``chat_template`` is a file that replaces the checkpoint's.
        """
        from model.tokenizer import load_tokenizer  # Imports transformers, which takes seconds.

        try:
            loaded: Any = load_tokenizer(directory, chat_template)
            backend = loaded.backend_tokenizer
        except (CheckpointError, AttributeError) as error:
            raise TextError(str(error)) from error

        def render(messages: list[dict[str, JsonValue]], tools: list[JsonValue]) -> str:
            text = loaded.apply_chat_template(messages, tools or None, tokenize=False, add_generation_prompt=True)
            assert isinstance(text, str)
            return text

        knows_tools = re.search(r"\btools\b", str(loaded.chat_template)) is not None
        return cls(backend, render if loaded.chat_template else None, knows_tools=knows_tools)

    async def encode(
        self, texts: Sequence[str], max_tokens: int, param: str = "prompt", *, special: bool = True
    ) -> list[list[int]]:
        """Ids of each text; raises ``ApiError`` 400 when one must be longer than ``max_tokens``.

        ``special`` puts around it what the tokenizer puts around a prompt.
        """
        for text in texts:
            self._bound([text], max_tokens, param)
        return await _offload(sum(map(len, texts)), lambda: self._ids(texts, add_special_tokens=special))

    async def encode_infill(
        self, prompts: Sequence[str], suffix: str, suffix_ids: Sequence[int], max_tokens: int
    ) -> list[list[int]]:
        """Ids of prompts that also show ``suffix``, the text behind the answer (docs/infilling.md).

        Raises ``ApiError`` 400 when one must be longer than ``max_tokens``.
        """
        if self._infill is None:
            return await self.encode([suffix + INFILL_SEPARATOR + prompt for prompt in prompts], max_tokens)
        before, between, after = self._infill
        encoded = await self.encode(prompts, max_tokens, special=False)
        return [[before, *ids, between, *suffix_ids, after] for ids in encoded]

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, JsonValue]],
        max_tokens: int,
        tools: Sequence[JsonValue] = (),
        param: str = "messages",
    ) -> list[int]:
        """Ids of a chat, up to where the assistant's answer starts; the template gets ``tools`` if it knows them.

        Only the template's own special tokens count; those inside messages stay text. Raises ``ApiError``
        400 naming ``param`` when there is no template, the template refuses the messages, or they must be too long.
        """
        if self._render is None:
            raise invalid("This model has no chat template; use /v1/completions", param)
        shown = native_messages(messages) if self._knows_tools else plain_messages(messages, tools)
        offered = list(tools) if self._knows_tools else []
        texts = [*_texts(shown), *_texts(offered)]
        self._bound(texts, max_tokens, param)
        return await _offload(sum(map(len, texts)), lambda: self._chat_ids(shown, offered, texts, param))

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Text of ``ids``; special tokens leave no trace unless ``keep_special``."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special)

    def token_bytes(self, ident: int) -> bytes:
        """The bytes one token stands for, a special token by its name; parts of a character stay parts."""
        return self._bytes(ident)

    def is_special(self, ident: int) -> bool:
        """Whether a token is no text."""
        return ident in self._special.values()

    def vocabulary(self, size: int) -> Vocabulary:
        """The vocabulary of a model with ``size`` tokens; building it takes up to a second."""
        return Vocabulary(self._tokenizer, size)

    def _chat_ids(
        self, messages: list[dict[str, JsonValue]], tools: list[JsonValue], texts: Sequence[str], param: str
    ) -> list[int]:
        assert self._render is not None
        shield = _Shield(self._special, texts)
        shielded = [{key: shield.hide_all(value) for key, value in message.items()} for message in messages]
        try:
            rendered = self._render(shielded, [shield.hide_all(tool) for tool in tools])
        except jinja2.TemplateError as error:
            raise invalid(f"The chat template refuses these messages: {error}", param) from error
        pieces = self._splitter.split(rendered) if self._splitter else [rendered]
        plain = [shield.reveal(piece) for piece in pieces if piece not in self._special]
        encoded = iter(self._ids(plain, add_special_tokens=False))
        parts = ([self._special[piece]] if piece in self._special else next(encoded) for piece in pieces)
        return [ident for part in parts for ident in part]

    def _ids(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        # Unlike encode(), this lets the event loop run meanwhile.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _bound(self, texts: Sequence[str], max_tokens: int, param: str) -> None:
        # Tells without encoding: the time an over-long text costs must not grow with it.
        least = sum(map(len, texts)) // self._token_characters
        if least > max_tokens:
            raise too_long(max_tokens, f"at least {least}", param)


class _Shield:
    """Replaces the first characters of special tokens by stand-ins that no template contains."""

    def __init__(self, special: Mapping[str, int], texts: Sequence[str]) -> None:
        used = set().union(*texts)
        stand_ins = (chr(code) for code in range(0xF0000, 0xFFFFD) if chr(code) not in used)
        firsts = sorted({token[0] for token in special})
        self._hide = {ord(first): stand_in for first, stand_in in zip(firsts, stand_ins, strict=False)}
        self._reveal = {ord(stand_in): chr(first) for first, stand_in in self._hide.items()}
        assert len(self._hide) == len(firsts)

    def hide(self, text: str) -> str:
        return text.translate(self._hide)

    def hide_all(self, value: JsonValue) -> JsonValue:
        """The same in every text of a JSON value."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self.hide_all(item) for item in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide_all(item) for key, item in value.items()}
        return value

    def reveal(self, text: str) -> str:
        return text.translate(self._reveal)


class Detokenizer:
    """Turns ids into text as they come; the pieces joined equal the text of all ids.

    A trailing incomplete UTF-8 sequence is held back until the ids that complete it, or ``flush``.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        # Ids since the last clean border but one: some decoders treat the first id of a text differently.
        self._window: list[int] = []
        self._border = 0
        self._sent = 0

    def feed(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` make certain."""
        self._window += ids
        text = self._decode(self._window)
        certain = text.rstrip("\ufffd")
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        if certain == text and len(self._window) > self._border:
            self._window = self._window[self._border :]
            self._border = len(self._window)
            self._sent = len(self._decode(self._window))
        return piece

    def flush(self) -> str:
        """What was held back; the end of the text."""
        piece = self._decode(self._window)[self._sent :]
        self._sent += len(piece)
        return piece


def _texts(value: object) -> list[str]:
    """Every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *_texts(list(value.values()))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


async def _offload(characters: int, work: Callable[[], Result]) -> Result:
    if characters <= _INLINE_CHARACTERS:
        return work()
    return await anyio.to_thread.run_sync(work)
