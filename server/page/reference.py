"""``/docs``: the OpenAPI document as one page, without scripts or external files."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

router = APIRouter()

_REF = "#/components/schemas/"
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.85rem/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.7rem; border: 1px solid #8886; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.6rem 0.25rem 0; border-bottom: 1px solid #8884; }
summary { cursor: pointer; padding: 0.3rem 0; }
"""
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@router.get("/docs", include_in_schema=False)
async def reference(request: Request) -> Response:
    """The reference page, rendered from ``/openapi.json``."""
    page = "".join(render(request.app.openapi()))
    return Response(page, headers=_HEADERS, media_type="text/html")


def render(document: dict[str, Any]) -> Iterator[str]:
    """Yields the HTML of an OpenAPI document; escapes all text."""
    info = document["info"]
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
    yield '<p><a href="openapi.json">openapi.json</a></p>'
    yield "<p>A server with keys wants one of them: <code>-H 'Authorization: Bearer KEY'</code></p>"
    tag = None
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"] != tag:
                tag = operation["tags"]
                yield f"<h2>{escape(' '.join(tag))}</h2>"
            yield f"<details><summary><code>{method.upper()} {escape(path)}</code> "
            yield f"{escape(operation.get('description', ''))}</summary>"
            yield from _operation(path, operation)
            yield "</details>"
    yield "<h2>objects</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
        yield f"{escape(schema.get('description', ''))}</summary>{_fields(schema)}</details>"


def _operation(path: str, operation: dict[str, Any]) -> Iterator[str]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        yield f"<p>Body: {_type(body['schema'])}</p>"
        data = json.dumps(body["example"], indent=2).replace("'", "'\\''")
        command = f"curl localhost:8000{path} -H 'Content-Type: application/json' -d '{data}'"
        yield f"<pre>{escape(command)}</pre>"
    yield "<table><tr><th>status<th>answer<th>"
    for status, answer in operation["responses"].items():
        kinds = ", ".join(f"{escape(kind)}: {_type(media['schema'])}" for kind, media in answer["content"].items())
        yield f"<tr><td>{escape(status)}<td>{kinds}<td>{escape(answer['description'])}"
    yield "</table>"
    for kind, media in operation["responses"]["200"]["content"].items():
        if "example" in media:
            text = media["example"] if isinstance(media["example"], str) else json.dumps(media["example"], indent=2)
            yield f"<p>{escape(kind)}</p><pre>{escape(text)}</pre>"


def _fields(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    rows = []
    for name, field in schema["properties"].items():
        if "x-verdict" in field:  # Skips fields of other servers.
            continue
        about = escape(field.get("description", ""))
        if name in schema.get("required", []):
            about += " <em>always there</em>"
        elif field.get("default") not in (None, [], {}):
            about += f" <em>default {escape(json.dumps(field['default']))}</em>"
        rows.append(f"<tr><td><code>{escape(name)}</code><td>{_type(field)}<td>{about}")
    return f"<table><tr><th>field<th>type<th>{''.join(rows)}</table>"


def _type(schema: dict[str, Any]) -> str:
    """Describes a schema in a few words, with links to objects."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(choice) for choice in schema[key])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if "contentSchema" in schema:
        return _type(schema["contentSchema"])
    if "event" in schema.get("properties", {}):
        return "events of " + _type(schema["properties"]["data"])
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array":
        return f"list of ({_type(schema.get('items', {}))})"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "\u2265"), ("exclusiveMinimum", ">"), ("maximum", "\u2264"), ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]  # fmt: skip
    return " ".join([kind, *bounds])
