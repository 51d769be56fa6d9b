"""Fields of Anthropic's API, on the routes of messages."""

from cdlm.server.openai.fields.row import (
    ANTHROPIC,
    COUNT_TOKENS,
    MESSAGES,
    MESSAGES_CHOICE,
    MESSAGES_TOOL,
    RESULT_BLOCK,
    TEXT_BLOCK,
    THOUGHT_BLOCK,
    USE_BLOCK,
    harmless,
    honored,
    refused,
)

_BOTH = (MESSAGES, COUNT_TOKENS)
_CACHED = (*_BOTH, TEXT_BLOCK, USE_BLOCK, RESULT_BLOCK, MESSAGES_TOOL)
_CALLS = (USE_BLOCK, RESULT_BLOCK)
_CHATS = "/v1/chat/completions has it"
_EARLIER = "it comes with blocks of an earlier answer"
_THOUGHT = "the model does not see what was thought for earlier answers"
_NO_THINKING = "what a model thinks is not told apart from its answer; use output_config.effort"

ANTHROPICS = (
    honored(_BOTH, (ANTHROPIC,), "model", "messages", "system", "tools", "tool_choice"),
    honored((MESSAGES,), (ANTHROPIC,), "max_tokens", "stop_sequences", "stream", "metadata", "output_config"),
    honored((MESSAGES,), (ANTHROPIC,), "temperature", "top_p", "top_k"),
    honored((MESSAGES,), (), "seed", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    honored((MESSAGES,), (), "logit_bias", "min_tokens", "allowed_token_ids", "bad_words"),
    honored((MESSAGES,), (), "decoding", "confidence_threshold", "decoding_factor", "entropy_bound"),
    honored((MESSAGES,), (), "steps_per_block", "max_steps_per_block", "edit_threshold", "guidance_scale"),
    harmless("cache_control", _CACHED, ANTHROPIC, "prompts that begin alike share what is cached by themselves"),
    harmless("service_tier", (MESSAGES,), ANTHROPIC, "all requests are served alike"),
    harmless("user_profile_id", _BOTH, ANTHROPIC, "nothing is reported about users"),
    harmless("output_config", (COUNT_TOKENS,), ANTHROPIC, "it changes no prompt"),
    harmless("citations", (TEXT_BLOCK,), ANTHROPIC, _EARLIER),
    harmless(("caller", "toolset_name"), _CALLS, ANTHROPIC, _EARLIER),
    harmless(("thinking", "signature", "data"), (THOUGHT_BLOCK,), ANTHROPIC, _THOUGHT),
    harmless("eager_input_streaming", (MESSAGES_TOOL,), ANTHROPIC, "arguments are streamed as they come"),
    refused("thinking", _BOTH, ANTHROPIC, _NO_THINKING, {"type": "disabled"}),
    refused("container", (MESSAGES,), ANTHROPIC, "no code is run"),
    refused("mcp_servers", _BOTH, ANTHROPIC, "the client runs tools; use tools"),
    refused("context_management", _BOTH, ANTHROPIC, "send the messages that the model shall see"),
    refused("inference_geo", (MESSAGES,), ANTHROPIC, "a server is in one place"),
    refused("diagnostics", (MESSAGES,), ANTHROPIC, "usage has cache_read_input_tokens"),
    refused("speed", _BOTH, ANTHROPIC, "use output_config.effort", "standard"),
    refused("output_format", _BOTH, ANTHROPIC, "use output_config.format"),
    refused("defer_loading", (MESSAGES_TOOL,), ANTHROPIC, "the model hears of all tools"),
    refused("allowed_callers", (MESSAGES_TOOL,), ANTHROPIC, "the model itself calls, no program", ["direct"]),
    refused("input_examples", (MESSAGES_TOOL,), ANTHROPIC, "put them into the description"),
    refused("parameters", (MESSAGES_TOOL,), (), "use input_schema"),
    refused("function", (MESSAGES_TOOL,), (), "put what is in it beside type, as name, description and input_schema"),
    refused("function", (MESSAGES_CHOICE,), (), "use name"),
    # Fields of the other routes
    refused("stop", (MESSAGES,), (), "use stop_sequences"),
    refused(("max_completion_tokens", "max_output_tokens"), (MESSAGES,), (), "use max_tokens"),
    refused("n", (MESSAGES,), (), "a message is one answer", 1),
    refused("response_format", (MESSAGES,), (), "use output_config.format", {"type": "text"}),
    refused(("structured_outputs", "logprobs", "stop_token_ids", "ignore_eos"), (MESSAGES,), (), _CHATS),
    refused(("return_token_ids", "return_step_map", "diffusing", "stream_granularity"), (MESSAGES,), (), _CHATS),
    refused(("cache_salt", "priority"), (MESSAGES,), (), _CHATS),
    refused("reasoning_effort", (MESSAGES,), (), "use output_config.effort"),
    refused("parallel_tool_calls", (MESSAGES,), (), "use tool_choice.disable_parallel_tool_use", True),
    refused("stream_options", (MESSAGES,), (), "streams always have usage"),
    refused("user", (MESSAGES,), (), "use metadata.user_id"),
)
