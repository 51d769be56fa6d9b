"""Default chat templates (Jinja) of formats, and templates from a file."""

from collections.abc import Iterable
from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import CheckpointError

# Qwen's form, which these models were tuned with.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Llama 3's form with LLaDA's beginning of text.
HEADERS = (
    "{{ '<|startoftext|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# model_type -> the template, and the special tokens that it needs.
DEFAULTS = {
    "Dream": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "Fast_dLLM_Qwen": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "sdar": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "sdar_moe": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "llada": (HEADERS, ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}


def default_template(model_type: object, special_tokens: Iterable[str]) -> str | None:
    """The default template of a format; ``None`` if there is none or the tokenizer lacks its special tokens."""
    template, needed = DEFAULTS.get(str(model_type), (None, ()))
    return template if set(needed) <= set(special_tokens) else None


def use_template(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Sets the tokenizer's chat template to the content of a file; like every template, it runs in a sandbox.

    Raises:
        CheckpointError: the file cannot be read, is not a Jinja template, or fails on one user message.
    """
    try:
        tokenizer.chat_template = path.read_text("utf-8")
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"chat template {path}: cannot be read: {error}") from error
    except TemplateSyntaxError as error:
        raise CheckpointError(f"chat template {path}: line {error.lineno}: {error.message}") from error
    except TemplateError as error:
        raise CheckpointError(f"chat template {path}: refuses one message of a user: {error}") from error
    except Exception as error:  # A template is a program and may raise anything.
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"chat template {path}: fails on one message of a user: {reason}") from error
