"""The commands as a user types them; where a process of their own is not the point, in that of the tests."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdlm.cli.commands import COMMANDS
from cdlm.cli.local_server import LocalServerError, local_server
from cdlm.model.assets import BUNDLED_STUDENT
from tests.support.command import cdlm
from tests.support.forks import script
from tests.support.models.checkpoints import build_checkpoint


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdlm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.spawns
def test_help_lists_every_command() -> None:
    result = process("--help")
    assert result.returncode == 0
    for name, (_, line) in COMMANDS.items():
        assert name in result.stdout
        assert line.split(",")[0] in " ".join(result.stdout.replace("│", " ").split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = cdlm(name, "--help")
    assert result.exit_code == 0, result.stderr
    assert f"cdlm {name}" in result.stdout


@pytest.mark.spawns
def test_the_version_is_that_of_the_package() -> None:
    result = process("--version")
    assert (result.returncode, result.stdout) == (0, f"cdlm {importlib.metadata.version('cdlm-serve')}\n")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("serv",), "'serve'"),
        (("evl", "--count", "3"), "'eval'"),
        (("docter", "--json"), "'doctor'"),
        (("train", "studnet"), "'student'"),
        (("serve", "--prot", "1"), "--port"),
        (("serve", "--max-num-seq=3"), "--max-num-seqs"),
        (("doctor", "--modle", "x"), "--model"),
        (("bench", "--urll", "x"), "--url"),
    ],
)
def test_what_is_unknown_suggests_the_nearest(arguments: tuple[str, ...], nearest: str) -> None:
    result = cdlm(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert nearest in result.stderr
    assert len(result.stderr.splitlines()) <= 5


def test_what_is_like_nothing_suggests_nothing() -> None:
    assert "mean" not in cdlm("xyz").stderr
    assert "mean" not in cdlm("serve", "--zzzzzz", "1").stderr


MISSING = (
    ("peft", ("train", "adapter", "--config", "{config}", "--output", "{out}"), "cdlm-serve[training]"),
    ("accelerate", ("train", "adapter-trajectories", "--config", "{config}", "--output", "{out}"),
     "cdlm-serve[training]"),
    ("peft", ("train", "task-adapter", "--config", "{config}", "--output", "{out}"), "cdlm-serve[training]"),
    ("matplotlib", ("bench", "--url", "http://127.0.0.1:9", "--png", "{out}/x.png"), "cdlm-serve[training]"),
    ("matplotlib", ("eval", "--table", "--picture", "{out}/x.png"), "cdlm-serve[training]"),
    ("torchao", ("generate", "hi", "--quantization", "int8"), "cdlm-serve[quantization]"),
    ("torchao", ("doctor", "--quantization", "int8"), "cdlm-serve[quantization]"),
    ("opentelemetry.sdk", ("serve", "--otlp-endpoint", "http://127.0.0.1:9"), "cdlm-serve[tracing]"),
)  # fmt: skip
# Each command in a child of a process that has what several of them import, and none of what is missing.
CHILDREN = """
import json, os, sys
from cdlm import garbage
with garbage.ignored():
    import torch
    import cdlm.cli.main, cdlm.model.tokens.tokenizer, cdlm.scheduler.offline, cdlm.server.run
assert not {hidden for hidden, _ in json.loads(sys.argv[1])} & sys.modules.keys()
for number, (hidden, words) in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        output = os.open(f"{sys.argv[2]}/{number}", os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.modules[hidden] = None
        sys.argv = ["cdlm", *words]
        from cdlm.cli.main import main
        main()
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def told_of_missing(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Exit status and output of each command of ``MISSING``."""
    place = tmp_path_factory.mktemp("missing")
    (place / "c.toml").touch()
    asked = [
        (hidden, [word.format(config=place / "c.toml", out=place) for word in words]) for hidden, words, _ in MISSING
    ]
    command = script.command(CHILDREN, json.dumps(asked), str(place))
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return [(int(status), (place / str(number)).read_text()) for number, status in enumerate(done.stdout.split())]


@pytest.mark.parametrize("case", range(len(MISSING)), ids=[f"{hidden}-{words[0]}" for hidden, words, _ in MISSING])
def test_a_missing_extra_names_its_pip_line(case: int, told_of_missing: list[tuple[int, str]]) -> None:
    status, output = told_of_missing[case]
    assert status in (1, 2)
    assert f"pip install '{MISSING[case][2]}'" in output
    assert "Traceback" not in output


def test_generate_shows_the_canvas_fill_up_and_prints_the_answer() -> None:
    result = process("generate", "hello", "--show-steps", "--confidence-threshold", "1.0", "--max-tokens", "6")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "block 1"
    steps = [line for line in lines if line.startswith("  step")]
    masks = [line.count("░") for line in steps]
    assert masks == sorted(masks, reverse=True)
    assert masks[0] == 31  # Threshold 1 finalizes one token a step.
    assert "tokens in 1 blocks" in lines[-1]


def test_generate_takes_the_steps_it_is_given() -> None:
    result = cdlm(
        "generate", "hello", "--show-steps", "--decoding", "fixed_steps", "--steps-per-block", "5", "--max-tokens", "32"
    )
    assert result.exit_code == 0, result.stderr
    masks = [line.count("░") for line in result.stdout.splitlines() if line.startswith("  step")]
    assert masks[:4] == [25, 18, 12, 6][: len(masks[:4])]
    assert len(masks) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", ""), "prompt is empty"),
        (("generate", "x", "--model", "/nowhere"), "/nowhere: no such checkpoint directory"),
        (("generate", "x", "--device", "abacus"), "device 'abacus'"),
        (("generate", "x", "--decoding", "greedy"), "--decoding"),
        (("eval", "--url", "http://127.0.0.1:9"), "cannot reach http://127.0.0.1:9"),
        (("eval", "--task", "poems"), "poems"),
        (("eval", "--task", "svamp"), "--task svamp needs --data FILE"),
        (("eval", "--task", "natural-words", "--data", "x"), "--task natural-words does not take --data FILE"),
        (("eval", "--task", "svamp", "--data", "x", "--split", "development"), "svamp has no --split development"),
        (("eval", "--task", "natural-functions", "--split", "development"), "functions has no --split development"),
        (("eval", "--task", "mbpp", "--data", "/nowhere.json"), "/nowhere.json: cannot be read"),
        (("eval", "--table", "--task", "natural-words"), "natural-words cannot be used with --table"),
        (("eval", "--vote", "3"), "--vote needs --temperature above 0"),
        (("eval", "--vote", "3", "--temperature", "1", "--task", "functions"), "functions asks for code"),
        (("eval", "--adapter", "/nowhere"), "--adapter /nowhere needs --model"),
        (("bench", "--url", "http://127.0.0.1:9"), "cannot reach http://127.0.0.1:9"),
        (("serve", "--prot", "1"), "prot"),
        (("serve", "--port", "99999"), "--port"),
        (("train", "teacher", "--config", "/nowhere.toml", "--output", "/tmp/x"), "/nowhere.toml"),
        (("train", "task-adapter", "--config", "README.md", "--output", "/tmp/x"), "README.md"),
        (("train", "task-answers", "--config", "README.md", "--output", "/tmp/x"), "README.md"),
    ],
)
def test_bad_input_ends_with_a_message_and_no_traceback(arguments: tuple[str, ...], message: str) -> None:
    result = cdlm(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_eval_and_bench_measure_a_running_server(tmp_path: Path) -> None:
    with local_server(BUNDLED_STUDENT) as url:
        result = cdlm("eval", "--url", url, "--count", "6", "--seed", "3", "--json", str(tmp_path / "eval.json"))
        assert result.exit_code == 0, result.stderr
        score = json.loads((tmp_path / "eval.json").read_text())
        assert (score["task"], score["n"], score["errors"], score["seed"]) == ("words", 6, 0, 3)
        assert 0.0 <= score["score"] <= 1.0
        voted = ("--temperature", "1", "--vote", "3", "--json", str(tmp_path / "v.json"))
        result = cdlm("eval", "--url", url, "--count", "6", "--seed", "3", *voted)
        assert result.exit_code == 0, result.stderr
        votes = json.loads((tmp_path / "v.json").read_text())
        assert (votes["vote"], votes["temperature"], votes["n"], votes["errors"]) == (3, 1.0, 6, 0)
        assert votes["completion_tokens"] > 2 * score["completion_tokens"]
        result = cdlm("eval", "--url", url, "--task", "functions", "--count", "3", "--json", str(tmp_path / "f.json"))
        assert json.loads((tmp_path / "f.json").read_text())["errors"] == 0
        asked = ("--task", "natural-words", "--split", "development", "--count", "2", "--max-tokens", "64")
        result = cdlm("eval", "--url", url, *asked, "--json", str(tmp_path / "d.json"))
        assert result.exit_code == 0, result.stderr
        assert json.loads((tmp_path / "d.json").read_text())["split"] == "development"
        svamp = tmp_path / "svamp.json"
        svamp.write_text('[{"Body": "Dan had 3 pens", "Question": "He lost one. How many now?", "Answer": 2.0}]')
        for task, data in (("natural-words", ()), ("natural-functions", ()), ("svamp", ("--data", str(svamp)))):
            result = cdlm("eval", "--url", url, "--task", task, *data, "--count", "2", "--max-tokens", "64",
                          "--json", str(tmp_path / "n.json"), "--failures", str(tmp_path / "wrong.jsonl"))  # fmt: skip
            assert result.exit_code == 0, result.stderr
            score = json.loads((tmp_path / "n.json").read_text())
            assert (score["task"], score["n"], score["errors"]) == (task, 1 if data else 2, 0)
            wrong = (tmp_path / "wrong.jsonl").read_text().splitlines()
            assert len(wrong) == round(score["n"] * (1 - score["score"]))
        result = cdlm(
            "bench", "--url", url, "--requests", "6", "--concurrency", "3", "--max-tokens", "40", "--ignore-eos",
            "--json", str(tmp_path / "bench.json"),
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        figures = json.loads((tmp_path / "bench.json").read_text())
        assert (figures["failed"], figures["total_output_tokens"], figures["output_tokens_from"]) == (0, 240, "usage")
        assert 1 <= figures["denoise_steps_per_block"] <= 32
        for name in ("output_throughput", "tokens_per_forward_of_a_request", "total_input_tokens"):
            assert figures[name] > 0
            assert name in result.stdout
        assert "p95" in result.stdout
        result = cdlm(
            "bench", "--url", url, "--requests", "5", "--request-rate", "20", "--prompts", "random", "--input-tokens",
            "33", "--max-tokens", "70", "--ignore-eos", "--endpoint", "completions", "--detailed",
            "--json", str(tmp_path / "random.json"), "--png", str(tmp_path / "random.png"),
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        figures = json.loads((tmp_path / "random.json").read_text())
        assert figures["input_lens"] == [33] * 5
        assert [len(gaps) for gaps in figures["itls"]] == [2] * 5  # 70 tokens are three blocks.
        assert (tmp_path / "random.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path)  # Without a tokenizer.
    with pytest.raises(LocalServerError, match="tokenizer"), local_server(directory):
        pass
