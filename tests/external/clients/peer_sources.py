"""The fields of requests to other servers, read from the sources that their package registry has."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cdlm.server.openai.fields.row import CHATS, COMPLETIONS, DETOKENIZE, RESPONSES, TOKENIZE
from tests.external.clients.environments import CACHE

VERSIONS = {"vllm": "0.33.0", "sglang": "0.5.10.post1", "llama-cpp-python": "0.3.36"}

Fields = dict[str, set[str]]


def source_of(name: str) -> Path:
    """The unpacked source distribution of a package; nothing of it is built or run."""
    folder = CACHE / "sources" / f"{name}-{VERSIONS[name]}"
    if not folder.is_dir():
        work = folder.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        # pip wants to build what it has unpacked, which fails without a compiler and is not needed here.
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--no-clean", "--no-deps", "--no-build-isolation",
                "--no-binary", ":all:", "--dest", str(work), f"{name}=={VERSIONS[name]}",
            ],
            env={**os.environ, "TMPDIR": str(work)}, capture_output=True, timeout=900, check=False,
        )  # fmt: skip
        (found,) = work.glob(f"pip-download-*/{name}_*")
        found.rename(folder)
        shutil.rmtree(work)
    return folder


def _classes(file: Path) -> dict[str, set[str]]:
    """The annotated names of each class."""
    return {
        node.name: {
            line.target.id
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            if not line.target.id.startswith("_") and "ClassVar" not in ast.unparse(line.annotation)
        }
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }


def vllm_fields() -> Fields:
    """The fields that vLLM's requests have, by route."""
    entrypoints = source_of("vllm") / "vllm" / "entrypoints"
    tokenize = _classes(entrypoints / "serve" / "tokenize" / "protocol.py")
    return {
        COMPLETIONS: _classes(entrypoints / "openai" / "completion" / "protocol.py")["CompletionRequest"],
        CHATS: _classes(entrypoints / "openai" / "chat_completion" / "protocol.py")["ChatCompletionRequest"],
        RESPONSES: _classes(entrypoints / "openai" / "responses" / "protocol.py")["ResponsesRequest"],
        TOKENIZE: tokenize["TokenizeCompletionRequest"] | tokenize["TokenizeChatRequest"],
        DETOKENIZE: tokenize["DetokenizeRequest"],
    }


def sglang_fields() -> Fields:
    """The fields that SGLang's requests have, by route."""
    classes = _classes(source_of("sglang") / "sglang" / "srt" / "entrypoints" / "openai" / "protocol.py")
    return {
        COMPLETIONS: classes["CompletionRequest"],
        CHATS: classes["ChatCompletionRequest"],
        RESPONSES: classes["ResponsesRequest"],
        TOKENIZE: classes["TokenizeRequest"],
        DETOKENIZE: classes["DetokenizeRequest"],
    }


def llama_fields() -> Fields:
    """The fields that llama.cpp's server reads, by route; every one of a completion also goes with the others."""
    server = source_of("llama-cpp-python") / "vendor" / "llama.cpp" / "tools" / "server"
    schema = re.sub(r"#if 0.*?#endif|//[^\n]*", "", (server / "server-schema.cpp").read_text(), flags=re.S)
    schema = schema[: schema.index("eval_llama_cmpl_schema")]
    both = set(re.findall(r'add\(\(new field_\w+\("(\w+)"', schema)) | set(re.findall(r'add_alias\("(\w+)"', schema))
    common = (server / "server-common.cpp").read_text()
    both |= set(_read(common, "oaicompat_completion_params_parse", "body")) - {"prompt"}
    chats = set(_read(common, "oaicompat_chat_params_parse", "body"))
    context = (server / "server-context.cpp").read_text()
    both |= set(_read(context, "handle_completions_impl", "data")) - {"prompt"}
    responses = set(
        _read((server / "server-chat.cpp").read_text(), "server_chat_convert_responses_to_chatcmpl", "response_body")
    )
    both.add("model")  # Read where several models are served.
    return {COMPLETIONS: both | {"prompt"}, CHATS: both | chats, RESPONSES: both | (chats - {"messages"}) | responses}


def _read(code: str, function: str, name: str) -> Iterator[str]:
    """The fields of the JSON value ``name`` that a function reads."""
    start = code.index(f"{function}(")
    body = code[start : code.index("\n}\n", start)]
    yield from re.findall(rf'(?:json_value\({name}, |{name}\.(?:at|contains|erase)\(|{name}\[)"(\w+)"', body)
