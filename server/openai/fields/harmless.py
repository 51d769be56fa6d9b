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
    harmless,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_CHATTING = (CHATS, RESPONSES)
_ITEMS = (ITEM, CALL_ITEM, RESULT_ITEM, REASONING_ITEM)
_THOUGHT = "the model does not see what was thought for earlier answers"
_EARLIER = "it comes with items of an earlier answer"
_SHARED = "prompts that begin alike share what is cached by themselves"
_BUDGET = "it belongs to reasoning_budget_tokens"
_READ = "what a client read out of the text beside it"

HARMLESS = (
    harmless("service_tier", _ANSWERS, (OPENAI, VLLM, SGLANG), "all requests are served alike"),
    harmless("safety_identifier", _CHATTING, (OPENAI, VLLM), "nothing is reported about users"),
    harmless("metadata", (CHATS,), OPENAI, "no answer is kept that it could be found by"),
    harmless("store", (CHATS,), OPENAI, "no answer is kept"),
    harmless("prompt_cache_key", _CHATTING, (OPENAI, VLLM), _SHARED),
    harmless(("prompt_cache_options", "prompt_cache_retention"), _CHATTING, (OPENAI, VLLM), "as prompt_cache_key"),
    harmless("prompt_cache_breakpoint", (PART, ITEM_PART), OPENAI, "as prompt_cache_key"),
    harmless("prediction", (CHATS,), OPENAI, "it is a hint about speed"),
    harmless("verbosity", (CHATS, TEXT), OPENAI, "it is a hint for models that were trained with it"),
    harmless(("id", "status"), _ITEMS, OPENAI, _EARLIER),
    harmless(("caller", "created_by"), (CALL_ITEM, RESULT_ITEM), OPENAI, _EARLIER),
    harmless("name", (RESULT_ITEM,), OPENAI, "the call with the same call_id has it"),
    harmless(("summary", "content", "encrypted_content"), (REASONING_ITEM,), OPENAI, _THOUGHT),
    harmless("phase", (ITEM,), OPENAI, _EARLIER),
    harmless("annotations", (MESSAGE, ITEM_PART), OPENAI, _EARLIER),
    harmless("logprobs", (ITEM_PART,), OPENAI, _EARLIER),
    harmless("token_ids", (ITEM_PART,), (), _EARLIER),
    harmless("index", (CALL,), SGLANG, "calls come in the order of their list"),
    harmless("provider_specific_fields", (MESSAGE, CALL, CALLED), (), "notes of a client about an earlier answer"),
    harmless("parsed", (MESSAGE, ITEM_PART), (), _READ),
    harmless("parsed_arguments", (CALLED, CALL_ITEM), (), _READ),
    harmless("separate_reasoning", (CHATS,), SGLANG, "what a model thinks is not told apart from its answer"),
    harmless("spaces_between_special_tokens", _ANSWERS, VLLM, "nothing is put between special tokens"),
    harmless("xtc_threshold", _ANSWERS, LLAMA, "it belongs to xtc_probability"),
    harmless(("mirostat_tau", "mirostat_eta"), _ANSWERS, LLAMA, "it belongs to mirostat"),
    harmless("adaptive_decay", _ANSWERS, LLAMA, "it belongs to adaptive_target"),
    harmless("dynatemp_exponent", _ANSWERS, LLAMA, "it belongs to dynatemp_range"),
    harmless(("dry_base", "dry_allowed_length", "dry_penalty_last_n"), _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    harmless("dry_sequence_breakers", _ANSWERS, LLAMA, "it belongs to dry_multiplier"),
    harmless(("reasoning_budget_start_tag", "reasoning_budget_end_tag"), _ANSWERS, LLAMA, _BUDGET),
    harmless(("reasoning_budget_end_tags", "reasoning_budget_message"), _ANSWERS, LLAMA, _BUDGET),
)
