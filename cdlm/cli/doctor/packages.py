"""Versions of what is installed."""

import importlib.metadata
import re

OWN = "cdlm-serve"


def packages() -> dict[str, str | None]:
    """Package -> version, of this package and its dependencies; ``None`` if not installed."""
    found = {OWN: installed_version(OWN)}
    for requirement in importlib.metadata.requires(OWN) or ():
        name = re.match(r"[\w.-]+", requirement)
        # Development tools do not matter to a server.
        if name is not None and "extra == 'dev'" not in requirement.replace('"', "'"):
            found[name[0]] = installed_version(name[0])
    return found


def installed_version(name: str) -> str | None:
    """The version of a package; ``None`` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
