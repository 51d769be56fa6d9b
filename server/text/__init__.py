"""Text to token ids and back: chat templates, special tokens, tokenizers, detokenizers."""

from cdlm.server.text.codec import TextCodec, TextError
from cdlm.server.text.detokenizer import Detokenizer
from cdlm.server.text.template import Chat

__all__ = ["Chat", "Detokenizer", "TextCodec", "TextError"]
