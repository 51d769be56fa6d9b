"""Supported fields; the bodies of the routes define them."""

from cdlm.server.openai.fields.row import (
    CHATS,
    COMPLETIONS,
    DETOKENIZE,
    LLAMA,
    OPENAI,
    PEERS,
    RESPONSES,
    ROUTES,
    SGLANG,
    TOKENIZE,
    VLLM,
    honoured,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_BOTH = (COMPLETIONS, CHATS)

HONOURED = (
    *honoured(ROUTES, PEERS, "model"),
    *honoured(_ANSWERS, PEERS, "stream", "stop", "stream_options"),
    *honoured(_ANSWERS, (OPENAI, VLLM, SGLANG), "user"),
    *honoured(_ANSWERS, (VLLM, SGLANG, LLAMA), "ignore_eos"),
    *honoured(_ANSWERS, (VLLM, SGLANG), "stop_token_ids", "return_token_ids"),
    *honoured(_ANSWERS, (VLLM, SGLANG), "skip_special_tokens", "cache_salt", "priority"),
    *honoured(_ANSWERS, (VLLM,), "include_stop_str_in_output"),
    *honoured(_ANSWERS, (), "diffusing", "stream_granularity"),
    *honoured(_BOTH, (VLLM,), "return_tokens_as_token_ids"),
    *honoured(_BOTH, PEERS, "n", "max_tokens", "logprobs"),
    *honoured(_BOTH, (OPENAI, VLLM, SGLANG, LLAMA), "reasoning_effort", "response_format"),
    *honoured(_BOTH, (VLLM,), "structured_outputs"),
    *honoured(_BOTH, (SGLANG,), "regex", "ebnf"),
    *honoured(_BOTH, (SGLANG, LLAMA), "json_schema"),
    *honoured(_BOTH, (LLAMA,), "grammar"),
    *honoured((COMPLETIONS,), PEERS, "prompt", "echo"),
    *honoured((COMPLETIONS,), (OPENAI, VLLM, SGLANG), "suffix"),
    *honoured((COMPLETIONS,), (OPENAI, SGLANG), "best_of"),
    *honoured((CHATS,), PEERS, "messages", "max_completion_tokens", "tools", "tool_choice"),
    *honoured((CHATS,), PEERS, "parallel_tool_calls"),
    *honoured((CHATS, RESPONSES), PEERS, "top_logprobs"),
    *honoured((RESPONSES,), PEERS, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "reasoning"),
    *honoured((RESPONSES,), PEERS, "parallel_tool_calls"),
    *honoured((RESPONSES,), (OPENAI, VLLM, SGLANG), "text"),
    *honoured((RESPONSES,), (OPENAI, VLLM, SGLANG), "include", "metadata", "max_tool_calls"),
    *honoured((CHATS,), (VLLM, SGLANG, LLAMA), "continue_final_message", "chat_template_kwargs"),
    *honoured((RESPONSES,), (VLLM, SGLANG, LLAMA), "chat_template_kwargs"),
    *honoured((CHATS,), (VLLM, LLAMA), "add_generation_prompt"),
    *honoured((CHATS, TOKENIZE), (VLLM,), "chat_template"),
    *honoured(_BOTH, (VLLM,), "add_special_tokens"),
    *honoured(
        (TOKENIZE,), (VLLM, SGLANG), "prompt", "messages", "tools", "add_special_tokens", "continue_final_message"
    ),
    *honoured((TOKENIZE,), (VLLM, SGLANG), "chat_template_kwargs"),
    *honoured((TOKENIZE,), (VLLM,), "add_generation_prompt", "return_token_strs"),
    *honoured((TOKENIZE,), (SGLANG,), "tool_choice"),
    *honoured((TOKENIZE,), (), "suffix"),
    *honoured((DETOKENIZE,), (VLLM, SGLANG, LLAMA), "tokens"),
)
