"""Checkpoints by their id on the Hugging Face Hub: ``owner/name``, fetched once into the Hub's own cache."""

import re
from pathlib import Path

from cdlm.model.config import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Weights, configuration, tokenizer. Code and pickled weights are never fetched, and nothing of sub-directories.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can only mean a repository: it has the form of one, and no such path exists here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def fetch_checkpoint(hub_id: str, revision: str | None = None) -> Path:
    """Downloads a repository's checkpoint and returns its directory; what is already there is not fetched again.

    It lies in the cache that all programs of the Hub share, so that a download made by another one serves as well.
    ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` have the meaning the Hub's library gives them.
    Without a network an earlier download is used.

    Args:
        revision: branch, tag or commit; ``None`` is the default branch.

    Raises:
        CheckpointError: there is no such repository or revision, it cannot be reached, or it holds no checkpoint.
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
    """The directory of a checkpoint that was fetched before; ``None`` where it has to be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
