"""An empty cache, and no settings of indexes and proxies but those of a test."""

from pathlib import Path

import pytest

from cdlm.model.fetching.index import VARIABLES

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; nobody listens at the index unless a test names another one."""
    for name in (*VARIABLES, *PROXIES, *map(str.upper, PROXIES), "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
