"""Collects a model's answers to the task adapter's prompts, through a temporary server."""

import asyncio
import logging
from pathlib import Path

from rich.console import Console

from cdlm.cli.bench.client import complete, make_client, served_model
from cdlm.cli.display import progress_bar
from cdlm.cli.local_server import local_server
from cdlm.training.natural.answers import Asked, append, pending
from cdlm.training.natural.config import TaskAdapterConfig


def collect_answers(config: TaskAdapterConfig, directory: Path) -> None:
    """Collects the answers that ``directory`` lacks; a stopped run continues.

    Raises:
        TrainingError: a source of prompts is missing.
        LocalServerError, CompletionError: the server did not start, or refused a request.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs every request.
    directory.mkdir(parents=True, exist_ok=True)
    asked = pending(config.answers, directory, config.seed)
    if asked:
        with local_server(config.model, config.answers.adapter) as address:
            asyncio.run(_collect(address, asked, config, directory))


async def _collect(address: str, asked: list[Asked], config: TaskAdapterConfig, directory: Path) -> None:
    section = config.answers
    gate = asyncio.Semaphore(section.concurrency)
    async with make_client(address, None, section.concurrency) as client:
        name = await served_model(client)
        with progress_bar(Console(stderr=True)) as progress:
            bar = progress.add_task("answers", total=len(asked))

            async def answer(one: Asked) -> None:
                async with gate:
                    body = {
                        "model": name,
                        "messages": [{"role": "user", "content": one.problem.prompt}],
                        "max_tokens": section.max_tokens,
                        "temperature": section.temperature,
                        "seed": one.draw,
                        "stop": one.stop,
                    }
                    done = await complete(client, body, "chat")
                    row = await asyncio.to_thread(one.row, done.text, finished=done.finish_reason == "stop")
                append(directory, one.kind, row)
                progress.advance(bar)

            async with asyncio.TaskGroup() as group:
                for one in asked:
                    group.create_task(answer(one))
