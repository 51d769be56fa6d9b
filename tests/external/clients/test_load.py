"""Independent load generators, with the bundled tokenizer from a directory."""

import json
import re
from pathlib import Path

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from tests.external.clients.conftest import HERE, Run
from tests.external.clients.environments import python_of
from tests.external.clients.peer_sources import source_of
from tests.support.server.served import Server, running_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(2400)]


def test_guidellm(server: Server, run: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run(
        python_of("guidellm"), "-m", "guidellm", "run",
        "--backend", f"kind=openai_http,target={server.url},model=cdlm-nano",
        "--profile", "kind=concurrent,streams=2",
        "--constraint", "kind=max_requests,count=8",
        "--tokenizer", f"kind=huggingface_auto,model={BUNDLED_STUDENT}",
        "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=48",
        "--output", f"kind=json,path={report}", "--disable-console-interactive",
        GUIDELLM__MAX_WORKER_PROCESSES="1",
    )  # fmt: skip
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (8, 0, 0)
    # What was asked for is what the usage of the streams says: max_tokens is exact, the end token is passed over.
    assert benchmark["metrics"]["output_token_count"]["successful"]["min"] == 48
    assert benchmark["metrics"]["output_token_count"]["successful"]["max"] == 48


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_aiperf(server: Server, run: Run, tmp_path: Path, endpoint: str) -> None:
    run(
        python_of("aiperf").with_name("aiperf"), "profile",
        "--model", "cdlm-nano", "--url", server.url, "--endpoint-type", endpoint, "--streaming",
        "--tokenizer", BUNDLED_STUDENT, "--use-server-token-count",
        "--concurrency", "2", "--request-count", "8", "--isl", "32", "--osl", "48", "--extra-inputs", "ignore_eos:true",
        "--ui", "none", "--workers-max", "1", "--artifact-dir", tmp_path,
        HF_HUB_OFFLINE="",  # Told that there is no hub, it takes no directory either.
    )  # fmt: skip
    found = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    assert (found["completed_request_count"]["avg"], found["error_summary"]) == (8, [])
    assert (found["output_token_count"]["min"], found["output_token_count"]["max"]) == (48, 48)


def test_vllm_bench(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with running_server(tmp_path / "log", "--metrics-compat", "vllm") as counted:
        said = run(
            python_of("vllm-bench"), HERE / "scripts" / "vllm_bench.py",
            "--backend", "openai", "--base-url", counted.url, "--model", "cdlm-nano", "--tokenizer", BUNDLED_STUDENT,
            "--dataset-name", "random", "--input-len", "32", "--output-len", "48",
            "--num-prompts", "8", "--max-concurrency", "2", "--disable-tqdm",
            "--save-result", "--result-dir", tmp_path, "--result-filename", report.name,
            PYTHONPATH=str(source_of("vllm")),
        )  # fmt: skip
        steps = counted.metric("cdlm_denoise_steps_per_block_sum")
        counted.wait_idle()
    found = json.loads(report.read_text())
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (8, 0, 8 * 48)
    assert steps > 0
    _, _, table = said.partition("Diffusion Decoding")
    assert re.findall(r"Denoising steps: +(\d+)", table) == [f"{steps:g}"]
