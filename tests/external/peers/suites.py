"""Test suites of other servers that are pointed at this one, and which parts of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A suite in a source archive of PyPI.

    Attributes:
        name: of the list of expected failures, and of the standin's module.
        package: the archive, whose version ``tests/external/clients/peer_sources.py`` names.
        root: the folder in the archive that it is run from.
        files: those that talk to a server over HTTP about what every server of the kind does.
        plugin: the standin for its launcher.
        confcutdir: the outermost folder whose ``conftest.py`` is loaded; further out they need the whole package.
    """

    name: str
    package: str
    root: str
    files: tuple[str, ...]
    plugin: str
    confcutdir: str = "."


VLLM = Suite(
    name="vllm",
    package="vllm",
    root=".",
    files=tuple(
        f"tests/entrypoints/{name}"
        for name in (
            "anthropic/test_messages.py",
            "openai/chat_completion/test_batched_chat_completions.py",
            "openai/chat_completion/test_chat.py",
            "openai/chat_completion/test_chat_completion.py",
            "openai/chat_completion/test_chat_echo.py",
            "openai/chat_completion/test_chat_logit_bias_validation.py",
            "openai/chat_completion/test_completion_with_function_calling.py",
            "openai/chat_completion/test_enable_force_include_usage.py",
            "openai/chat_completion/test_extra_content_fields.py",
            "openai/chat_completion/test_include_reasoning.py",
            "openai/chat_completion/test_logprob_token_ids.py",
            "openai/chat_completion/test_root_path.py",
            "openai/completion/test_completion.py",
            "openai/completion/test_prompt_validation.py",
            "openai/completion/test_token_in_token_out.py",
            "openai/decisions/test_decisions_e2e.py",
            "openai/models/test_models.py",
            "openai/responses/test_basic.py",
            "openai/responses/test_function_call.py",
            "openai/responses/test_simple.py",
            "openai/responses/test_stateful.py",
            "openai/responses/test_structured_output.py",
            "openai/test_chunked_prompt.py",
            "openai/test_return_token_ids.py",
            "openai/test_return_tokens_as_ids.py",
            "openai/test_stop_token_ids.py",
            "serve/instrumentator/test_basic.py",
            "serve/middleware/test_optional_middleware.py",
            "serve/tokenize/test_tokenization.py",
        )
    ),
    plugin="vllm_launcher",
    confcutdir="tests/entrypoints",
)

LLAMA_CPP = Suite(
    name="llama.cpp",
    package="llama-cpp-python",
    root="vendor/llama.cpp/tools/server/tests",
    files=tuple(
        f"unit/test_{name}.py"
        for name in (
            "basic",
            "chat_completion",
            "compat_anthropic",
            "compat_oai_responses",
            "completion",
            "ignore_eos",
            "infill",
            "metrics",
            "security",
            "stream",
            "template",
            "tokenize",
            "tool_call",
        )
    ),
    plugin="llama_launcher",
)

SUITES = {suite.name: suite for suite in (VLLM, LLAMA_CPP)}
