"""What the site needs beside the pages, which are written for a reader of the repository."""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks")

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")
_NOT_RUN = re.compile(r"^```(\w+) no-run$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Makes a page ready for the site.

    - A link to a file of the repository outside ``docs/`` has no target on the site, so its path is named instead.
    - A bar in code in a table is escaped for GitHub; here the escape would be shown.
    - The mark ``no-run`` of a code block is for the tests alone.
    """
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def named(match: re.Match[str]) -> str:
        text, target = match[1], posixpath.normpath(posixpath.join(folder, match[2].partition("#")[0]))
        if target.startswith("docs/"):
            return match[0]
        if not (_ROOT / target).exists():
            # mkdocs counts warnings, and a strict build fails.
            log.warning(f"{page.file.src_uri} links to {target}, which does not exist")
        return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"

    markdown = _LINK.sub(named, markdown)
    markdown = _ROW.sub(lambda row: _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)
    return _NOT_RUN.sub(r"```\1", markdown)
