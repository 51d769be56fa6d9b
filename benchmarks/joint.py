"""``python -m benchmarks.joint URL``: joint decisions beside those by the chain rule, on held-out word problems.

Each problem is asked three questions: which of four numbers is the answer, whether it is above 50, and how large it is
on a scale of three levels.
"""

import random
from typing import Annotated, Any

import httpx
import typer

from cdlm.training.data.mixture import draw_problems

_LEVELS = ((20, "small"), (60, "middle"), (10**9, "large"))


def questions(answer: int, draws: random.Random) -> tuple[list[dict[str, Any]], list[Any]]:
    """The questions about a problem, and what is right."""
    numbers = {answer}
    while len(numbers) < 4:
        numbers.add(max(0, answer + draws.randint(-9, 9)))
    order = sorted(numbers, key=lambda _: draws.random())
    asked: list[dict[str, Any]] = [
        {"type": "choice", "instructions": "What is the answer?", "choices": [{"value": str(each)} for each in order]},
        {"type": "predicate", "instructions": "The answer is above 50."},
        {
            "type": "score",
            "instructions": "How large is the answer?",
            "levels": [{"label": label} for _, label in _LEVELS],
        },
    ]
    level = next(number for number, (most, _) in enumerate(_LEVELS) if answer <= most)
    return asked, [str(answer), answer > 50, level]


def chosen(answers: list[dict[str, Any]]) -> list[Any]:
    """The likeliest answer to each question."""
    choice, predicate, score = answers
    levels = [each["probability"] for each in score["probabilities"]]
    return [choice["choice"], predicate["probability"] > 0.5, levels.index(max(levels))]


def main(
    url: Annotated[str, typer.Argument(help="The server.")],
    count: Annotated[int, typer.Option(min=1, help="How many problems.")] = 50,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
) -> None:
    """Prints right answers, agreement, and tokens."""
    draws = random.Random(seed)
    right = {False: [0, 0, 0], True: [0, 0, 0]}
    tokens, agree = {False: 0, True: 0}, [0, 0, 0]
    with httpx.Client(base_url=url, timeout=600) as client:
        for problem in draw_problems("words", count, seed, "held_out"):
            asked, truth = questions(int(problem.check), draws)
            picks = {}
            for joint in (False, True):
                body = {"input": problem.prompt, "questions": asked, "joint": joint}
                found = client.post("/v1/decisions", json=body).raise_for_status().json()
                picks[joint] = chosen(found["answers"])
                tokens[joint] += found["usage"]["input_tokens"]
                for number, (pick, wanted) in enumerate(zip(picks[joint], truth, strict=True)):
                    right[joint][number] += pick == wanted
            for number, (first, second) in enumerate(zip(picks[False], picks[True], strict=True)):
                agree[number] += first == second
    typer.echo("| question | right, chain rule | right, joint | same answer |\n|---|---|---|---|")
    for number, name in enumerate(("one of 4 numbers", "above 50", "one of 3 levels")):
        shares = [right[False][number], right[True][number], agree[number]]
        typer.echo(f"| {name} | " + " | ".join(f"{share / count:.0%}" for share in shares) + " |")
    typer.echo(f"\ntokens per request: {tokens[False] / count:.0f} and {tokens[True] / count:.0f}")


if __name__ == "__main__":
    typer.run(main)
