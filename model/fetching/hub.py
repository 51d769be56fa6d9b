"""Downloads checkpoints from the Hugging Face Hub, by id ``owner/name``, into the Hub's cache."""

import re
from pathlib import Path

from cdlm.model.config import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Weights, configuration, tokenizer. Never code, pickled weights or subdirectories.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/name`` and no such local path exists."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def fetch_checkpoint(hub_id: str, revision: str | None = None) -> Path:
    """Downloads a repository's checkpoint, except files in the cache, and returns its directory.

    Uses the cache that all programs of the Hub share, and ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and
    ``HF_HUB_OFFLINE`` as huggingface_hub does. Without a network it uses an earlier download.

    Args:
        hub_id: the repository, ``owner/name``.
        revision: branch, tag or commit; ``None`` is the default branch.

    Raises:
        CheckpointError: the repository or revision does not exist, cannot be reached, or holds no checkpoint.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        which = f"{hub_id} at {revision}" if revision else hub_id
        raise CheckpointError(f"{which}: no such directory here, and not fetched from the Hub: {error}") from error
    return directory


def downloaded(hub_id: str, revision: str | None = None) -> Path | None:
    """The directory of a checkpoint in the cache; ``None`` if it has to be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
