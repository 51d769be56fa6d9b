"""The prompts of a load: problems, random text of a given length, or a file."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx

from cdlm.cli.bench.client import Endpoint
from cdlm.training.data.mixture import ScoredTask, draw_problems

BUILT_IN = (*get_args(ScoredTask), "random")
_HUMAN = ("human", "user")


class PromptError(RuntimeError):
    """A set of prompts cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: a text, token ids, or the messages of a chat; perhaps with its own ``max_tokens``."""

    content: str | list[int] | list[dict[str, Any]]
    max_tokens: int | None = None

    def fields(self, endpoint: Endpoint) -> dict[str, Any]:
        """The prompt as fields of a request body."""
        own = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        if endpoint == "completions":
            return {"prompt": self.content, **own}
        messages = self.content if isinstance(self.content, list) else [{"role": "user", "content": self.content}]
        return {"messages": messages, **own}


def problem_prompts(task: ScoredTask, count: int, seed: int) -> list[Prompt]:
    """``count`` distinct held-out problems, determined by the seed."""
    return [Prompt(problem.prompt) for problem in draw_problems(task, count, seed)]


async def random_prompts(
    client: httpx.AsyncClient, model: str, endpoint: Endpoint, count: int, seed: int, tokens: int
) -> tuple[list[Prompt], bool]:
    """Random prompts of ``tokens`` tokens, and whether tokens were counted.

    The server's ``/tokenize`` counts; if it has none, prompts have ``tokens`` words. In a chat, the template's tokens
    come on top.
    """
    rng = random.Random(seed)
    words = sorted({word for problem in draw_problems("words", 200, 0) for word in problem.prompt.split()})
    texts = [" ".join(rng.choices(words, k=tokens)) for _ in range(count)]
    prompts = []
    for text in texts:
        found = await _ask(client, "/tokenize", {"model": model, "prompt": text}, "tokens")
        if not isinstance(found, list) or len(found) < tokens:
            return [Prompt(text) for text in texts], False
        ids = found[:tokens]
        if endpoint == "completions":
            prompts.append(Prompt(ids))
            continue
        cut = await _ask(client, "/detokenize", {"model": model, "tokens": ids}, "prompt")
        if not isinstance(cut, str):
            return [Prompt(text) for text in texts], False
        prompts.append(Prompt(cut))
    return prompts, True


async def _ask(client: httpx.AsyncClient, path: str, body: dict[str, Any], name: str) -> object:
    """Posts ``body``; returns field ``name`` of the response, or ``None`` if the server does not have the path."""
    try:
        response = await client.post(path, json=body)
        return response.json().get(name) if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None


def read_prompts(path: Path, endpoint: Endpoint) -> list[Prompt]:
    """Reads prompts from a JSON array or JSON Lines (docs/benchmarking.md lists the formats).

    Raises:
        PromptError: the file cannot be read, is empty, or has another format.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read prompts ({', '.join(BUILT_IN)}, or a file): {error}") from error
    prompts = [_prompt(item, where, endpoint) for where, item in _items(path, text)]
    if not prompts:
        raise PromptError(f"{path} holds no prompt")
    return prompts


def _items(path: Path, text: str) -> Iterator[tuple[str, object]]:
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError:
            items = None  # Read as lines, for an error that names the line.
        if isinstance(items, list):
            yield from ((f"{path}: item {number}", item) for number, item in enumerate(items, 1))
            return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{path}: line {number}", json.loads(line)
            except ValueError as error:
                raise PromptError(f"{path}: line {number} is not JSON: {error}") from error


def _prompt(item: object, where: str, endpoint: Endpoint) -> Prompt:
    if isinstance(item, str):
        item = {"prompt": item}
    if not isinstance(item, dict):
        raise PromptError(f"{where}: expected a text or an object with prompt, messages or conversations")
    own = item.get("max_tokens", item.get("output_tokens"))
    if own is not None and (not isinstance(own, int) or isinstance(own, bool) or own < 1):
        raise PromptError(f"{where}: max_tokens must be a whole number above 0, not {own!r}")
    if "conversations" in item:
        name, content = "conversations", _first_said(item["conversations"])
    else:
        name = "prompt" if "prompt" in item else "messages"
        content = item.get(name)
    if name == "messages":
        if not isinstance(content, list) or not content or not all(isinstance(turn, dict) for turn in content):
            raise PromptError(f"{where}: expected a text or an object with prompt, messages or conversations")
        if endpoint != "chat":
            raise PromptError(f"{where}: messages need --endpoint chat")
        return Prompt(content, own)
    if not isinstance(content, str) or not content:
        raise PromptError(f"{where}: {name} holds no text")
    return Prompt(content, own)


def _first_said(turns: object) -> object:
    """The first human turn of a ShareGPT conversation."""
    said = (turn for turn in turns if isinstance(turn, dict)) if isinstance(turns, list) else iter(())
    return next((turn.get("value") for turn in said if turn.get("from") in _HUMAN), None)
