"""Model name -> example of a body, response or chunk."""

from typing import Any

import cdlm

_MODEL = "cdlm-nano"
_PRINT = "fp_3f0c2a9d41be"
_TEXT = "Tom has 14 + 36 - 8 = 42 apples."
_WORK = {"denoise_steps": 14, "forward_passes": 15, "tokens_per_forward": 0.8}
_USAGE = {
    "prompt_tokens": 31,
    "completion_tokens": 12,
    "total_tokens": 43,
    **_WORK,
    "prompt_tokens_details": {"cached_tokens": 0},
}
_COMPLETION = {
    "id": "cmpl-5d1f",
    "object": "text_completion",
    "created": 1767225600,
    "model": _MODEL,
    "system_fingerprint": _PRINT,
}
_CHAT = {"id": "chatcmpl-8a2c", "created": 1767225600, "model": _MODEL, "system_fingerprint": _PRINT}
_CARD = {
    "id": _MODEL,
    "object": "model",
    "created": 1767225600,
    "owned_by": "cdlm-serve",
    "root": _MODEL,
    "parent": None,
    "max_model_len": 2048,
    "block_length": 32,
}
_PLACE = {"item_id": "msg_41", "output_index": 0, "content_index": 0}
_RESPONSE = {
    "id": "resp_7b",
    "object": "response",
    "created_at": 1767225600,
    "completed_at": 1767225601,
    "model": _MODEL,
    "system_fingerprint": _PRINT,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "output": [
        {
            "id": "msg_41",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": _TEXT, "annotations": [], "logprobs": []}],
        }
    ],
    "usage": {
        "input_tokens": 31,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 43,
        **_WORK,
    },
    "background": False,
    "conversation": None,
    "instructions": "Answer in one line.",
    "max_output_tokens": 96,
    "max_tool_calls": None,
    "metadata": {"lesson": "7"},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": "low", "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 0.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_INFILL_USAGE = _USAGE | {"reasoning_tokens": 0, "cached_input_tokens": 0}
_EDIT = (
    "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n\n"
    "<|current_file_content|>\ncurrent_file_path: add.py\n<|code_to_edit|>\ndef add(a, b):\n    return a<|cursor|>\n"
    "<|/code_to_edit|>\n<|/current_file_content|>\n\n<|edit_diff_history|>\n<|/edit_diff_history|>"
)
_MESSAGE = {
    "id": "msg_5c",
    "type": "message",
    "role": "assistant",
    "model": _MODEL,
    "content": [{"type": "text", "text": _TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 31, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 12
    },
}  # fmt: skip
_QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples and gives away 8. How many apples does Tom have now?"
_QUESTIONS = [
    {"type": "predicate", "name": "late", "instructions": "The parcel was late."},
    {
        "type": "choice",
        "name": "team",
        "instructions": "Which team answers?",
        "choices": [{"value": "delivery", "description": "parcels"}, {"value": "billing"}],
    },
    {"type": "score", "instructions": "How upset is the customer?", "levels": [{"label": "calm"}, {"label": "angry"}]},
]
_CHOICE = {"index": 0, "text": _TEXT, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
_FILLED = _CHOICE | {"text": "a + b"}

EXAMPLES: dict[str, Any] = {
    "CompletionRequest": {"prompt": _QUESTION, "max_tokens": 96, "stop": ["\n\n"], "seed": 7},
    "FimRequest": {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(2, 3))", "max_tokens": 64},
    "EditRequest": {"messages": [{"role": "user", "content": _EDIT}], "max_tokens": 64},
    "ChatRequest": {
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_completion_tokens": 96,
        "reasoning_effort": "low",
    },
    "ResponsesRequest": {
        "instructions": "Answer in one line.",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": _QUESTION}]}],
        "max_output_tokens": 96,
        "reasoning": {"effort": "low"},
        "metadata": {"lesson": "7"},
    },
    "DecisionsRequest": {
        "input": "The parcel came late, and the box was open.",
        "questions": _QUESTIONS,
    },
    "MessagesRequest": {
        "system": "Answer in one line.",
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_tokens": 96,
        "stop_sequences": ["\n\n"],
    },
    "CountTokensRequest": {"messages": [{"role": "user", "content": _QUESTION}]},
    "TokenizeRequest": {"prompt": "three apples"},
    "DetokenizeRequest": {"tokens": [312, 718]},
    "Completion": _COMPLETION | {"choices": [_CHOICE], "usage": _USAGE},
    "CompletionChunk": _COMPLETION | {"choices": [_CHOICE]},
    "FimCompletion": _COMPLETION | {"choices": [_FILLED], "usage": _INFILL_USAGE},
    "FimChunk": _COMPLETION | {"choices": [_FILLED]},
    "EditCompletion": _COMPLETION
    | {
        "object": "edit.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "```\ndef add(a, b):\n    return a + b\n\n```"},
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": _INFILL_USAGE,
    },
    "ChatCompletion": _CHAT
    | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": _USAGE,
    },
    "ChatCompletionChunk": _CHAT
    | {
        "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "delta": {"content": _TEXT}, "logprobs": None, "finish_reason": None, "stop_reason": None}
        ],
    },
    "ResponseAnswer": _RESPONSE,
    "ResponseEvent": {"type": "response.output_text.delta", "sequence_number": 4}
    | _PLACE
    | {"delta": _TEXT, "logprobs": []},
    "Decision": {
        "model": _MODEL,
        "answers": [
            {"type": "predicate", "name": "late", "probability": 0.97},
            {
                "type": "choice",
                "name": "team",
                "choice": "delivery",
                "confidence": 0.81,
                "probabilities": [
                    {"value": "delivery", "probability": 0.93},
                    {"value": "billing", "probability": 0.07},
                ],
            },
            {
                "type": "score",
                "name": None,
                "score": 0.75,
                "confidence": 0.7,
                "probabilities": [
                    {"value": 0, "label": "calm", "probability": 0.25},
                    {"value": 1, "label": "angry", "probability": 0.75},
                ],
            },
        ],
        "usage": {
            "input_tokens": 171,
            "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 171,
        },
    },
    "MessageAnswer": _MESSAGE,
    "MessageEvent": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": _TEXT}},
    "TokenCount": {"input_tokens": 31},
    "MessagesError": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "temperature: Input should be less than or equal to 2"},
    },
    "ModelCard": _CARD,
    "ModelList": {"object": "list", "data": [_CARD]},
    "Tokenized": {"count": 2, "max_model_len": 2048, "tokens": [312, 718]},
    "Detokenized": {"prompt": "three apples"},
    "State": {"status": "ready"},
    "Version": {"version": cdlm.__version__},
    "Error": {
        "error": {
            "message": "temperature: Input should be less than or equal to 2",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": None,
        }
    },
}
