"""A driver of the model runner alone: some prompts, one batch, no scheduler."""

from dataclasses import dataclass, field

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import FinalizationRule
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.blocks import clean_spans, first_block_start


@dataclass
class Row:
    """A request: the prompt and every finished block, where its block begins, what is in the cache."""

    number: int
    tokens: list[int]
    prompt_length: int
    block_start: int
    pages: list[int]
    computed: int = 0
    steps: list[int] = field(default_factory=list)


def open_rows(runner: ModelRunner, prompts: list[list[int]], pages_per_row: int) -> list[Row]:
    """A row for each prompt, its first block begun."""
    rows = []
    for number, prompt in enumerate(prompts):
        pages = list(range(number * pages_per_row, (number + 1) * pages_per_row))
        row = Row(number, list(prompt), len(prompt), first_block_start(len(prompt), runner.manifest), pages)
        rule = FinalizationRule("threshold", runner.manifest.confidence_threshold)
        runner.rows.open(number, RowSettings(DecodingParams(), rule, runner.manifest.block_length, [], prompt))
        _begin(runner, row)
        rows.append(row)
    return rows


def work(runner: ModelRunner, row: Row) -> RowWork:
    """What a row needs in its next step."""
    spans = clean_spans(row.tokens, row.computed, row.block_start, row.prompt_length, runner.manifest)
    alone = runner.manifest.first_token == "autoregressive" and bool(spans) and len(row.tokens) == row.block_start
    return RowWork(row.number, row.pages, spans, row.block_start, denoise=not alone)


def decode(runner: ModelRunner, prompts: list[list[int]], max_tokens: int, pages_per_row: int) -> list[Row]:
    """All answers, of at least ``max_tokens`` tokens each: whole blocks, no end token."""
    rows = open_rows(runner, prompts, pages_per_row)
    running = list(rows)
    while running:
        for row, result in zip(running, runner.step([work(runner, row) for row in running]), strict=True):
            assert result.error is None, result.error
            row.computed = row.block_start
            if result.frontier == runner.manifest.block_length:
                row.steps.append(result.steps)
                row.tokens = row.tokens[: row.block_start] + result.tokens
                row.block_start += runner.manifest.block_length
                if len(row.tokens) - row.prompt_length < max_tokens:
                    _begin(runner, row)
        running = [row for row in running if len(row.tokens) - row.prompt_length < max_tokens]
    for row in rows:
        runner.rows.close(row.number)
    return rows


def _begin(runner: ModelRunner, row: Row) -> None:
    given, generated = row.tokens[row.block_start :], row.tokens[row.prompt_length : row.block_start]
    runner.rows.open_block(row.number, BlockStart(given, generated, 1 << 20, {}))
