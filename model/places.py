"""Where this program keeps files that it can fetch or make again."""

import os
from pathlib import Path


def cache_directory(kind: str) -> Path:
    """The directory ``kind`` in the user's cache: below ``XDG_CACHE_HOME``, by default ``~/.cache``.

    Raises:
        OSError: the user has no home directory.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(given) if given else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(f"{error} Set HOME or XDG_CACHE_HOME.") from error
    return cache / "cdlm-serve" / kind
