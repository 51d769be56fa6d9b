"""Flags, variables, defaults, and what is refused."""

import os
from pathlib import Path

import pytest

from cdlm.scheduler.sizes import parse_bytes
from cdlm.server.access.keys import ApiKey, digest
from cdlm.server.command_line import SettingsError, parse_settings
from cdlm.server.settings import ServerSettings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CDLM_"):
            monkeypatch.delenv(name)


def parse(*argv: str) -> ServerSettings:
    return parse_settings(["--model", "/tmp/some-model", *argv])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 512 * 2**20), ("2GiB", 2**31), ("1.5 GB", 1_500_000_000), ("4096", 4096), ("1kb", 1000)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected
    assert parse("--kv-cache-memory", text).kv_cache_memory == expected


def test_defaults_and_names() -> None:
    settings = parse()
    assert (settings.host, settings.port, settings.max_waiting_requests) == ("127.0.0.1", 8000, 1024)
    assert settings.model_name == "some-model"
    assert parse("--served-model-name", "a/b").model_name == "a/b"
    assert settings.api_keys == []


def test_a_flag_beats_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDLM_PORT", "9001")
    monkeypatch.setenv("CDLM_MAX_NUM_SEQS", "3")
    settings = parse("--port", "9002")
    assert (settings.port, settings.max_num_seqs) == (9002, 3)


def test_keys_come_from_flags_variable_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team\nfrom-file\n\n")
    assert parse("--api-key", "a", "--api-key", "b", "--api-key-file", str(file)).api_keys == [
        ApiKey("key-1", digest(b"a")),
        ApiKey("key-2", digest(b"b")),
        ApiKey("line-2", digest(b"from-file")),
    ]
    monkeypatch.setenv("CDLM_API_KEY", "x,y")
    settings = parse()
    assert [key.digest for key in settings.api_keys] == [digest(b"x"), digest(b"y")]
    assert "x" not in repr(settings.api_key)
    with pytest.raises(SettingsError, match="two API keys have the same key: key-1 and key-2"):
        parse("--api-key", "a", "--api-key", "a")


def test_the_number_of_rows_is_a_number_or_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse().max_num_seqs == parse().rows == 64
    assert parse("--max-num-seqs", "7").engine_options().rows == 7
    settings = parse("--max-num-seqs", "auto")
    assert (settings.max_num_seqs, settings.engine_options().max_num_seqs, settings.rows) == ("auto", "auto", 64)
    monkeypatch.setenv("CDLM_MAX_NUM_SEQS", "auto")
    assert parse().max_num_seqs == "auto"
    for value in ("0", "-3", "1.5", "many", "AUTO"):
        with pytest.raises(SettingsError, match=rf"^--max-num-seqs='{value}': expected auto, or a whole number of at"):
            parse(f"--max-num-seqs={value}")


def test_engine_options_carry_the_values() -> None:
    options = parse("--block-length", "16", "--confidence-threshold", "0.5", "--threads", "1").engine_options()
    assert (options.model, options.block_length, options.confidence_threshold, options.threads) == (
        "/tmp/some-model",
        16,
        0.5,
        1,
    )


def test_the_rule_and_its_number_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse("--decoding", "fixed_steps", "--steps-per-block", "6", "--entropy-bound", "0").engine_options()
    assert (options.decoding, options.steps_per_block, options.entropy_bound) == ("fixed_steps", 6, 0.0)
    monkeypatch.setenv("CDLM_DECODING", "factor")
    monkeypatch.setenv("CDLM_DECODING_FACTOR", "1.5")
    options = parse().engine_options()
    assert (options.decoding, options.decoding_factor, options.steps_per_block) == ("factor", 1.5, None)
    assert (parse("--edit-threshold", "0.9").engine_options().edit_threshold, options.edit_threshold) == (0.9, None)
    for flag, value in (
        ("decoding", "greedy"), ("steps-per-block", "0"), ("decoding-factor", "0"), ("edit-threshold", "0"),
        ("edit-threshold", "1.5"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=f"--{flag}='?{value}"):
            parse(f"--{flag}", value)


def test_a_guide_model_makes_its_rule_the_default() -> None:
    assert parse().engine_options().default_rule == "threshold"
    assert parse("--guide-model", "/tmp/guide").engine_options().default_rule == "guide"
    assert parse("--guide-model", "/tmp/guide", "--decoding", "factor").engine_options().default_rule == "factor"
    with pytest.raises(SettingsError, match="--guide-model /tmp/guide needs --model"):
        parse_settings(["--guide-model", "/tmp/guide"])


def test_four_bits_are_refused_with_what_there_is() -> None:
    assert parse("--quantization", "int8").engine_options().quantization == "int8"
    with pytest.raises(SettingsError, match="--quantization='int4'.*'none', 'int8' or 'fp8'"):
        parse("--quantization", "int4")


def test_an_adapter_reaches_the_engine_and_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse("--adapter", "/tmp/some-student")
    options = settings.engine_options()
    assert (options.model, options.adapter) == ("/tmp/some-model", "/tmp/some-student")
    assert settings.model_name == "some-student"
    assert parse("--adapter", "/tmp/a", "--served-model-name", "b").model_name == "b"
    assert parse().engine_options().adapter is None
    monkeypatch.setenv("CDLM_ADAPTER", "/tmp/other-student")
    assert parse().model_name == "other-student"


def test_an_adapter_without_its_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="^--adapter /tmp/x needs --model, the checkpoint"):
        parse_settings(["--adapter", "/tmp/x"])
    monkeypatch.setenv("CDLM_MODEL", "/tmp/base")
    assert parse_settings(["--adapter", "/tmp/x"]).model == "/tmp/base"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "abc"], ["--port", "'abc'"]),
        (["--port=70000"], ["--port", "70000"]),
        (["--confidence-threshold", "1.5"], ["--confidence-threshold", "1.5"]),
        (["--confidence-threshold", "nan"], ["--confidence-threshold"]),
        (["--kv-cache-memory", "lots"], ["--kv-cache-memory", "'lots'"]),
        (["--dtype", "int8"], ["--dtype", "'int8'"]),
        (["--bogus", "1"], ["--bogus"]),
        (["--api-key-file", "/nowhere"], ["--api-key-file", "/nowhere"]),
    ],
)
def test_bad_flags_are_named(argv: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*argv)
    assert all(word in str(caught.value) for word in words), caught.value


def test_bad_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDLM_PORT", "abc")
    with pytest.raises(SettingsError, match="CDLM_PORT='abc'"):
        parse()
    monkeypatch.setenv("CDLM_PORT", "8000")
    monkeypatch.setenv("CDLM_MAX_NUM_SEQ", "3")
    with pytest.raises(SettingsError, match="CDLM_MAX_NUM_SEQ='3'.*CDLM_MAX_NUM_SEQS"):
        parse()


def test_help_describes_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_settings(["--help"])
    assert caught.value.code == 0
    assert "--kv-cache-memory" in capsys.readouterr().out


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("flags", [("--api-key", ""), ("--api-key=",), ("--api-key", " , "), ("--api-key-file", "")])
def test_an_empty_secret_on_a_flag_ends_the_start(flags: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=f"^{flags[0].rstrip('=')}: it is empty"):
        parse(*flags)


@pytest.mark.parametrize(("name", "value"), [("CDLM_API_KEY", ""), ("CDLM_API_KEY", ", "), ("CDLM_API_KEY_FILE", "")])
def test_an_empty_secret_in_a_variable_ends_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: it is empty"):
        parse()
    with pytest.raises(ValueError, match="it is empty"):
        ServerSettings()


def test_a_key_file_without_keys_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n# nobody\n")
    with pytest.raises(SettingsError, match="holds no key"):
        parse("--api-key-file", str(tmp_path / "keys"))


def test_every_other_empty_value_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = parse_settings([])
    others = [name for name in ServerSettings.model_fields if name not in ("api_key", "api_key_file")]
    for name in others:
        monkeypatch.setenv(f"CDLM_{name.upper()}", "")
    assert parse_settings([]) == expected
    flags = [f"--{name.replace('_', '-')}" for name in others]
    assert parse_settings([word for flag in flags for word in (flag, "")]) == expected
    assert parse_settings([f"{flag}=" for flag in flags]) == expected


def test_idle_connections_outlive_those_of_proxies() -> None:
    assert parse().keep_alive_timeout_s > 60
    assert parse("--keep-alive-timeout-s", "5").keep_alive_timeout_s == 5
