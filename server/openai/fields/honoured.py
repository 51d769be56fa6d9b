"""Fields that have their effect; the bodies of the routes define them."""

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
    Row,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_BOTH = (COMPLETIONS, CHATS)


def _yes(places: tuple[str, ...], peers: tuple[str, ...], *names: str) -> tuple[Row, ...]:
    return tuple(Row(name, "honoured", places, peers) for name in names)


HONOURED = (
    *_yes(ROUTES, PEERS, "model"),
    *_yes(_ANSWERS, PEERS, "stream", "temperature", "top_p", "seed", "stop", "stream_options"),
    *_yes(_ANSWERS, PEERS, "presence_penalty", "frequency_penalty", "logit_bias"),
    *_yes(_ANSWERS, (OPENAI, VLLM, SGLANG), "user"),
    *_yes(_ANSWERS, (VLLM, SGLANG, LLAMA), "top_k", "min_p", "ignore_eos"),
    *_yes(_ANSWERS, (VLLM, SGLANG), "repetition_penalty", "min_tokens", "stop_token_ids", "return_token_ids"),
    *_yes(_ANSWERS, (VLLM, SGLANG), "skip_special_tokens", "cache_salt", "priority"),
    *_yes(_ANSWERS, (VLLM,), "include_stop_str_in_output"),
    *_yes(_BOTH, (VLLM,), "return_tokens_as_token_ids"),
    *_yes(_ANSWERS, (), "decoding", "confidence_threshold", "decoding_factor", "entropy_bound", "steps_per_block"),
    *_yes(_ANSWERS, (), "max_steps_per_block", "guidance_scale", "diffusing", "stream_granularity"),
    *_yes(_BOTH, PEERS, "n", "max_tokens", "logprobs"),
    *_yes(_BOTH, (OPENAI, VLLM, SGLANG, LLAMA), "reasoning_effort", "response_format"),
    *_yes(_BOTH, (VLLM,), "structured_outputs"),
    *_yes(_BOTH, (SGLANG,), "regex", "ebnf"),
    *_yes(_BOTH, (SGLANG, LLAMA), "json_schema"),
    *_yes(_BOTH, (LLAMA,), "grammar"),
    *_yes((COMPLETIONS,), PEERS, "prompt", "echo"),
    *_yes((COMPLETIONS,), (OPENAI, VLLM, SGLANG), "suffix"),
    *_yes((COMPLETIONS,), (OPENAI, SGLANG), "best_of"),
    *_yes((CHATS,), PEERS, "messages", "max_completion_tokens", "tools", "tool_choice"),
    *_yes((CHATS,), PEERS, "parallel_tool_calls"),
    *_yes((CHATS, RESPONSES), PEERS, "top_logprobs"),
    *_yes((RESPONSES,), PEERS, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "reasoning"),
    *_yes((RESPONSES,), PEERS, "parallel_tool_calls"),
    *_yes((RESPONSES,), (OPENAI, VLLM, SGLANG), "text"),
    *_yes((RESPONSES,), (OPENAI, VLLM, SGLANG), "include", "metadata", "max_tool_calls"),
    *_yes((CHATS,), (VLLM, SGLANG, LLAMA), "continue_final_message", "chat_template_kwargs"),
    *_yes((RESPONSES,), (VLLM, SGLANG, LLAMA), "chat_template_kwargs"),
    *_yes((CHATS,), (VLLM, LLAMA), "add_generation_prompt"),
    *_yes((CHATS, TOKENIZE), (VLLM,), "chat_template"),
    *_yes(_BOTH, (VLLM,), "add_special_tokens"),
    *_yes((TOKENIZE,), (VLLM, SGLANG), "prompt", "messages", "tools", "add_special_tokens", "continue_final_message"),
    *_yes((TOKENIZE,), (VLLM, SGLANG), "chat_template_kwargs"),
    *_yes((TOKENIZE,), (VLLM,), "add_generation_prompt", "return_token_strs"),
    *_yes((TOKENIZE,), (SGLANG,), "tool_choice"),
    *_yes((TOKENIZE,), (), "suffix"),
    *_yes((DETOKENIZE,), (VLLM, SGLANG, LLAMA), "tokens"),
)
