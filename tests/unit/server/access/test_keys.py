"""Keys of a file: hashes, names, limits, and what is wrong with a line."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cdlm.cli.main import app
from cdlm.server.access.keys import ApiKey, check_distinct, digest, new_key, read_keys


def test_lines_with_hashes_names_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(
        f"# ours\n\nplain\nsha256:{digest(b'secret').hex()}  max_sequences=3 name=batch.2 tokens_per_minute=9000\n"
    )
    assert read_keys(path) == [
        ApiKey("line-3", digest(b"plain")),
        ApiKey("batch.2", digest(b"secret"), tokens_per_minute=9000, max_sequences=3),
    ]
    assert digest(b"plain").hex() not in repr(read_keys(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sha256:abc", "sha256: needs 64 lower-case hexadecimal digits"),
        ("k name=", "name must be 1 to 64 letters"),
        ("k name=a/b", "name must be 1 to 64 letters"),
        ("k max_sequences=0", "max_sequences must be a positive whole number"),
        ("k tokens_per_minute=1e3", "tokens_per_minute must be a positive whole number"),
        ("k requests_per_minute=²", "requests_per_minute must be a positive whole number"),
        ("k burst=3", "expected name=..., requests_per_minute=..."),
        ("secret words", "expected name=..., requests_per_minute=..."),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_told(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"good\n{line}\n")
    with pytest.raises(ValueError, match=f"keys: line 2: {message}") as error:
        read_keys(path)
    assert "secret" not in str(error.value)
    assert "words" not in str(error.value)


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ValueError, match="holds no key"):
        read_keys(tmp_path / "keys")
    with pytest.raises(ValueError, match="cannot read"):
        read_keys(tmp_path / "nowhere")


def test_keys_are_distinct() -> None:
    with pytest.raises(ValueError, match="the same name: a and a"):
        check_distinct([ApiKey("a", b"1"), ApiKey("b", b"2"), ApiKey("a", b"3")])


@given(st.text())
def test_no_line_raises_anything_else(line: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "keys"
        path.write_text(line, "utf-8", errors="replace")
        with suppress(ValueError):
            assert read_keys(path)


def test_a_fresh_key_is_recognized_by_its_line(tmp_path: Path) -> None:
    secret, line = new_key("team", requests_per_minute=60)
    (tmp_path / "keys").write_text(line)
    assert read_keys(tmp_path / "keys") == [ApiKey("team", digest(secret.encode()), requests_per_minute=60)]
    assert secret not in line
    assert new_key("team")[0] != secret


def test_the_command_shows_the_key_apart_from_its_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["key", "team", "--max-sequences", "4"])
    assert result.exit_code == 0
    (tmp_path / "keys").write_text(result.stdout)
    [key] = read_keys(tmp_path / "keys")
    assert key == ApiKey("team", digest(result.stderr.split()[-1].encode()), max_sequences=4)
    assert CliRunner().invoke(app, ["key", "a b"]).exit_code == 2
