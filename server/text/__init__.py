"""Text to ids and back: chat templates, special tokens, tokenizers, and answers as they grow."""

from server.text.codec import Chat, TextCodec, TextError
from server.text.detokenizer import Detokenizer

__all__ = ["Chat", "Detokenizer", "TextCodec", "TextError"]
