"""The tokenizer of a checkpoint: user text to ids, chats to ids, ids to text."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from tokenizers import Tokenizer

from cdlm.model.config import CheckpointError
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.model.tokens.token_bytes import TokenBytes
from cdlm.server.errors import invalid, too_long
from cdlm.server.text.detokenizer import Detokenizer
from cdlm.server.text.encoder import TextEncoder
from cdlm.server.text.marked import Marked, concat
from cdlm.server.text.template import Chat, ChatTemplate, TemplateFault

logger = logging.getLogger(__name__)

# Shorter texts are encoded inline: faster than a thread switch.
_INLINE_CHARACTERS = 2_000
# Tokens before an answer on which its text may depend; more than one, since a token may have no text.
_CONTEXT_TOKENS = 8

# Between suffix and prompt, if the vocabulary has no infilling tokens.
INFILL_SEPARATOR = "\n\n"
_INFILL_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_NO_TEMPLATE = "This model has no chat template; use /v1/completions"

Result = TypeVar("Result")


class TextError(Exception):
    """The tokenizer of a checkpoint cannot be loaded; the message names the folder and the reason."""


class TextCodec:
    """Encodes text so that client text never becomes a special token, and decodes ids.

    ``template`` renders chats; a ``str`` instead is the error message for chats. ``variables`` are available to
    templates of requests, for example ``bos_token``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | str = _NO_TEMPLATE,
        variables: Mapping[str, object] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._variables = dict(variables or {})
        self._encoder = TextEncoder(tokenizer, "" if isinstance(template, str) else "\n".join(template.sources))
        self._template = template
        self._bytes = TokenBytes(tokenizer)
        self._special = frozenset(self._bytes.special.values())
        ids = {token.content: ident for ident, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._infill = [ids[name] for name in _INFILL_TOKENS] if ids.keys() >= set(_INFILL_TOKENS) else None
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        # A normalizer may shorten text before tokenization.
        self._token_characters = longest * (4 if self._tokenizer.normalizer else 1)
        self._after_special = self._context_after_special()

    @classmethod
    def load(cls, directory: Path, chat_template: Path | None = None) -> "TextCodec":
        """Loads the tokenizer of a checkpoint directory, without running code from it. Raises ``TextError``.

        ``chat_template`` is a file that replaces the checkpoint's.
        """
        from cdlm.model.tokens.tokenizer import load_tokenizer  # Imports transformers, which takes seconds.

        try:
            loaded: Any = load_tokenizer(directory, chat_template)
            backend = loaded.backend_tokenizer
        except (CheckpointError, AttributeError) as error:
            raise TextError(str(error)) from error
        variables = loaded.special_tokens_map
        template: ChatTemplate | str = _NO_TEMPLATE
        if loaded.chat_template:
            try:
                template = ChatTemplate(loaded.chat_template, variables)
            except TemplateFault as fault:
                logger.warning("%s: the chat template %s; chats are refused", directory, fault)
                template = f"The chat template of this model {fault}; use /v1/completions"
        return cls(backend, template, variables)

    async def encode(
        self, texts: Sequence[str], max_tokens: int, param: str = "prompt", *, special: bool = True
    ) -> list[list[int]]:
        """Encodes texts; raises ``ApiError`` 400 if one is certainly longer than ``max_tokens``.

        ``special`` adds the special tokens that the tokenizer puts around a prompt.
        """
        for text in texts:
            self._bound([text], max_tokens, param)
        return await _offload(sum(map(len, texts)), lambda: self._encoder.encode(texts, add_special_tokens=special))

    async def encode_infill(
        self,
        prompts: Sequence[str],
        suffix: str,
        suffix_ids: Sequence[int],
        max_tokens: int,
        param: str = "prompt",
        *,
        special: bool = True,
    ) -> list[list[int]]:
        """Encodes prompts that also contain ``suffix``, the text after the answer (docs/infilling.md).

        Raises ``ApiError`` 400 that names ``param`` if one is certainly longer than ``max_tokens``.
        """
        if not suffix:
            return await self.encode(prompts, max_tokens, param, special=special)
        if self._infill is None:
            texts = [suffix + INFILL_SEPARATOR + prompt for prompt in prompts]
            return await self.encode(texts, max_tokens, param, special=special)
        before, between, after = self._infill
        encoded = await self.encode(prompts, max_tokens, param, special=False)
        return [[before, *ids, between, *suffix_ids, after] for ids in encoded]

    async def encode_chat(
        self, chat: Chat, max_tokens: int, param: str = "messages", *, special: bool = False
    ) -> list[int]:
        """Encodes a chat, up to the start of the answer.

        Special tokens of the template take effect; their names inside messages stay text. ``special`` adds the special
        tokens that the tokenizer puts around a prompt. Raises ``ApiError`` 400 that names ``param`` if there is no
        template, it refuses the messages, or they are certainly too long.
        """
        texts = [*_texts(list(chat.messages)), *_texts(list(chat.tools)), *_texts(dict(chat.variables))]
        self._bound(texts, max_tokens, param)
        size = sum(map(len, texts)) + len(chat.template or "")
        return await _offload(size, lambda: self.chat_ids(chat, param, special=special))

    def chat_ids(self, chat: Chat, param: str = "messages", *, special: bool = False) -> list[int]:
        """``encode_chat`` without a limit, synchronous."""
        return self._encoder.encode([self.chat_text(chat, param)], add_special_tokens=special)[0]

    def prompt_ids(self, text: str) -> list[int]:
        """``encode`` of one prompt without a limit, synchronous."""
        return self._encoder.encode([text], add_special_tokens=True)[0]

    def spellings(self, text: str) -> list[list[int]]:
        """Encodes a text twice: as the continuation of a word, and after a space."""
        bare = text.lstrip(" ")
        found = self._encoder.encode([bare, f" {bare}"], add_special_tokens=False)
        return [ids for ids in found if ids]

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template, usable or not; chats report why a template is unusable."""
        return self._template is not _NO_TEMPLATE

    def chat_text(self, chat: Chat, param: str = "messages") -> Marked:
        """Renders a chat as text that marks the client's characters. Raises ``ApiError`` as ``encode_chat``."""
        template = self._template
        if chat.template is not None:
            param = "chat_template"
            try:
                template = ChatTemplate(chat.template, self._variables)
            except TemplateFault as fault:
                raise invalid(f"chat_template {fault}", param) from fault
        if isinstance(template, str):
            raise invalid(template, param)
        try:
            return template.render(chat)
        except TemplateFault as fault:
            raise invalid(f"The chat template {fault}", param) from fault

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Decodes ``ids``; omits special tokens unless ``keep_special``."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special)

    def token_bytes(self, ident: int) -> bytes:
        """The bytes of a token, perhaps part of a character; the name of a special token."""
        return self._bytes(ident)

    def token_name(self, ident: int) -> str:
        """The token's entry in the vocabulary; empty for an unknown id."""
        return self._tokenizer.id_to_token(ident) or ""

    def is_special(self, ident: int) -> bool:
        """Whether a token is special, that is, not text."""
        return ident in self._special

    def vocabulary(self, size: int) -> Vocabulary:
        """The vocabulary for grammars, for a model with ``size`` logits; takes up to a second to build."""
        return Vocabulary(self._tokenizer, size)

    def detokenizer(self, prompt_ids: Sequence[int] = (), *, keep_special: bool = False) -> Detokenizer:
        """A detokenizer for an answer; a leading space may depend on the prompt's last tokens."""
        decode = partial(self.decode, keep_special=keep_special)
        return Detokenizer(decode, self._context(prompt_ids), () if keep_special else self._special)

    def _context(self, prompt_ids: Sequence[int]) -> list[int]:
        tail: list[int] = []
        for ident in reversed(prompt_ids[-_CONTEXT_TOKENS:]):
            if ident in self._special:
                break
            tail.insert(0, ident)
        if not tail:
            return self._after_special if prompt_ids else []
        # The first tokens may be the end of a split character.
        cuts = (tail[start:] for start in range(len(tail)))
        return next((cut for cut in cuts if "\ufffd" not in self.decode(cut)), [])

    def _context_after_special(self) -> list[int]:
        """The context of an answer after a special token, for SentencePiece tokenizers.

        Most of them add a space before each text, some only before the first. In the latter, a space after a special
        token is part of the text, and is decoded only after a text token.
        """
        for content in list(self._bytes.special)[:_CONTEXT_TOKENS]:
            texts = [concat([content + text]) for text in ("a", " a")]
            letter, spaced = (ids[1:] for ids in self._encoder.encode(texts, add_special_tokens=False))
            neutral = letter[-1:]
            length = len(self.decode(neutral))
            if self.decode(spaced) != " a" and [self.decode(neutral + ids)[length:] for ids in (letter, spaced)] == [
                "a",
                " a",
            ]:
                return neutral
        return []

    def _bound(self, texts: Sequence[str], max_tokens: int, param: str) -> None:
        # Decides without encoding, so that an overlong text costs no time.
        least = sum(map(len, texts)) // self._token_characters
        if least > max_tokens:
            raise too_long(max_tokens, f"at least {least}", param)


def _texts(value: object) -> list[str]:
    """All strings in a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *_texts(list(value.values()))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


async def _offload(characters: int, work: Callable[[], Result]) -> Result:
    if characters <= _INLINE_CHARACTERS:
        return work()
    return await anyio.to_thread.run_sync(work)
