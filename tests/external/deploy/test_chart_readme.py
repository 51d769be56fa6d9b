"""The chart's README lists its values as they are."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.places import ROOT

CHART = ROOT / "deploy/helm/cdlm-serve"
ROW = re.compile(r"\| (\S+) \| (\w+) \| `(.*)` \| (.+) \|")


def leaves(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values as the README lists them: free-form objects whole, the chart's own by their fields."""
    for key, value in values.items():
        part = schema["properties"][key]
        if "properties" in part and key != "resources":
            yield from leaves(value, part, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def comments(text: str) -> dict[str, str]:
    """The ``# --`` comment above each value."""
    found: dict[str, str] = {}
    path: list[str] = []
    comment = None
    for line in text.splitlines():
        if line.lstrip().startswith("# -- "):
            comment = line.split("# -- ", 1)[1]
        elif match := re.match(r"( *)(\w+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment is not None:
                found[".".join(path)] = comment
            comment = None
    return found


def kind(value: Any) -> str:
    names = {bool: "bool", int: "int", str: "string", list: "list", dict: "object"}
    return names[type(value)]


def rows() -> list[str]:
    text = (CHART / "values.yaml").read_text()
    said = comments(text)
    schema = json.loads((CHART / "values.schema.json").read_text())
    return [
        f"| {key} | {kind(value)} | `{json.dumps(value, separators=(',', ':'))}` | {said[key]} |"
        for key, value in leaves(yaml.safe_load(text), schema)
    ]


def test_every_value_is_listed_with_its_default_and_comment() -> None:
    listed = [line for line in (CHART / "README.md").read_text().splitlines() if ROW.fullmatch(line)]
    assert listed == rows()
    assert len(listed) > 40
