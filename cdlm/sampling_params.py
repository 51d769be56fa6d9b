"""``cdlm.SamplingParams``: decoding parameters and output formats of requests."""

from typing import Any

from pydantic import Field

from cdlm.server.openai.fields.row import COMPLETIONS
from cdlm.server.openai.forms.structured import FormFields
from cdlm.server.openai.protocol.fields import SamplingFields


class SamplingParams(SamplingFields, FormFields):
    """Decoding parameters and output formats; the names are those of ``/v1/completions``.

        SamplingParams(max_tokens=64, temperature=0.7, stop=["\\n\\n"])
        SamplingParams(max_tokens=200, json_schema={"type": "object"})

    An invalid value raises ``pydantic.ValidationError``, a ``ValueError`` that names the field.
    """

    place = COMPLETIONS

    n: int = Field(1, ge=1, le=128, description="Answers per prompt.")
    max_tokens: int | None = Field(
        None, ge=1, description="Most tokens of an answer; None is 16, or in a chat the rest of the context."
    )
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Report log-probabilities of each token and of this many most likely ones."
    )

    def of_completion(self) -> dict[str, Any]:
        """The fields that were set, as a JSON body for ``/v1/completions``."""
        # The values are validated; pydantic would warn that tuples become lists.
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)

    def of_chat(self) -> dict[str, Any]:
        """The fields that were set, as a JSON body for ``/v1/chat/completions``."""
        fields = self.of_completion()
        count = fields.pop("logprobs", None)
        return fields if count is None else {**fields, "logprobs": True, "top_logprobs": count}
