"""Supported fields; the bodies of the routes define them."""

from cdlm.server.openai.fields.row import (
    CHATS,
    COMPLETIONS,
    DETOKENIZE,
    LLAMA,
    OPENAI,
    PEERS,
    RESPONSES,
    SGLANG,
    TOKENIZE,
    VLLM,
    honored,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_BOTH = (COMPLETIONS, CHATS)

HONORED = (
    *honored((*_ANSWERS, TOKENIZE, DETOKENIZE), PEERS, "model"),
    *honored(_ANSWERS, PEERS, "stream", "stop", "stream_options"),
    *honored(_ANSWERS, (OPENAI, VLLM, SGLANG), "user"),
    *honored(_ANSWERS, (VLLM, SGLANG, LLAMA), "ignore_eos"),
    *honored(_ANSWERS, (VLLM, SGLANG), "stop_token_ids", "return_token_ids"),
    *honored(_ANSWERS, (VLLM, SGLANG), "skip_special_tokens", "cache_salt", "priority"),
    *honored(_ANSWERS, (VLLM,), "include_stop_str_in_output"),
    *honored(_ANSWERS, (), "diffusing", "stream_granularity"),
    *honored(_BOTH, (VLLM,), "return_tokens_as_token_ids"),
    *honored(_BOTH, (), "return_step_map", "vote"),
    *honored(_BOTH, PEERS, "n", "max_tokens", "logprobs"),
    *honored(_BOTH, (OPENAI, VLLM, SGLANG, LLAMA), "reasoning_effort", "response_format"),
    *honored(_BOTH, (VLLM,), "structured_outputs"),
    *honored(_BOTH, (SGLANG,), "regex", "ebnf"),
    *honored(_BOTH, (SGLANG, LLAMA), "json_schema"),
    *honored(_BOTH, (LLAMA,), "grammar"),
    *honored((COMPLETIONS,), PEERS, "prompt", "echo"),
    *honored((COMPLETIONS,), (OPENAI, VLLM, SGLANG), "suffix"),
    *honored((COMPLETIONS,), (OPENAI, SGLANG), "best_of"),
    *honored((CHATS,), PEERS, "messages", "max_completion_tokens", "tools", "tool_choice"),
    *honored((CHATS,), PEERS, "parallel_tool_calls"),
    *honored((CHATS, RESPONSES), PEERS, "top_logprobs"),
    *honored((RESPONSES,), PEERS, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "reasoning"),
    *honored((RESPONSES,), PEERS, "parallel_tool_calls"),
    *honored((RESPONSES,), (OPENAI, VLLM, SGLANG), "text"),
    *honored((RESPONSES,), (OPENAI, VLLM, SGLANG), "include", "metadata", "max_tool_calls"),
    *honored((CHATS,), (VLLM, SGLANG, LLAMA), "continue_final_message", "chat_template_kwargs"),
    *honored((RESPONSES,), (VLLM, SGLANG, LLAMA), "chat_template_kwargs"),
    *honored((CHATS,), (VLLM, LLAMA), "add_generation_prompt"),
    *honored((CHATS, TOKENIZE), (VLLM,), "chat_template"),
    *honored(_BOTH, (VLLM,), "add_special_tokens"),
    *honored(
        (TOKENIZE,), (VLLM, SGLANG), "prompt", "messages", "tools", "add_special_tokens", "continue_final_message"
    ),
    *honored((TOKENIZE,), (VLLM, SGLANG), "chat_template_kwargs"),
    *honored((TOKENIZE,), (VLLM,), "add_generation_prompt", "return_token_strs"),
    *honored((TOKENIZE,), (SGLANG,), "tool_choice"),
    *honored((TOKENIZE,), (), "suffix"),
    *honored((DETOKENIZE,), (VLLM, SGLANG, LLAMA), "tokens"),
)
