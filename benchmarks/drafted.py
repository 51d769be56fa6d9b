"""Tokens per forward, and per second of processor time, of a model with its drafts and without, by kind of text.

    OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python -m benchmarks.drafted --base BASE --requests 1,4

Answers are greedy, or drawn with a seed each. Prompts are chat (``benchmarks/chats.py``) and held-out problems.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedTokenizerBase

from benchmarks.chats import PROMPTS
from cdlm.model.assets import SMOL_DRAFTS, SMOL_TASKS
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.training.natural.problems.measured import held_out_functions, measured_words


def main(
    base: Annotated[Path, typer.Option(help="Checkpoint directory or GGUF file of the base.")],
    tasks: Annotated[Path, typer.Option(help="Adapter that is merged.")] = SMOL_TASKS,
    drafts: Annotated[Path, typer.Option(help="Adapter that drafts.")] = SMOL_DRAFTS,
    prompts: Annotated[int, typer.Option(help="Prompts of each kind.")] = 16,
    tokens: Annotated[int, typer.Option(help="Most tokens per answer.")] = 80,
    requests: Annotated[str, typer.Option(help="Numbers of requests at a time.")] = "1",
    pairs: Annotated[int, typer.Option(help="Pairs of runs.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    draft_rows: Annotated[int | None, typer.Option(help="Rows of a step that drafts; measured by default.")] = None,
) -> None:
    """Prints a line per kind of text and number of requests at a time."""
    texts = {
        "chat": list(PROMPTS[:prompts]),
        "problems": [problem.prompt for problem in measured_words(prompts, 0)],
        "functions": [problem.prompt for problem in held_out_functions(prompts, 0)],
    }
    tokenizer = load_tokenizer(base)
    options = {"model": str(base), "adapter": str(tasks), "dtype": dtype, "max_model_len": 1024, "max_num_seqs": 16}
    plain, drafting = (
        Engine(EngineOptions.model_validate({**options, **more}))
        for more in ({}, {"draft_adapter": str(drafts), "draft_rows": draft_rows})
    )
    for kind, given in texts.items():
        ids = [_prompt_ids(tokenizer, text) for text in given]
        for count in map(int, requests.split(",")):
            made_of = (ids, count, tokens, temperature)
            found = [(serve(plain, *made_of), serve(drafting, *made_of)) for _ in range(pairs)]
            ratios = sorted(first[2] / second[2] for first, second in found)
            written, forwards, _ = found[0][1]
            same = sum(one == two for one, two in zip(found[0][0][0], written, strict=True))
            made = sum(len(answer) for answer in written)
            typer.echo(
                f"{kind}, {count} at a time: {made / forwards:.2f} tokens per forward, "
                f"{ratios[len(ratios) // 2]:.2f} times the tokens per second ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
                f"{same} of {len(ids)} answers the same"
            )


def serve(
    engine: Engine, prompts: list[list[int]], count: int, tokens: int, temperature: float
) -> tuple[list[list[int]], int, float]:
    """Serves prompts, ``count`` at a time.

    Returns:
        The answers, in how many forwards of a request each they were written, and seconds of processor time.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    waiting, running, forwards = list(range(len(prompts))), 0, 0
    started = time.process_time()
    while waiting or running:
        while waiting and running < count:
            number = waiting.pop(0)
            params = DecodingParams(temperature=temperature, seed=number if temperature else None)
            request = GenerateRequest(
                request_id=str(number), prompt_ids=prompts[number], max_tokens=tokens, params=params
            )
            engine.add(request)
            running += 1
        for output in engine.step().outputs:
            answers[int(output.request_id)] += output.token_ids
            forwards += bool(output.token_ids)
            running -= output.finish_reason is not None
    return answers, forwards, time.process_time() - started


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    turn = [{"role": "user", "content": text}]
    made = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    return list(tokenizer.encode(made, add_special_tokens=False))


if __name__ == "__main__":
    typer.run(main)
