"""The engine process's loop: a message that cannot be taken ends its own request and no other."""

import os
from pathlib import Path

import pytest
import zmq

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import (
    BlockOutput,
    EngineOutput,
    GenerateRequest,
    ShutdownRequest,
    StepReport,
    decoder,
    encode,
)
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.server import EngineServer
from cdlm.scheduler.sequence import Sequence
from tests.support.models.checkpoints import build_checkpoint


def generate(name: str, max_tokens: int = 12) -> GenerateRequest:
    return GenerateRequest(request_id=name, prompt_ids=[1, 2], max_tokens=max_tokens, ignore_eos=True)


def test_a_bug_while_a_request_is_queued_ends_that_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    original = Sequence.from_request.__func__  # type: ignore[attr-defined]

    def raising(cls: type[Sequence], request: GenerateRequest, *others: object) -> Sequence:
        if request.request_id == "bad":
            raise KeyError("a bug")
        return original(cls, request, *others)

    monkeypatch.setattr(Sequence, "from_request", classmethod(raising))
    context = zmq.Context()
    inbox, api_in = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    outbox, api_out = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    try:
        for here, there, name in ((inbox, api_in, "inproc://in"), (api_out, outbox, "inproc://out")):
            here.bind(name)
            there.connect(name)
        for message in (generate("good"), generate("bad"), generate("refused", 9999), generate("also good")):
            api_in.send(encode(message))
        server = EngineServer(engine, inbox, outbox, parent=os.getppid())
        outputs: list[BlockOutput] = []
        reader = decoder(EngineOutput)
        send = server.send

        def sent(message: EngineOutput) -> None:
            send(message)
            found = reader.decode(api_out.recv())
            if isinstance(found, StepReport):
                outputs.extend(found.outputs)
            if {"good", "also good"} <= {each.request_id for each in outputs if each.finish_reason == "length"}:
                api_in.send(encode(ShutdownRequest()))

        server.send = sent  # type: ignore[method-assign]
        server.run()
    finally:
        context.destroy(linger=0)
    errors = {each.request_id: each.error for each in outputs if each.finish_reason == "error"}
    assert errors.keys() == {"bad", "refused"}
    assert errors["bad"] == "KeyError"
    for name in ("good", "also good"):
        assert sum(len(each.token_ids) for each in outputs if each.request_id == name) == 12
    engine.check()
