"""A pytest plugin for vLLM's own suite: its launcher starts this server, and its package is a stand-in.

Runs in the environment of the suite, not in this project's. ``PEER_SERVER`` is the command line that serves,
``PEER_TOKENIZER`` the directory whose tokenizer the served model has.
"""

import importlib.abc
import importlib.machinery
import inspect
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import types
from typing import Any
from unittest.mock import MagicMock

import openai
import pytest
import requests
from transformers import AutoTokenizer  # Before torch has a stand-in, which it would take for the real one.

# Flags of ``vllm serve`` that mean the same here, and whether they take a value.
_SHARED = {"--api-key": True, "--served-model-name": True, "--chat-template": True,
           "--root-path": True,
           "--trust-request-chat-template": False}  # fmt: skip
# Parts of the names of fixtures that lead to a server; tests without any are about vLLM's own classes.
_SERVED = ("server", "client")


class RemoteOpenAIServer:
    """Serves the bundled model under the name that the suite asks for; flags that are not shared are dropped."""

    DUMMY_API_KEY = "token-abc123"

    def __init__(self, model: str, vllm_serve_args: Any = (), **options: Any) -> None:
        self.host, self.port = "127.0.0.1", _free_port()
        given = shlex.split(vllm_serve_args) if isinstance(vllm_serve_args, str) else [str(a) for a in vllm_serve_args]
        own = _shared(given)
        if "--served-model-name" not in own:
            own += ["--served-model-name", model]
        command = [*shlex.split(os.environ["PEER_SERVER"]), "--host", self.host, "--port", str(self.port), *own]
        variables = {**os.environ, **(options.get("env_dict") or {})}
        if "VLLM_API_KEY" in variables:
            variables["CDLM_API_KEY"] = variables["VLLM_API_KEY"]
        self.proc = subprocess.Popen(command, env=variables, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(self.url_for("readyz"), timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            if self.proc.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)

    def __enter__(self) -> "RemoteOpenAIServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.proc.terminate()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)

    @property
    def url_root(self) -> str:
        return f"http://{self.host}:{self.port}"

    def url_for(self, *parts: str) -> str:
        return f"{self.url_root}/{'/'.join(part.strip('/') for part in parts if part)}"

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": self.url_for("v1"), "api_key": self.DUMMY_API_KEY, "max_retries": 0, "timeout": 120} | given

    def get_client(self, **given: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._options(given))

    def get_async_client(self, **given: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options(given))

    def get_client_anthropic(self, **given: Any) -> Any:
        import anthropic

        return anthropic.Anthropic(**(self._options(given) | {"base_url": self.url_root}))

    def get_async_client_anthropic(self, **given: Any) -> Any:
        import anthropic

        return anthropic.AsyncAnthropic(**(self._options(given) | {"base_url": self.url_root}))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that talk to no server."""
    own = [item for item in items if not _is_served(item)]
    config.hook.pytest_deselected(items=own)
    items[:] = [item for item in items if item not in own]


def _is_served(item: Any) -> bool:
    return any(
        part in name for part in _SERVED for name in item.fixturenames
    ) or "RemoteOpenAIServer" in inspect.getsource(item.function)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _shared(given: list[str]) -> list[str]:
    own: list[str] = []
    for place, flag in enumerate(given):
        name, _, value = flag.partition("=")
        if name in _SHARED:
            own += [name] if not _SHARED[name] else [name, value or given[place + 1]]
    return own


# Packages that the tests import, and of which those over HTTP need nothing.
_ABSENT = ("torch", "vllm")


class _Platform:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: False


def _get_tokenizer(*_: Any, **__: Any) -> Any:
    return AutoTokenizer.from_pretrained(os.environ["PEER_TOKENIZER"])


class _StandIn(types.ModuleType):
    """A module in which every name exists."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = {"get_tokenizer": _get_tokenizer, "current_platform": _Platform()}
        value = known.get(name) or (type(name, (Exception,), {}) if name.endswith("Error") else MagicMock(name=name))
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _ABSENT else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.insert(0, _Finder())
_utils = _StandIn("tests.utils")
_utils.__dict__.update(RemoteOpenAIServer=RemoteOpenAIServer, ROCM_EXTRA_ARGS=[], ROCM_ENV_OVERRIDES={})
sys.modules["tests.utils"] = _utils
