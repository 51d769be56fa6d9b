"""``cdlm.LLM``: what cannot be loaded, and how an engine of a program begins and ends."""

import os
import signal
import subprocess
import sys

import pytest

import cdlm
from tests.e2e.engine.test_llm import QUESTION, gone
from tests.support.forks import script
from tests.support.places import ROOT
from tests.support.server.served import POOL


def test_a_killed_engine_fails_the_call_and_comes_back() -> None:
    with cdlm.LLM("cdlm-nano", threads=1, kv_cache_memory=POOL) as llm:
        pid = llm._app.client.pid
        assert pid is not None
        stream = llm.stream(QUESTION, cdlm.SamplingParams(max_tokens=1000, ignore_eos=True))
        next(stream)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(cdlm.EngineError):
            list(stream)
        assert llm.generate("Hello")[0].text


def test_it_closes_after_an_exception_and_twice() -> None:
    llm = cdlm.LLM("cdlm-nano", threads=1, kv_cache_memory=POOL)
    pid = llm._app.client.pid
    with pytest.raises(ZeroDivisionError), llm:
        _ = 1 / 0
    assert gone([pid])
    llm.close()
    with pytest.raises(cdlm.EngineError, match="closed"):
        llm.generate("Hello")
    with pytest.raises(cdlm.EngineError, match="closed"):
        list(llm.stream("Hello"))


def test_variables_of_the_server_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDLM_THREADS", "none")
    with pytest.raises(cdlm.LoadError, match="/nowhere"):
        cdlm.LLM("/nowhere")


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        # After an exception it ends as after the last line.
        pytest.param("raise SystemExit(3)", marks=pytest.mark.whole),
        pytest.param("1 / 0", marks=pytest.mark.whole),
        "os.kill(os.getpid(), 9)",
        "del llm; gc.collect()",
    ],
)
def test_the_engine_ends_with_the_program(end: str) -> None:
    code = (
        "import cdlm, gc, os\nllm = cdlm.LLM('cdlm-nano', threads=1)\nprint(llm._app.client.pid, flush=True)\n"
        f"print(llm.generate('Hello', cdlm.SamplingParams(max_tokens=2))[0].outputs[0].finish_reason)\n{end}\n"
        "print('after', flush=True)\n"
    )
    done = subprocess.run(script.command(code), capture_output=True, text=True, timeout=120, check=False)
    pid, reason, *_ = done.stdout.split()
    assert reason in ("length", "stop")
    assert gone([int(pid)])
    if "0" not in end:
        assert "Traceback" not in done.stderr, done.stderr
    assert "INFO" not in done.stderr


def test_an_interrupt_ends_the_call_and_not_the_engine() -> None:
    code = (
        "import cdlm, os, signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # Jobs in the background ignore it.
        "with cdlm.LLM('cdlm-nano', threads=1) as llm:\n"
        "    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        llm.generate(['Hello'] * 64, cdlm.SamplingParams(max_tokens=1500, ignore_eos=True))\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "    print(llm.generate('Hello', cdlm.SamplingParams(max_tokens=2))[0].outputs[0].finish_reason)\n"
    )
    done = subprocess.run(script.command(code), capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.split() == ["interrupted", "length"], done.stderr


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import cdlm, sys; cdlm.RequestError; heavy = {'torch', 'pydantic', 'fastapi', 'numpy', 'asyncio'}; "
        "print(sorted(heavy & sys.modules.keys())); print(cdlm.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"


def test_the_public_names_are_listed_in_the_docs() -> None:
    page = (ROOT / "docs/python.md").read_text()
    for name in cdlm.__all__:
        assert getattr(cdlm, name)
        assert name == "__version__" or f"`{name}`" in page, name
    assert set(dir(cdlm)) == set(cdlm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        _ = cdlm.Engine  # type: ignore[attr-defined]
