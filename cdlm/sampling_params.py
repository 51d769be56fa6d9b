"""``cdlm.SamplingParams``: how answers are decoded, and what they must be."""

from typing import Any

from pydantic import Field

from cdlm.server.openai.fields.row import COMPLETIONS
from cdlm.server.openai.forms.structured import FormFields
from cdlm.server.openai.protocol.fields import SamplingFields


class SamplingParams(SamplingFields, FormFields):
    """Fields of ``/v1/completions`` that every kind of prompt has, by the same names.

        SamplingParams(max_tokens=64, temperature=0.7, stop=["\\n\\n"])
        SamplingParams(max_tokens=200, json_schema={"type": "object"})

    A wrong value raises ``pydantic.ValidationError``, a ``ValueError`` that names the field.
    """

    place = COMPLETIONS

    n: int = Field(1, ge=1, le=128, description="Answers for each prompt.")
    max_tokens: int | None = Field(
        None, ge=1, description="Most tokens of an answer; None is 16, and for a chat the rest of the context."
    )
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Report each token's log-probability and those of so many of the likeliest."
    )

    def of_completion(self) -> dict[str, Any]:
        """These as fields of a body of ``/v1/completions``; those that were not set are left out."""
        # Values are valid by now; pydantic warns of tuples that JSON has as lists.
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)

    def of_chat(self) -> dict[str, Any]:
        """These as fields of a body of ``/v1/chat/completions``."""
        fields = self.of_completion()
        count = fields.pop("logprobs", None)
        return fields if count is None else {**fields, "logprobs": True, "top_logprobs": count}
