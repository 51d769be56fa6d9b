"""Answers of a base model and of its task adapter to the same chat prompts, side by side on a page.

python -m benchmarks.chats --base base --adapter model/assets/cdlm-smol/tasks > page.md
"""

from pathlib import Path
from typing import Annotated

import typer

import cdlm

PROMPTS = (
    "What should I cook tonight? I have eggs, rice and an onion.",
    "Write a short thank-you note to my neighbor who watered my plants.",
    "Why do leaves turn red in autumn?",
    "Give me three names for a gray cat.",
    "How do I keep bread fresh for longer?",
    "What is the difference between weather and climate?",
    "Write two sentences about a lighthouse.",
    "How can I fall asleep faster?",
    "Who wrote Hamlet, and what is it about?",
    "Translate 'good morning' into French, Spanish and German.",
    "Suggest a weekend plan for a family in a small town.",
    "Explain what a database index is to a beginner.",
    "What is photosynthesis?",
    "Write a polite email that moves a meeting from Monday to Tuesday.",
    "Name five things that float.",
    "Is it safe to eat raw potatoes?",
    "Tell me a joke about computers.",
    "What does 'break the ice' mean?",
    "How do I remove a coffee stain from a shirt?",
    "Describe the sea to someone who has never seen it.",
    "What are the primary colors?",
    "Write a haiku about snow.",
    "How do vaccines work?",
    "Give me tips for a job interview.",
    "What is the capital of Australia, and what is it known for?",
    "Write an opening line for a mystery story.",
    "Why is the sky dark at night?",
    "What should I pack for a day of hiking?",
    "Explain gravity in two sentences.",
    "How do bees make honey?",
    "What is a good way to learn a new language?",
    "List three benefits of walking every day.",
    "Write a slogan for a bakery.",
    "What happened on the Moon in 1969?",
    "How do I introduce my dog to a new puppy?",
    "What is inflation?",
    "Recommend a gift for a grandfather who likes gardening.",
    "Summarize the story of Cinderella in three sentences.",
    "What is the best way to cut an onion without crying?",
    "Say something kind to a friend who failed an exam.",
)


def main(
    base: Annotated[str, typer.Option(help="Checkpoint directory, GGUF file or name of the base.")],
    adapter: Annotated[Path, typer.Option(help="Directory of its task adapter.")],
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 100,
) -> None:
    """Prints a Markdown page: each prompt with the greedy answers of the base and of the base with the adapter."""
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    params = cdlm.SamplingParams(max_tokens=tokens, temperature=0)
    answers = []
    for own in (None, str(adapter)):
        with cdlm.LLM(base, adapter=own, dtype="bfloat16") as llm:
            answers.append([output.text for output in llm.chat(messages, params)])
    for number, (prompt, *texts) in enumerate(zip(PROMPTS, *answers, strict=True), 1):
        quoted = ["> " + text.strip().replace("\n", "\n> ") for text in texts]
        typer.echo(f"## {number}. {prompt}\n\nBase:\n\n{quoted[0]}\n\nWith the adapter:\n\n{quoted[1]}\n")


if __name__ == "__main__":
    typer.run(main)
