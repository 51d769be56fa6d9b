"""Steps on a CUDA device that computes nothing: all tensors are on one device, and nothing asks it for a value.

Tensors of torch's fake mode have a device, a shape and a type, and no values. An operator over two devices raises, and
so does whatever needs a value. The figures that a step copies to the host, in its only transfer, are those of the same
step of an engine on the CPU. The mode needs a build of torch with CUDA, and no GPU.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.model.readback import Readback
from cdlm.model.uploads import Uploads
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import AXES, build_checkpoint

pytestmark = [
    pytest.mark.fakecuda,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a build of torch with CUDA (make fakecuda)"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, the other tests show more"),
]

DEVICE = torch.device("cuda", 0)


class Event:
    """Stands for an event of a GPU: what is behind it is done."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def requests(**params: Any) -> list[GenerateRequest]:
    """They begin and end at different steps, and some have a prompt that another had."""
    draw = random.Random(3)
    prompts = [[draw.randrange(60) for _ in range(length)] for length in (3, 12, 21)]
    return [
        GenerateRequest(
            request_id=str(index),
            prompt_ids=prompts[index % 3],
            max_tokens=9 + 5 * index,
            ignore_eos=index % 2 == 0,
            params=DecodingParams(confidence_threshold=0.3, **params),
        )
        for index in range(5)
    ]


def run(engine: Engine, wanted: list[GenerateRequest]) -> dict[str, list[int]]:
    """Answers of all requests; two more join at every second step."""
    queue, answers = list(wanted), {each.request_id: [] for each in wanted}
    step = 0
    while queue or engine.busy:
        if step % 2 == 0:
            for request in queue[:2]:
                engine.add(request)
            del queue[:2]
        for output in engine.step().outputs:
            assert output.finish_reason != "error", output
            answers[output.request_id] += output.token_ids
        step += 1
    return answers


def figures_of_the_cpu(
    directory: Path, options: dict[str, Any], wanted: list[GenerateRequest]
) -> tuple[list[Any], dict[str, list[int]]]:
    """What each step of an engine on the CPU told the host, and its answers."""
    engine = Engine(EngineOptions(model=str(directory), **options))
    engine.runner.uploads, engine.runner.run_ahead = Uploads(torch.device("cpu")), True
    told: list[Any] = []
    read = Readback.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Readback, "read", lambda self: told.append(read(self)) or told[-1])
        answers = run(engine, wanted)
    return told, answers


def on_the_fake_device(checkpoint: Checkpoint) -> Checkpoint:
    """The weights become tensors of the device."""
    for module in checkpoint.transformer.modules():
        for name, each in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(moved(each), requires_grad=False))
        for name, each in list(module.named_buffers(recurse=False)):
            setattr(module, name, moved(each))
    return checkpoint


def moved(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    monkeypatch.setattr("torch.cuda.Event", Event)
    # Else the mode computes what has one value known to the host, and would need a driver for it.
    monkeypatch.setattr("torch._subclasses.fake_tensor.CONSTANT_NUMEL_LIMIT", -1)
    # A weight of the mode is of no usual type, but it is not quantized.
    monkeypatch.setattr("cdlm.model.network.transformer.quantized", lambda *_: False)
    monkeypatch.setattr("cdlm.scheduler.loading.free_memory", lambda *_: 2**30)
    with FakeTensorMode() as entered:
        yield entered


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were launched; none runs, and all that each was given must be on the device."""
    from triton.runtime.interpreter import GridExecutor

    names: list[str] = []

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        name = executor.fn.__name__
        names.append(name)
        for each in (*args, *kwargs.values()):
            if isinstance(each, torch.Tensor):
                assert isinstance(each, FakeTensor)
                assert each.device == DEVICE, f"{name}: {each}"

    monkeypatch.setattr(GridExecutor, "__call__", launch)
    return names


Steps = Callable[..., None]


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: FakeTensorMode) -> Steps:
    """Runs an engine on the CPU, then one on the fake device, which must come to the same answers."""

    def both(axis: str, backend: str, wanted: list[GenerateRequest], **more: Any) -> None:
        options = {"page_size": 4, "max_num_seqs": 4, "kv_cache_memory": 2**22, **more}
        with torch._subclasses.fake_tensor.unset_fake_temporarily():
            directory = build_checkpoint(tmp_path / "checkpoint", axis, seed=2)
            told, answers = figures_of_the_cpu(directory, options, wanted)
        real = EngineOptions(model=str(directory), attention_backend=backend, cuda_graphs=False, **options)

        def loaded(chosen: EngineOptions) -> Checkpoint:
            with torch._subclasses.fake_tensor.unset_fake_temporarily():
                checkpoint = load_checkpoint(Path(chosen.model), dtype=torch.bfloat16)
            return on_the_fake_device(checkpoint)

        monkeypatch.setattr("cdlm.scheduler.engine.load", loaded)
        left = list(told)

        def read(figures: Readback) -> Any:
            assert isinstance(figures._values, FakeTensor)
            found = left.pop(0)
            assert tuple(figures._values.shape) == (len(found), len(found[0]))
            return found

        monkeypatch.setattr(Readback, "read", read)
        engine = Engine(real)
        assert engine.runner.run_ahead
        assert engine.runner.canvas.tokens.device == DEVICE
        assert run(engine, wanted) == answers
        assert not left

    return both


@pytest.mark.parametrize("axis", list(AXES))
def test_a_step_asks_for_no_value_and_mixes_no_devices(axis: str, steps: Steps) -> None:
    steps(axis, "sdpa", requests())


@pytest.mark.parametrize("axis", list(AXES))
def test_kernels_get_what_is_on_the_device(axis: str, steps: Steps, launched: list[str]) -> None:
    steps(axis, "triton", requests())
    assert {"paged_attention", "_row_statistics", "_swiglu", "_add_rms_norm", "_rotate_and_write"} <= set(launched)


FEATURES: dict[str, dict[str, Any]] = {
    "factor": {"decoding": "factor", "decoding_factor": 1.0},
    "entropy_bound": {"decoding": "entropy_bound", "entropy_bound": 0.5},
    "fixed_steps": {"decoding": "fixed_steps", "steps_per_block": 3},
    "edits": {"presence_penalty": 0.5, "repetition_penalty": 1.2, "logit_bias": {5: -3.0}, "bad_words": [[7]]},
    "guidance": {"guidance_scale": 1.5},
}
# Without kernels the host draws the noise.
DRAWS: dict[str, dict[str, Any]] = {
    "draws": {"temperature": 0.8, "seed": 3},
    "filters": {"temperature": 0.8, "seed": 3, "top_k": 7, "top_p": 0.9, "min_p": 0.01},
}


@pytest.mark.parametrize(
    ("backend", "params"),
    [pytest.param("sdpa", params, id=f"sdpa-{name}") for name, params in FEATURES.items()]
    + [pytest.param("triton", params, id=f"triton-{name}") for name, params in (FEATURES | DRAWS).items()],
)
def test_nor_do_steps_of_other_rules_edits_and_draws(
    backend: str, params: dict[str, Any], steps: Steps, launched: list[str]
) -> None:
    steps("shifted", backend, requests(**params))


def test_nor_do_prompts_in_pieces(steps: Steps, launched: list[str]) -> None:
    steps("shifted", "triton", requests(), max_prefill_tokens=9)


def test_the_device_would_say_so(mode: FakeTensorMode) -> None:
    there = torch.zeros(4, device=DEVICE)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.zeros(4)
    with pytest.raises(DataDependentOutputException):
        there.sum().item()
    with pytest.raises(DataDependentOutputException):
        there.tolist()
