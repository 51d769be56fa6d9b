"""Text to token ids and back: chat templates, special tokens, tokenizers, detokenizers."""

from cdlm.server.text.codec import Chat, TextCodec, TextError
from cdlm.server.text.detokenizer import Detokenizer

__all__ = ["Chat", "Detokenizer", "TextCodec", "TextError"]
