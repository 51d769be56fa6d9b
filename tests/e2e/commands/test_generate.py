"""``cdlm generate`` asks a chat model as its chat template says, and loads what ``cdlm serve`` loads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdlm.cli.main import app
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.server.settings import ServerSettings
from tests.support.models.hf_checkpoints import build_dream
from tests.unit.server.routes.test_prompts import SOURCE


def answer(directory: Path, prompt: str, max_tokens: int) -> str:
    """What the engine and transformers' tokenizer make of a prompt's text."""
    tokenizer = load_tokenizer(directory)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    llm = OfflineEngine(EngineOptions(model=str(directory), device="cpu", max_num_seqs=1))
    [done] = llm.generate([GenerateRequest(request_id="0", prompt_ids=ids, max_tokens=max_tokens)])
    return str(tokenizer.decode(done.token_ids, skip_special_tokens=True))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["generate", *arguments])


def generate(*arguments: str) -> str:
    result = run(*arguments, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("\n")
    return result.stdout[:-1]


def test_the_bundled_model_is_asked_as_a_chat() -> None:
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    messages = [{"role": "user", "content": "hi"}]
    chat = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    asked = answer(BUNDLED_STUDENT, chat, 24)
    plain = answer(BUNDLED_STUDENT, "hi", 24)
    assert asked != plain
    assert generate("hi", "--max-tokens", "24") == asked
    assert generate("hi", "--max-tokens", "24", "--raw") == plain


def test_a_system_message_and_a_template_of_ones_own(tmp_path: Path) -> None:
    directory, template = build_dream(tmp_path / "model"), tmp_path / "own.jinja"
    template.write_text(SOURCE)
    shared = ("he", "--model", str(directory), "--max-tokens", "8", "--threads", "1")
    chatml = "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nhe<|im_end|>\n<|im_start|>assistant\n"
    assert generate(*shared, "--system", "be") == answer(directory, chatml, 8)
    own = "<|user|>he<|endoftext|><|assistant|>"
    assert generate(*shared, "--chat-template", str(template)) == answer(directory, own, 8)
    for extra, message in [
        (("--system", "be", "--raw"), "--system is a message of a chat, and --raw sends none"),
        (("--max-model-len", "1"), "--max-model-len='1'"),
        (("--quantization", "int3"), "--quantization='int3'"),
        (("--revision", "main"), "is a directory, not an id on the Hub"),
        (("--chat-template", "/nowhere.jinja"), "chat template /nowhere.jinja: cannot be read"),
    ]:
        result = run(*shared, *extra)
        assert result.exit_code in (1, 2), result.stdout
        assert message in result.stderr
        assert isinstance(result.exception, SystemExit)  # No traceback.


def test_a_checkpoint_without_a_chat_template_gets_the_prompt_alone(tmp_path: Path) -> None:
    directory = build_dream(tmp_path)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    # Without <|im_start|> its format's own template would be mere text.
    config["added_tokens_decoder"] = {
        ident: token | {"content": token["content"].replace("im_", "x_")}
        for ident, token in config["added_tokens_decoder"].items()
    }
    del config["chat_template"]
    path.write_text(json.dumps(config))
    assert load_tokenizer(directory).chat_template is None
    shared = ("he", "--model", str(directory), "--max-tokens", "8")
    assert generate(*shared) == generate(*shared, "--raw") == answer(directory, "he", 8)
    result = run(*shared, "--system", "be")
    assert (result.exit_code, "has no chat template" in result.stderr) == (1, True)


def test_help_has_every_flag_that_loads_a_model() -> None:
    shown = run("--help").stdout
    batches = {"max_num_seqs", "max_num_batched_tokens", "max_prefill_tokens", "enable_prefix_caching"}
    for name in EngineOptions.model_fields:
        flag = "--" + name.replace("_", "-")
        assert name in ServerSettings.model_fields
        assert (f"{flag} " in shown) == (name not in batches), flag
    for flag in ("--revision", "--chat-template", "--raw", "--system"):
        assert flag in shown


@pytest.mark.parametrize("name", ["CDLM_MODEL", "CDLM_MAX_TOKENZ"])
def test_variables_are_those_of_serve(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/nowhere")
    result = run("hi")
    assert result.exit_code in (1, 2)
    assert ("/nowhere: no such" if name == "CDLM_MODEL" else name) in result.stderr


def test_no_command_loads_torch_before_it_runs() -> None:
    # How its threads wait is read once, when it is loaded.
    code = (
        "import cdlm.cli.main, sys\nfrom cdlm.cli.commands import COMMANDS, load_command\n"
        "for name in COMMANDS: load_command(name)\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_decoding_parameter_that_a_flag_can_say_has_one() -> None:
    helped = run("--help").stdout
    for name in [
        name for name, field in DecodingParams.model_fields.items() if not isinstance(field.default, dict | list)
    ]:
        assert f"--{name.replace('_', '-')} " in helped, name
        assert helped.count(f"--{name.replace('_', '-')} ") == 1, name
    # The model is unsure of what follows: sixty draws were sixty texts; one of "hi" is its greedy answer at times.
    asked = ("12 34 56 78", "--max-tokens", "24")
    greedy = generate(*asked)
    drawn = {generate(*asked, "--temperature", "2", *seed) for seed in ([], [], ["--seed", "3"])}
    assert len(drawn | {greedy}) == 4
    assert generate(*asked, "--temperature", "2", "--top-k", "1") == greedy
    assert generate(*asked, "--temperature", "2", "--seed", "3") in drawn
    for flags, name in ((["--temperature", "2.5"], "--temperature"), (["--top-p", "-1"], "--top-p")):
        wrong = run("hi", *flags)
        assert wrong.exit_code == 2
        assert f"Invalid value for {name}" in wrong.stderr
