"""Fields of decisions."""

from cdlm.server.openai.fields.row import (
    CUSTOM_CALL_ITEM,
    CUSTOM_RESULT_ITEM,
    DECISIONS,
    OPENAI,
    QUESTION,
    VLLM,
    harmless,
    honored,
    refused,
)

_CUSTOM = (CUSTOM_CALL_ITEM, CUSTOM_RESULT_ITEM)
_EARLIER = "it comes with items of an earlier answer"

DECISION_FIELDS = (
    honored((DECISIONS,), (OPENAI, VLLM), "model", "input", "questions"),
    honored((DECISIONS,), (), "joint", "priority", "cache_salt"),
    harmless("safety_identifier", (DECISIONS,), (OPENAI, VLLM), "nothing is reported about users"),
    harmless("prompt_cache_key", (DECISIONS,), OPENAI, "prompts that begin alike share what is cached by themselves"),
    harmless("prompt_cache_options", (DECISIONS,), OPENAI, "as prompt_cache_key"),
    harmless(("id", "status"), _CUSTOM, OPENAI, _EARLIER),
    refused("namespace", _CUSTOM, OPENAI, "tools have no namespaces"),
    refused("stream", (DECISIONS,), (), "answers come together"),
    refused("temperature", (DECISIONS,), (), "probabilities are the model's own", 1),
    refused("question", (QUESTION,), (), "use instructions"),
    refused("options", (QUESTION,), (), "use choices"),
)
