"""Responses of the model list and the tokenizer routes."""

from typing import Literal

from pydantic import Field

from cdlm.server.answer import Answer


class ModelCard(Answer):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None = Field(description="Tokens of prompt and answer; null while the model loads.")
    block_length: int | None = Field(
        description="Tokens that are denoised together; 1 for a next-token model, null while the model loads."
    )


class ModelList(Answer):
    """The list of models, which has one entry."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokenized(Answer):
    """The ids of a prompt or a chat."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = Field(None, description="Only with return_token_strs; as the vocabulary has them.")


class Detokenized(Answer):
    """The text of ids."""

    prompt: str
