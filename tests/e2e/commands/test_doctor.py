"""``cdlm doctor`` as a user types it, on real checkpoints and on machines that lack something."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cdlm.cli.main import app
from cdlm.model.backbones import BACKBONES
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from cdlm.server.command_line import parse_settings
from tests.support.models.checkpoints import AXES, build_checkpoint
from tests.support.models.hf_checkpoints import VOCAB, build_dream, build_llada
from tests.support.models.hf_references import random_lora

TORCH = importlib.metadata.version("torch")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def doctor(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert (found["problem"] is None) == (code == 0)
    return found


def command(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*before, sys.executable, "-m", "cdlm", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | variables,
    )


COMMANDS = """
import json, sys
from typer.testing import CliRunner
from cdlm.cli.main import app
for words in json.loads(sys.argv[1]):
    print(json.dumps(json.loads(CliRunner().invoke(app, ["doctor", "--json", *words]).stdout)))
"""


def commands(*asked: tuple[str, ...], before: tuple[str, ...] = (), **variables: str) -> list[dict[str, Any]]:
    """What ``cdlm doctor --json`` finds with each of these arguments, in one process for all of them."""
    done = subprocess.run(
        [*before, sys.executable, "-c", COMMANDS, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def servable(directory: Path, axis: str = "plain", vocab_size: int = VOCAB) -> Path:
    """A checkpoint of the project's own format, with a tokenizer."""
    build_checkpoint(directory, axis, vocab_size=vocab_size)
    tokenizer = build_llada(directory / "llada")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(tokenizer / name, directory / name)
    shutil.rmtree(tokenizer)
    return directory


def adapter(directory: Path, base: Path, block_length: int = 4) -> Path:
    lora = random_lora(load_checkpoint(base).transformer, 2, lambda name: name == "layers.0.mlp.up_proj")
    write_adapter(
        directory,
        lora,
        backbone=BACKBONES["Dream"],
        r=2,
        alpha=4,
        base="b",
        decoding=AdapterDecoding(block_length, 0.7),
    )
    return directory


def test_the_bundled_student_is_shown_with_its_flags() -> None:
    result = command("--max-num-seqs", "4")
    assert (result.returncode, result.stderr) == (0, "")
    for text in ("cdlm-nano: format cdlm, 1.31 M parameters", "  --block-length 32\n", "  --max-num-seqs 4\n",
                 "  --attention-backend sdpa\n", "  --cuda-graphs false\n",
                 f"torch {TORCH}", "The model can be served."):  # fmt: skip
        assert text in result.stdout
    assert "warning" not in result.stdout


def test_json_holds_machine_model_and_flags() -> None:
    found = doctor()
    assert found["warnings"] == []
    assert found["packages"]["torch"] == TORCH
    assert found["packages"].keys() >= {"cdlm-serve", "transformers", "torchao"}
    assert "pytest" not in found["packages"]
    assert 0 < found["memory"]["free"] <= found["memory"]["total"]
    assert found["disks"]["model"]["free"] > 0
    assert found["processor"]["usable_cores"] >= 1
    assert found["processor"]["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["flags"].keys() == set(EngineOptions.model_fields)


@pytest.mark.parametrize("kind", [*AXES, "dream", "llada", "adapter"])
def test_the_answer_is_that_of_an_engine_that_has_loaded_the_weights(kind: str, tmp_path: Path) -> None:
    if kind == "llada":
        build_llada(tmp_path)
    elif kind in ("dream", "adapter"):
        build_dream(tmp_path)
    else:
        servable(tmp_path, kind)
    flags = ["--model", str(tmp_path), "--max-num-seqs", "3", "--kv-cache-memory", "8M"]
    if kind == "adapter":
        flags += ["--adapter", str(adapter(tmp_path / "adapter", tmp_path))]
    found = doctor(*flags)
    ready = Engine(parse_settings(flags).engine_options()).describe()
    model, chosen = found["model"], found["flags"]
    assert model["parameters"] == ready.parameters
    assert model["weight_bytes"] == ready.parameters * getattr(torch, ready.dtype).itemsize
    assert (model["pages"], chosen["page_size"]) == (ready.num_pages, ready.page_size)
    for name in ("device", "dtype", "block_length", "confidence_threshold", "max_model_len"):
        assert chosen[name] == getattr(ready, name)
    assert chosen["block_length"] == (4 if kind == "adapter" else chosen["block_length"])


def break_checkpoint(how: str, directory: Path) -> list[str]:
    """A checkpoint that an engine refuses, or flags that it refuses."""
    build_dream(directory)
    weights = directory / "model.safetensors"
    match how:
        case "unknown format":
            edit(directory / "config.json", model_type="gpt_neox")
        case "no weights":
            weights.unlink()
        case "pickled weights":
            weights.rename(directory / "pytorch_model.bin")
        case "missing tensor" | "misshapen tensor" | "unknown tensor":
            tensors = load_file(weights)
            embedding = tensors.pop("model.embed_tokens.weight")
            if how == "misshapen tensor":
                tensors["model.embed_tokens.weight"] = embedding[:-1].clone()
            elif how == "unknown tensor":
                tensors |= {"model.embed_tokens.weight": embedding, "model.visual.weight": embedding.clone()}
            save_file(tensors, weights)
        case "truncated weights":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "adapter of another base":
            other = build_dream(directory / "other")
            lora = random_lora(load_checkpoint(other).transformer, 2, lambda name: name.endswith("up_proj"))
            lora = {name: (down[:, :-2], up) for name, (down, up) in lora.items()}
            write_adapter(directory / "lora", lora, backbone=BACKBONES["Dream"], r=2, alpha=4, base="b",
                          decoding=AdapterDecoding(8, 0.5))  # fmt: skip
            return ["--adapter", str(directory / "lora")]
        case "tokenizer of a larger model":
            edit(directory / "vocab.json", **{"more": VOCAB + 7})
        case _:
            return how.split()
    return []


@pytest.mark.parametrize(
    "how",
    [
        "unknown format", "no weights", "pickled weights", "missing tensor", "misshapen tensor", "unknown tensor",
        "truncated weights", "adapter of another base", "tokenizer of a larger model", "--kv-cache-memory 1k",
        "--max-model-len 9999", "--max-num-batched-tokens 100", "--cuda-graphs true",
        "--attention-backend flex --page-size 24", "--device tpu",
        pytest.param("--device cuda", marks=WITHOUT_GPU),
    ],
)  # fmt: skip
def test_what_an_engine_refuses_the_doctor_refuses_in_the_same_words(how: str, tmp_path: Path) -> None:
    flags = ["--model", str(tmp_path), *break_checkpoint(how, tmp_path)]
    flags += [] if "--device" in flags else ["--device", "cpu"]
    found = doctor(*flags, code=1)
    with pytest.raises(EngineStartError) as refusal:
        Engine(parse_settings(flags).engine_options())
    assert found["problem"] == str(refusal.value)
    assert found["model"] is None
    assert found["memory"]["free"] > 0


def test_weights_that_do_not_fit_into_memory(tmp_path: Path) -> None:
    """A terabyte in fp32, which is a hole in a file."""
    rows = 2**33
    build_dream(tmp_path, tie_word_embeddings=True)
    edit(tmp_path / "config.json", vocab_size=rows)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    width = tensors.pop("model.embed_tokens.weight").shape[1]
    save_file(tensors, weights)
    content = weights.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    place = [len(data), len(data) + 2 * rows * width]
    header["model.embed_tokens.weight"] = {"dtype": "BF16", "shape": [rows, width], "data_offsets": place}
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data)
    os.truncate(weights, 8 + len(text) + place[1])
    found = doctor("--model", str(tmp_path), "--device", "cpu", code=1)
    assert found["problem"].startswith("the weights take 10995")
    assert "bytes in float32" in found["problem"]
    assert found["problem"].endswith("are free on cpu")


def test_a_checkpoint_without_a_tokenizer_cannot_be_served(tmp_path: Path) -> None:
    found = doctor("--model", str(build_checkpoint(tmp_path)), code=1)
    assert "cannot load the tokenizer" in found["problem"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\x00", b'{"model_type": 5}'])
def test_files_of_any_content_end_without_a_traceback(name: str, content: bytes, tmp_path: Path) -> None:
    directory = build_llada(tmp_path)
    (directory / name).write_bytes(content)
    result = CliRunner().invoke(app, ["doctor", "--model", str(directory)])
    assert result.exit_code in (0, 1)
    assert isinstance(result.exception, SystemExit | None)
    assert "could not be looked at" not in result.stdout


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    [warning] = doctor("--model", str(servable(tmp_path, vocab_size=2000)))["warnings"]
    assert warning.startswith(f"the tokenizer has {VOCAB} tokens and the embedding 2000 rows")


def test_added_tokens_and_masks_that_the_model_does_not_know(tmp_path: Path) -> None:
    config = json.loads((build_dream(tmp_path) / "tokenizer_config.json").read_text())
    decoder = config["added_tokens_decoder"]
    edit(tmp_path / "tokenizer_config.json", added_tokens_decoder=decoder | {"999": {"content": "<|new|>"}})
    edit(tmp_path / "config.json", mask_token_id=5)
    warnings = doctor("--model", str(tmp_path))["warnings"]
    assert f"the tokenizer has 1 added tokens that the embedding of {VOCAB} rows does not know" in warnings
    assert any("mask token '<|mask|>' has id 263, and the model's mask_token_id is 5" in line for line in warnings)


def test_a_model_without_chats_or_an_end_is_noticed(tmp_path: Path) -> None:
    build_checkpoint(tmp_path, vocab_size=VOCAB, stop_token_ids=())
    shutil.copy(build_llada(tmp_path / "llada") / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    warnings = doctor("--model", str(tmp_path))["warnings"]
    assert [line.split(":")[0] for line in warnings] == [
        "there is no chat template",
        "the checkpoint names no end token",
    ]
