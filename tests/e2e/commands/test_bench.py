"""``cdlm bench`` against a server that knows OpenAI's API and nothing else."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdlm.cli.main import app
from tests.e2e.commands.other_server import GAP_S, TOKENS, other_server


def bench(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def load(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "result.json"
    code, output, errors = bench("--json", str(file), *arguments)
    assert code == 0, output + errors
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def prompt_file(tmp_path: Path, *prompts: object) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return str(path)


def test_a_server_without_usage_and_metrics(tmp_path: Path) -> None:
    with other_server() as server:
        result = load(tmp_path, "--url", server.url, "--requests", "6", "--concurrency", "2", "--detailed")
    assert (result["completed"], result["failed"], result["num_prompts"]) == (6, 0, 6)
    assert (result["model_id"], result["backend"]) == ("first", "openai")
    assert (result["request_rate"], result["max_concurrency"]) == ("inf", 2)
    assert (result["total_output_tokens"], result["output_tokens_from"]) == (6 * TOKENS, "events")
    assert result["total_input_tokens"] is result["denoise_steps_per_block"] is None
    assert result["max_concurrent_requests"] == 2
    assert result["output_throughput"] == pytest.approx(6 * TOKENS / result["duration"])
    assert result["request_throughput"] == pytest.approx(6 / result["duration"])
    assert GAP_S * 900 < result["p50_ttft_ms"] <= result["p90_ttft_ms"] <= result["p99_ttft_ms"]
    assert result["median_itl_ms"] > GAP_S * 900
    assert result["p99_e2el_ms"] >= result["p50_e2el_ms"] > GAP_S * TOKENS * 900
    assert [len(gaps) for gaps in result["itls"]] == [TOKENS - 1] * 6
    assert result["errors"] == [""] * 6
    assert all("ignore_eos" not in body for body in server.bodies)


def test_usage_counts_where_there_is_one_and_a_chat_is_a_chat(tmp_path: Path) -> None:
    with other_server(usage=True) as server:
        result = load(
            tmp_path, "--url", server.url + "/v1", "--endpoint", "chat", "--requests", "3", "--model-name", "second",
            "--ignore-eos", "--max-tokens", "9",
        )  # fmt: skip
    assert (result["total_output_tokens"], result["output_tokens_from"]) == (3 * 2 * TOKENS, "usage")
    assert (result["total_input_tokens"], result["backend"]) == (9, "openai-chat")
    for body in server.bodies:
        assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ("second", 9, True)
        assert body["messages"][0]["role"] == "user"
    # The event of the role comes at once; the first token does not.
    assert result["p50_ttft_ms"] > GAP_S * 900
    tpot = (result["mean_e2el_ms"] - result["mean_ttft_ms"]) / (2 * TOKENS - 1)
    assert result["mean_tpot_ms"] == pytest.approx(tpot)


def test_no_error_is_lost(tmp_path: Path) -> None:
    prompts = ["fine", "overloaded", "breaks off", "garbles", "complains", "overloaded"]
    file = tmp_path / "result.json"
    with other_server() as server:
        code, output, errors = bench(
            "--url", server.url, "--prompts", prompt_file(tmp_path, *prompts), "--json", str(file), "--detailed",
            "--concurrency", "1",
        )  # fmt: skip
    assert code == 0
    result = json.loads(file.read_text())
    assert (result["completed"], result["failed"], sum(result["error_counts"].values())) == (1, 5, 5)
    for message, expected in zip(
        result["errors"], ["", "503", "without [DONE]", "malformed event", "out of memory", "503"], strict=True
    ):
        assert expected in message
        assert message[:40] in errors
    assert "2 failed: 503" in errors
    assert result["total_output_tokens"] == TOKENS


def test_a_load_without_an_answer_fails(tmp_path: Path) -> None:
    with other_server() as server:
        code, output, errors = bench("--url", server.url, "--prompts", prompt_file(tmp_path, "overloaded"))
    assert code == 1
    assert "1 failed: 503" in errors
    assert "failed" in output


def test_requests_arrive_as_the_seed_says(tmp_path: Path) -> None:
    starts, late = [], 0.0
    for seed in ("3", "3", "4"):
        with other_server() as server:
            result = load(
                tmp_path, "--url", server.url, "--requests", "8", "--request-rate", "10", "--seed", seed, "--detailed"
            )
        assert (result["request_rate"], result["max_concurrency"]) == (10, None)
        assert len({body["prompt"] for body in server.bodies}) == 8
        gaps = [later - earlier for earlier, later in pairwise(server.arrivals)]
        assert max(gaps) > 1.5 * min(gaps)  # A clock would send them at equal distances.
        starts.append(result["start_times"])
        late = max(late, result["max_send_lag_ms"] / 1000)
    # Two loads of one seed differ by no more than this machine was late.
    assert starts[0] == pytest.approx(starts[1], abs=late)
    assert starts[0] != pytest.approx(starts[2], abs=late)


def test_an_infinite_rate_sends_all_at_once(tmp_path: Path) -> None:
    with other_server() as server:
        result = load(tmp_path, "--url", server.url, "--requests", "12", "--request-rate", "inf")
    assert (result["request_rate"], result["max_concurrency"]) == ("inf", None)
    assert result["max_concurrent_requests"] == 12


def test_random_prompts_without_a_tokenizer_are_words(tmp_path: Path) -> None:
    with other_server() as server:
        code, _, errors = bench(
            "--url", server.url, "--prompts", "random", "--input-tokens", "17", "--requests", "3", "--warmup", "2"
        )
    assert code == 0
    assert "no /tokenize" in errors
    assert [len(body["prompt"].split()) for body in server.bodies] == [17] * 5
    assert len({body["prompt"] for body in server.bodies}) == 3


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    with other_server() as server:
        assert bench("--url", server.url, "--requests", "3", "--png", str(picture))[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_refused_before_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with other_server() as server:
        code, _, errors = bench("--url", server.url, "--png", "/tmp/load.png")
        assert server.bodies == []
    assert code == 1
    assert "--png needs matplotlib: pip install 'cdlm-serve[training]'" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--request-rate", "2", "--concurrency", "2"), "--request-rate and --concurrency exclude each other"),
        (("--request-rate", "0"), "--request-rate"),
        (("--request-rate", "nan"), "--request-rate"),
        (("--requests", "0"), "--requests"),
        (("--endpoint", "poems"), "--endpoint"),
        (("--prompts", "poems"), "poems"),
        (("--json", "/nowhere/x.json"), "/nowhere"),
        (("--png", "/nowhere/x.png"), "/nowhere"),
        (("--detailed",), "--json"),
        (("--url", "http://127.0.0.1:9"), "cannot reach http://127.0.0.1:9"),
        (("--url", "nonsense"), "cannot reach"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], message: str) -> None:
    code, output, errors = bench(*arguments)
    assert code in (1, 2)
    assert message in errors.replace("\n", " ")
