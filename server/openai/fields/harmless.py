"""Fields that are accepted without effect: hints of OpenAI's API, and parameters of refused samplers."""

from cdlm.server.openai.fields.row import (
    CALL,
    CALL_ITEM,
    CALLED,
    CHATS,
    COMPLETIONS,
    ITEM,
    ITEM_PART,
    LLAMA,
    MESSAGE,
    OPENAI,
    PART,
    REASONING_ITEM,
    RESPONSES,
    RESULT_ITEM,
    SGLANG,
    TEXT,
    VLLM,
    Row,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_CHATTING = (CHATS, RESPONSES)
_ITEMS = (ITEM, CALL_ITEM, RESULT_ITEM, REASONING_ITEM)
_THOUGHT = "the model does not see what was thought for earlier answers"
_EARLIER = "it comes with items of an earlier answer"
_READ = "what a client read out of the text beside it"


def _ok(name: str, places: tuple[str, ...], peers: str | tuple[str, ...], note: str) -> Row:
    return Row(name, "harmless", places, (peers,) if isinstance(peers, str) else peers, note)


HARMLESS = (
    _ok("service_tier", _ANSWERS, (OPENAI, VLLM, SGLANG), "all requests are served alike"),
    _ok("safety_identifier", _CHATTING, (OPENAI, VLLM), "nothing is reported about users"),
    _ok("metadata", (CHATS,), OPENAI, "no answer is kept that it could be found by"),
    _ok("store", (CHATS,), OPENAI, "no answer is kept"),
    _ok("prompt_cache_key", _CHATTING, (OPENAI, VLLM), "prompts that begin alike share what is cached by themselves"),
    _ok("prompt_cache_options", _CHATTING, (OPENAI, VLLM), "as prompt_cache_key"),
    _ok("prompt_cache_retention", _CHATTING, (OPENAI, VLLM), "as prompt_cache_key"),
    _ok("prompt_cache_breakpoint", (PART, ITEM_PART), OPENAI, "as prompt_cache_key"),
    _ok("prediction", (CHATS,), OPENAI, "it is a hint about speed"),
    _ok("verbosity", (CHATS, TEXT), OPENAI, "it is a hint for models that were trained with it"),
    _ok("id", _ITEMS, OPENAI, _EARLIER),
    _ok("status", _ITEMS, OPENAI, _EARLIER),
    _ok("caller", (CALL_ITEM, RESULT_ITEM), OPENAI, _EARLIER),
    _ok("created_by", (CALL_ITEM, RESULT_ITEM), OPENAI, _EARLIER),
    _ok("name", (RESULT_ITEM,), OPENAI, "the call with the same call_id has it"),
    _ok("summary", (REASONING_ITEM,), OPENAI, _THOUGHT),
    _ok("content", (REASONING_ITEM,), OPENAI, _THOUGHT),
    _ok("encrypted_content", (REASONING_ITEM,), OPENAI, _THOUGHT),
    _ok("phase", (ITEM,), OPENAI, _EARLIER),
    _ok("annotations", (MESSAGE, ITEM_PART), OPENAI, _EARLIER),
    _ok("logprobs", (ITEM_PART,), OPENAI, _EARLIER),
    _ok("token_ids", (ITEM_PART,), (), _EARLIER),
    _ok("index", (CALL,), SGLANG, "calls come in the order of their list"),
    _ok("provider_specific_fields", (MESSAGE, CALL, CALLED), (), "notes of a client about an earlier answer"),
    _ok("parsed", (MESSAGE, ITEM_PART), (), _READ),
    _ok("parsed_arguments", (CALLED, CALL_ITEM), (), _READ),
    _ok("separate_reasoning", (CHATS,), SGLANG, "what a model thinks is not told apart from its answer"),
    _ok(
        "spaces_between_special_tokens", _ANSWERS, VLLM, "nothing is put between special tokens",
    ),
    _ok("xtc_threshold", _ANSWERS, LLAMA, "it belongs to xtc_probability"),
    _ok("mirostat_tau", _ANSWERS, LLAMA, "it belongs to mirostat"),
    _ok("mirostat_eta", _ANSWERS, LLAMA, "it belongs to mirostat"),
    _ok("adaptive_decay", _ANSWERS, LLAMA, "it belongs to adaptive_target"),
    _ok("dynatemp_exponent", _ANSWERS, LLAMA, "it belongs to dynatemp_range"),
    _ok("dry_base", _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    _ok("dry_allowed_length", _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    _ok("dry_penalty_last_n", _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    _ok("dry_sequence_breakers", _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    _ok("reasoning_budget_start_tag", _ANSWERS, LLAMA, "it belongs to reasoning_budget_tokens"),
    _ok("reasoning_budget_end_tag", _ANSWERS, LLAMA, "it belongs to reasoning_budget_tokens"),
    _ok("reasoning_budget_end_tags", _ANSWERS, LLAMA, "it belongs to reasoning_budget_tokens"),
    _ok("reasoning_budget_message", _ANSWERS, LLAMA, "it belongs to reasoning_budget_tokens"),
)  # fmt: skip
