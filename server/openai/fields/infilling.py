"""Fields of infilling and edits, by the names of Inception's API."""

from cdlm.server.openai.fields.row import EDIT, EDIT_MESSAGE, FIM, INCEPTION, honored, refused

_BOTH = (FIM, EDIT)
_COMPLETIONS = "/v1/completions has it"
_ONE = "one answer is written"
_WHOLE = "the rewritten code comes whole, as in Inception's API"

INFILLING = (
    honored(_BOTH, (INCEPTION,), "model", "max_tokens", "temperature", "top_p", "presence_penalty"),
    honored((FIM,), (INCEPTION,), "prompt", "suffix", "top_k", "frequency_penalty", "repetition_penalty"),
    honored((FIM,), (INCEPTION,), "stop", "stream", "stream_options"),
    honored((EDIT,), (INCEPTION,), "messages"),
    honored((EDIT,), (), "top_k", "frequency_penalty", "repetition_penalty", "stop"),
    honored(_BOTH, (), "seed", "min_p", "logit_bias", "min_tokens", "allowed_token_ids", "bad_words"),
    honored(_BOTH, (), "decoding", "confidence_threshold", "decoding_factor", "entropy_bound"),
    honored(_BOTH, (), "steps_per_block", "max_steps_per_block", "edit_threshold", "guidance_scale"),
    honored(_BOTH, (), "stop_token_ids", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output"),
    honored(_BOTH, (), "priority", "cache_salt", "return_token_ids", "user"),
    honored((FIM,), (), "diffusing", "stream_granularity"),
    refused("n", _BOTH, (), _ONE, 1),
    refused("best_of", _BOTH, (), _COMPLETIONS, 1),
    refused("echo", _BOTH, (), "only the text in the middle is returned"),
    refused("logprobs", _BOTH, (), _COMPLETIONS),
    refused("max_completion_tokens", _BOTH, (), "use max_tokens"),
    refused("tools", _BOTH, (), "/v1/chat/completions has it"),
    refused("response_format", _BOTH, (), "the answer is code that fits its place", {"type": "text"}),
    refused("messages", (FIM,), (), "use prompt and suffix, or /v1/edit/completions"),
    refused("prompt", (EDIT,), (), "use messages"),
    refused("suffix", (EDIT,), (), "use messages; the text after the code is a part of them"),
    refused(("stream", "stream_options", "diffusing"), (EDIT,), (), _WHOLE),
    refused("stream_granularity", (EDIT,), (), _WHOLE, "block"),
    refused("name", (EDIT_MESSAGE,), (), "put it into content"),
)
