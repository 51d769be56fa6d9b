"""The table of fields as a page of the docs: ``python -m cdlm.server.openai.fields.page > docs/fields.md``."""

import json
import sys
from collections.abc import Iterator

from cdlm.server.openai.fields.row import ANTHROPIC, INCEPTION, NOTHING, PEERS, ROUTES, Row, Verdict
from cdlm.server.openai.fields.table import TABLE

_HEAD = f"""# Fields of requests

Made by `python -m cdlm.server.openai.fields.page` from the table in `server/openai/fields/`, which
requests are read by. It has every field that requests of {", ".join(PEERS[:-1])} or {PEERS[-1]}
may have on these routes, those of {ANTHROPIC}'s API on the routes of messages, and those of
{INCEPTION}'s on `/fim/completions` and `/edit/completions`. A field has its effect, or is refused
with a 400 that names it, or is a hint without effect. A name that is in no list is refused too, at
every depth, and the message suggests the nearest one. `null` means absent everywhere.

Objects inside of bodies are named by their paths: `tools[].function` is the function of a tool.
Blocks of messages are named by their types: `content[] (text)` is a text, wherever it is.
"""

_SECTIONS: dict[Verdict, tuple[str, str]] = {
    "honored": ("Honored", "[Parameters](parameters.md) says what each takes."),
    "harmless": ("Accepted without effect", "With any value."),
    "refused": (
        "Refused",
        'Accepted only with a value that asks for nothing: `false`, `""`, `[]`, `{}`, or one that is listed.',
    ),
}


def page() -> Iterator[str]:
    """The page, piece by piece."""
    yield _HEAD
    for verdict, (title, about) in _SECTIONS.items():
        rows = sorted((row for row in TABLE if row.verdict == verdict), key=lambda row: (row.name, row.places))
        yield f"\n## {title}\n\n{about}\n\n"
        if verdict == "honored":
            yield "| field | where | who else has it |\n|---|---|---|\n"
            yield from (f"| `{row.name}` | {_where(row)} | {_peers(row)} |\n" for row in rows)
        elif verdict == "harmless":
            yield "| field | where | who else has it | why |\n|---|---|---|---|\n"
            yield from (f"| `{row.name}` | {_where(row)} | {_peers(row)} | {row.note} |\n" for row in rows)
        else:
            yield "| field | where | who else has it | instead, or why | asks for nothing |\n|---|---|---|---|---|\n"
            yield from (
                f"| `{row.name}` | {_where(row)} | {_peers(row)} | {row.note} | {_idle(row)} |\n" for row in rows
            )


def _where(row: Row) -> str:
    return ", ".join(f"`{place.removeprefix('/v1') if place in ROUTES else place}`" for place in row.places)


def _peers(row: Row) -> str:
    return ", ".join(row.peers)


def _idle(row: Row) -> str:
    usual = set(map(json.dumps, NOTHING))
    return ", ".join(f"`{value}`" for value in map(json.dumps, row.idle) if value not in usual)


if __name__ == "__main__":
    sys.stdout.writelines(page())
