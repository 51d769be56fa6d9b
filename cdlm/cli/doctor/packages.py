"""Versions of what is installed."""

import importlib.metadata
import re

OWN = "cdlm-serve"


def packages() -> dict[str, str | None]:
    """Package -> version, of this package and its dependencies; ``None`` if not installed."""
    found = {OWN: _version(OWN)}
    for requirement in importlib.metadata.requires(OWN) or ():
        name = re.match(r"[\w.-]+", requirement)
        # Development tools do not matter to a server.
        if name is not None and "extra == 'dev'" not in requirement.replace('"', "'"):
            found[name[0]] = _version(name[0])
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
