"""Versions of what is installed."""

import importlib.metadata
import re

OWN = "cdlm-serve"


def packages() -> dict[str, str | None]:
    """Version of this program and of each package that it depends on; ``None`` for one that is not installed."""
    found = {OWN: _version(OWN)}
    for requirement in importlib.metadata.requires(OWN) or ():
        name = re.match(r"[\w.-]+", requirement)
        # Those of the extra for developers say nothing about a server.
        if name is not None and "extra == 'dev'" not in requirement.replace('"', "'"):
            found[name[0]] = _version(name[0])
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
