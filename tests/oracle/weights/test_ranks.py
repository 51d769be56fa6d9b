"""Processes that share the layers compute what one process does, token for token; a lost one ends the engine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.parallel.followers import LostRank
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.training.data.mixture import draw_problems
from tests.oracle.faults import test_not_finite
from tests.oracle.scores import test_scoring
from tests.support.engines import Answer, assert_equal_to_oracle, random_requests, run
from tests.support.matrix import some
from tests.support.models.checkpoints import axes, build_checkpoint
from tests.support.models.hf_block_checkpoints import build as build_block_backbone
from tests.support.models.hf_checkpoints import build_dream, build_llada
from tests.support.models.hf_references import dream_base, llada_base, train_with_peft


@contextmanager
def ranked(directory: Path, size: int = 2, **options: Any) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    values = {"model": str(directory), "tensor_parallel_size": size, "page_size": 4, "max_num_seqs": 8, **options}
    engine = Engine(EngineOptions(**values))
    try:
        yield engine
    finally:
        engine.close()
        torch.set_num_threads(threads)


# Axes whose weights are cut in different ways: with norms and one matrix for both ends, with experts, without a mask.
# Biases are in Fast_dLLM_Qwen.
SHARED = ("experts", "autoregressive_without_mask")


def followers_of(engine: Engine) -> list[int]:
    assert engine.runner.followers is not None
    return [process.pid for process in engine.runner.followers.processes]


@axes(sample=SHARED)
def test_generation_and_scores_equal_the_oracle(tmp_path: Path, axis: str) -> None:
    """With prompts that are taken layer by layer, pages that are copied, and a vocabulary that two do not divide."""
    directory = build_checkpoint(tmp_path, axis, seed=8, vocab_size=65)
    requests = random_requests(8, seed=8)
    prompts = test_scoring.prompts(4, seed=8)
    with ranked(directory, max_prefill_tokens=3) as engine:
        assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
        assert_equal_to_oracle(directory, requests, run(engine, requests))  # From the prefix cache.
        for index, prompt in enumerate(prompts):
            engine.add(ScoreRequest(request_id=str(index), prompt_ids=prompt, logprobs=3))
        outputs = test_scoring.run(engine)
    for index, prompt in enumerate(prompts):
        test_scoring.assert_scores(directory, prompt, outputs[str(index)], 3)


@pytest.mark.parametrize("vocab", some([2048, 64], every=2))
def test_what_a_plain_step_sends_to_the_leader_does_not_grow_with_the_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab: int
) -> None:
    """Three numbers per masked position; an entropy needs all of a row's logits."""
    gather, sent = dist.gather, []

    def counted(tensor: torch.Tensor, parts: list[torch.Tensor], dst: int) -> None:
        gather(tensor, parts, dst=dst)
        sent.append(sum(part.nbytes for part in parts))

    directory = build_checkpoint(tmp_path, "plain", vocab_size=vocab)
    block = load_checkpoint(directory).manifest.block_length
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=[index + 1], max_tokens=block, ignore_eos=True)
        for index in range(3)
    ]
    ranked_by_entropy = GenerateRequest(
        request_id="entropy", prompt_ids=[4], max_tokens=block, params=DecodingParams(decoding="entropy_bound")
    )
    with ranked(directory) as engine:
        monkeypatch.setattr(dist, "gather", counted)
        assert_equal_to_oracle(directory, requests, run(engine, requests))
        assert sent
        assert max(sent) <= 2 * 3 * 8 * (len(requests) * block)
        sent.clear()
        assert_equal_to_oracle(directory, [ranked_by_entropy], run(engine, [ranked_by_entropy]))
        assert max(sent) >= 4 * vocab * (block - 1)


def test_logits_that_are_not_finite_end_their_row_and_leave_no_rank_spoilt(tmp_path: Path) -> None:
    directory = test_not_finite.poisoned(tmp_path, "absolute_shifted")
    sound = [test_not_finite.generate(f"good{index}", [index + 1] * (index + 1)) for index in range(5)]
    broken = test_not_finite.generate("bad", [1, 2, test_not_finite.POISON])
    with ranked(directory, max_num_seqs=3) as engine:
        for _ in range(2):
            answers = run(engine, [broken, *sound])
            assert answers.pop("bad").finish_reason == "error"
            assert_equal_to_oracle(directory, sound, answers)


def compare(directory: Path, **options: Any) -> None:
    """One process, which other tests hold to the oracle, and two."""
    requests = random_requests(6, seed=2)
    alone = run(Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=8, **options)), requests)
    with ranked(directory, **options) as engine:
        together = run(engine, requests)

    def told(answers: dict[str, Answer]) -> list[object]:
        return [(answers[each.request_id].token_ids, answers[each.request_id].steps) for each in requests]

    assert told(together) == told(alone)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", some(["Dream", "llada"], every=2))
def test_adapters_are_merged_into_every_share(tmp_path: Path, family: str) -> None:
    build, host = {"Dream": (build_dream, dream_base), "llada": (build_llada, llada_base)}[family]
    directory = build(tmp_path / "base", 1)
    modules = {"Dream": ["q_proj", "o_proj", "up_proj", "down_proj"], "llada": ["q_proj", "attn_out", "ff_out"]}
    train_with_peft(host(directory), tmp_path / "lora", 1, r=4, lora_alpha=8, target_modules=modules[family])
    compare(directory, adapter=str(tmp_path / "lora"), block_length=8, confidence_threshold=0.4)


@pytest.mark.parametrize("model_type", some(["Fast_dLLM_Qwen", "sdar", "qwen2"], every=3))
def test_formats_of_blocks_and_of_single_tokens(tmp_path: Path, model_type: str) -> None:
    build_block_backbone(tmp_path, model_type, seed=4)
    compare(tmp_path)


def test_int8_weights_are_shared() -> None:
    """Each rank rounds its own inputs of a product, so not every token need be the one that a single process takes."""
    pytest.importorskip("torchao")
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    requests = [
        GenerateRequest(
            request_id=str(index), prompt_ids=tokenizer.encode(each.prompt, add_special_tokens=False), max_tokens=96
        )
        for index, each in enumerate(draw_problems("words", 6, 3, "development"))
    ]
    options = {"model": str(BUNDLED_STUDENT), "quantization": "int8"}
    alone = run(Engine(EngineOptions(**options)), requests)  # type: ignore[arg-type]
    with ranked(BUNDLED_STUDENT, quantization="int8", page_size=32) as engine:
        together = run(engine, requests)
    assert sum(together[name].token_ids == answer.token_ids for name, answer in alone.items()) >= 4


def test_it_is_described_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    alone = Engine(EngineOptions(model=str(BUNDLED_STUDENT))).describe()
    with ranked(BUNDLED_STUDENT, page_size=32) as engine:
        told = engine.describe()
        assert (told.parameters, told.vocab_size) == (alone.parameters, alone.vocab_size)
        page = engine.runner.cache.keys[:, :32].numel() * 2 * 4
        assert page * 2 == Engine(EngineOptions(model=str(BUNDLED_STUDENT))).runner.cache.keys[:, :32].numel() * 2 * 4
        pids = followers_of(engine)
    assert not dist.is_initialized()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("when", ["idle", "running"])
def test_a_rank_that_dies_ends_the_engine(tmp_path: Path, when: str) -> None:
    with ranked(build_checkpoint(tmp_path)) as engine:
        engine.check_ranks()
        request = GenerateRequest(request_id="a", prompt_ids=[1, 2, 3], max_tokens=40, ignore_eos=True)
        engine.add(request)
        engine.step()
        [pid] = followers_of(engine)
        os.kill(pid, signal.SIGKILL)

        def notice() -> None:
            for _ in range(1000):  # It is a while until all that the kernel kept for it is closed.
                engine.check_ranks()
                time.sleep(0.01)

        with pytest.raises(LostRank):
            notice() if when == "idle" else engine.step()


def test_an_error_in_the_leader_s_forward_ends_the_engine_and_its_followers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank waits in a collective that will never be complete."""
    with ranked(build_checkpoint(tmp_path)) as engine:
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1, 2, 3], max_tokens=40, ignore_eos=True))
        engine.step()

        def attend(*_: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr("cdlm.model.attention.sdpa.SdpaAttention.attend", attend)
        with pytest.raises(LostRank, match="no room"):
            engine.step()
        [pid] = followers_of(engine)
    assert not Path(f"/proc/{pid}").exists()


LEADER = """
import os, sys, time
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.options import EngineOptions
engine = Engine(EngineOptions(model=sys.argv[1], tensor_parallel_size=2))
print(*(process.pid for process in engine.runner.followers.processes), flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end a child with its parent")
def test_a_rank_that_no_longer_listens_goes_with_its_leader(tmp_path: Path) -> None:
    """It stands for one that waits in a collective: stopped, it does not see that its connection is closed."""
    command = [sys.executable, "-c", LEADER, str(build_checkpoint(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leader:
        try:
            assert leader.stdout is not None
            pid = int(leader.stdout.readline())
            os.kill(pid, signal.SIGSTOP)
        finally:
            leader.kill()
    until = time.monotonic() + 60
    while running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(pid)


def running(pid: int) -> bool:
    """Whether the process is more than a line in the system's table, which whoever adopts it removes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"size": 3}, "tensor_parallel_size 3 does not divide the checkpoint's num_heads 4"),
    ({"adapter": "/nowhere"}, "/nowhere: no such checkpoint directory"),
    ({"size": 4}, "tensor_parallel_size 4 does not divide the checkpoint's num_kv_heads 2"),
    ({"device": "cuda"}, "device 'cuda': this machine has no usable NVIDIA GPU"),
]


@pytest.mark.parametrize("refusals", some([REFUSALS[:2], REFUSALS[2:]], every=2))
def test_what_cannot_be_shared_is_said_at_start_and_another_can_start(tmp_path: Path, refusals: list[Any]) -> None:
    directory = build_checkpoint(tmp_path)
    for options, message in refusals:
        with pytest.raises(EngineStartError) as error, ranked(directory, **options):
            pass
        assert message in str(error.value)
        assert not dist.is_initialized()
    with ranked(directory):
        pass


def test_a_rank_that_cannot_start_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = build_checkpoint(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(3)")
    with pytest.raises(EngineStartError, match="rank 1"), ranked(directory):
        pass
    assert not dist.is_initialized()
