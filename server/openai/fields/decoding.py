"""Decoding parameters: supported ones, and refused ones of other servers."""

from cdlm.server.openai.fields.row import (
    CHATS,
    COMPLETIONS,
    LLAMA,
    PEERS,
    RESPONSES,
    SGLANG,
    VLLM,
    honored,
    refused,
)

_ANSWERS = (COMPLETIONS, CHATS, RESPONSES)
_BOTH = (COMPLETIONS, CHATS)
_SAMPLERS = "use temperature, top_k, top_p and min_p"

DECODING = (
    *honored(_ANSWERS, PEERS, "temperature", "top_p", "seed"),
    *honored(_ANSWERS, PEERS, "presence_penalty", "frequency_penalty", "logit_bias"),
    *honored(_ANSWERS, (VLLM, SGLANG, LLAMA), "top_k", "min_p"),
    *honored(_ANSWERS, (VLLM, SGLANG), "repetition_penalty", "min_tokens"),
    *honored(_ANSWERS, (VLLM,), "allowed_token_ids", "bad_words"),
    *honored(_ANSWERS, (), "decoding", "confidence_threshold", "decoding_factor", "entropy_bound", "steps_per_block"),
    *honored(_ANSWERS, (), "max_steps_per_block", "edit_threshold", "guidance_scale"),
    refused("repeat_penalty", _ANSWERS, LLAMA, "use repetition_penalty, which looks at the whole prompt and answer", 1),
    refused("repeat_last_n", _ANSWERS, LLAMA, "penalties look at the whole answer", -1),
    refused("typical_p", _ANSWERS, LLAMA, _SAMPLERS, 1),
    refused("top_n_sigma", _ANSWERS, LLAMA, _SAMPLERS, -1),
    refused("tfs_z", _ANSWERS, (), _SAMPLERS, 1),
    refused("top_a", _ANSWERS, (), _SAMPLERS, 0),
    refused("xtc_probability", _ANSWERS, LLAMA, _SAMPLERS, 0),
    refused("mirostat", _ANSWERS, LLAMA, _SAMPLERS, 0),
    refused("adaptive_target", _ANSWERS, LLAMA, _SAMPLERS, -1),
    refused("dynatemp_range", _ANSWERS, LLAMA, "use temperature", 0),
    refused("dry_multiplier", _ANSWERS, LLAMA, "use repetition_penalty or frequency_penalty", 0),
    refused("min_keep", _ANSWERS, LLAMA, _SAMPLERS, 0, 1),
    refused("samplers", _ANSWERS, LLAMA, "the order of samplers is fixed"),
    refused("backend_sampling", _ANSWERS, LLAMA),
    refused("do_sample", _ANSWERS, (), "use temperature; 0, which is the default, decodes greedily"),
    refused("use_beam_search", _BOTH, VLLM, "use best_of or n"),
    refused("length_penalty", _BOTH, VLLM, "there is no beam search", 1),
    refused("early_stopping", _BOTH, (), "there is no beam search"),
    refused("watermarking", _ANSWERS, VLLM),
    refused("repetition_detection", _BOTH, VLLM, "use repetition_penalty or frequency_penalty"),
    refused("logits_processors", _ANSWERS, (), "requests bring no code; use logit_bias"),
    refused("custom_logit_processor", _BOTH, SGLANG, "requests bring no code; use logit_bias"),
    refused("custom_params", _BOTH, SGLANG, "requests bring no code"),
    refused("vllm_xargs", _ANSWERS, VLLM),
    refused("trust_remote_code", _ANSWERS, (), "code of checkpoints is never run"),
)
