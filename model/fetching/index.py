"""Finds a file in a Python package index, PyPI or a mirror of it: the one that pip or uv is set up to use."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from cdlm.model.config import CheckpointError

PYPI = "https://pypi.org/simple"
VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
# The two forms of the simple API; not every mirror has the newer one.
_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPTED = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


def index_address() -> str:
    """The index's address: of ``VARIABLES``, else of pip's configuration files, else PyPI's."""
    named = next(filter(None, map(os.environ.get, VARIABLES)), None)
    return (named or _address_of_pip() or PYPI).rstrip("/")


def find_file(client: httpx.Client, index: str, project: str, name: str) -> str:
    """The address of the file ``name`` of ``project``.

    Raises:
        CheckpointError: the index has no such file.
        httpx.HTTPError: the index cannot be reached, or refuses.
    """
    response = client.get(f"{index}/{project}/", headers={"accept": _ACCEPTED})
    if response.status_code == httpx.codes.NOT_FOUND:
        raise CheckpointError(f"{shown(index)} has no project {project}")
    response.raise_for_status()
    for link in _links(response):
        address = urljoin(str(response.url), link)
        if unquote(urlsplit(address).path).endswith(f"/{name}"):
            return _with_user(address, index)
    raise CheckpointError(f"{shown(index)} has no file {name}")


def shown(address: str) -> str:
    """An address as messages name it: without user, password and query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.rpartition("@")[2]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _with_user(address: str, index: str) -> str:
    """``address`` with the index's user and password, if it is on the same server and has none."""
    there, here = urlsplit(address), urlsplit(index)
    user, at, host = here.netloc.rpartition("@")
    if at and (there.scheme, there.netloc) == (here.scheme, host):
        return there._replace(netloc=f"{user}@{host}").geturl()
    return address


def _links(response: httpx.Response) -> list[str]:
    kind = response.headers.get("content-type", "")
    if not kind.startswith(_JSON):
        page = _Page()
        page.feed(response.text)
        return page.links
    try:
        return [str(file["url"]) for file in response.json()["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{shown(str(response.url))}: not a page of a package index: {error!r}") from error


class _Page(HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _address_of_pip() -> str | None:
    # -I: files in the working directory are not imported. The command "get" does not know PIP_CONFIG_FILE.
    command = [sys.executable, "-I", "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^global\.index-url='(\S+)'$", done.stdout, re.MULTILINE)
    return found[1] if found else None
