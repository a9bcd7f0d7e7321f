"""The model repository: ``<model>/<version>/model.onnx`` and ``card.json``, and ``<model>/CURRENT``.

The layout is the one of Triton's repositories. A version is never changed once it is there. ``CURRENT`` names the
version that serves, and below it, line by line, those that served before, latest first; it is replaced by rename, and
nothing but that means a swap. Whoever changes a model's folder holds its lock; whoever reads needs none.

Each daemon posts its serving record there, one file for each, for whoever promotes and prunes: which version it serves,
which it has refused, and why. Where it may not write there, it does so beside its results.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import uuid4

import msgspec

from frazil.errors import ModelError, OutputError
from frazil.files import sync_path, write_atomically
from frazil.model.files import CURRENT_NAME, read_current

__all__ = [
    "ModelFolder",
    "Refusal",
    "ServingRecord",
    "current_token",
    "find_model_folders",
    "post_serving_record",
    "read_serving_records",
]

_LOCK_NAME = ".lock"
_LOCK_SECONDS = 10.0
_LOCK_CHECK_SECONDS = 0.05
_REMOVED_PREFIX = ".removed-"
_REMEMBERED = 20
"""Versions in ``CURRENT``, so that it stays small however often models change."""

_RECORDS_NAME = ".serving"
_LARGEST_RECORD_BYTES = 2**18
_MOST_REFUSALS = 20


class ModelFolder:
    """One model's folder. Every change is one rename: a reader sees the old state or the new one.

    All methods that change it raise `OutputError` when it cannot be written or another process keeps it locked.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[int]:
        """Versions that are there, oldest first.

        Raises:
            ModelError: there is no such folder.
        """
        try:
            return sorted(int(p.name) for p in self.path.iterdir() if _is_version(p))
        except OSError as error:
            raise ModelError(f"{self.path}: expected a model's folder: {error.strerror}", "missing") from error

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder, in this one, in which to write the next version for `add`; removed if it is not added.

        Raises:
            OutputError: the folder cannot be written.
        """
        staged = self.path / f".{uuid4().hex}.tmp"
        try:
            staged.mkdir(parents=True)
            yield staged
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write a model there: {error.strerror}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def add(self, staged: Path) -> Path:
        """Rename a folder from `stage`, with a model and its card, to the next version.

        Returns:
            The version's folder.
        """
        with self._locked():
            for file in staged.iterdir():
                sync_path(file)
            sync_path(staged)
            version = self.path / str(max(self.versions(), default=0) + 1)
            staged.rename(version)
            sync_path(self.path)
            return version

    def promote(self, version: int) -> None:
        """Make a version the serving one.

        Raises:
            ModelError: there is no such version.
        """
        with self._locked():
            self._expect(version)
            before: list[int] = []
            with contextlib.suppress(ModelError):  # a missing or torn CURRENT is what this repairs
                before = read_current(self.path)
            self._replace_current([version, *(v for v in before if v != version)])

    def rollback(self) -> int:
        """Make the version that served before the serving one.

        Returns:
            That version.

        Raises:
            ModelError: none that served before is still there.
        """
        with self._locked():
            there = set(self.versions())
            serving, *before = read_current(self.path)
            before = [v for v in before if v in there]
            if not before:
                raise ModelError(
                    f"{self.path}: expected a version that served before {serving}, found none; "
                    "promote one by its number",
                    "missing",
                )
            self._replace_current(before)
            return before[0]

    def withdraw(self) -> None:
        """Promote no version any more: a session whose own model this is goes back to the model of its settings."""
        with self._locked():
            (self.path / CURRENT_NAME).unlink(missing_ok=True)
            sync_path(self.path)

    def prune(self, keep: int, in_use: Collection[int] = ()) -> list[int]:
        """Remove old versions: all but the newest, the serving one, the one to roll back to, and those in use.

        Args:
            keep: how many of the newest stay.
            in_use: versions that daemons serve.

        Returns:
            The removed versions.

        Raises:
            ModelError: ``CURRENT`` is torn, so that nobody can tell what serves.
        """
        with self._locked():
            there = self.versions()
            served = read_current(self.path) if (self.path / CURRENT_NAME).exists() else []
            kept = {*there[-keep:], *[v for v in served if v in there][:2], *in_use}
            removed = [v for v in there if v not in kept]
            for version in removed:
                (self.path / str(version)).rename(self.path / f"{_REMOVED_PREFIX}{version}-{uuid4().hex}")
            # Also what an interrupted prune left.
            for aside in self.path.glob(f"{_REMOVED_PREFIX}*"):
                shutil.rmtree(aside)
            return removed

    def _expect(self, version: int) -> None:
        if version not in self.versions():
            there = ", ".join(map(str, self.versions())) or "none"
            raise ModelError(f"{self.path}: expected a version among {there}; found {version}", "missing")

    def _replace_current(self, versions: list[int]) -> None:
        write_atomically(self.path / CURRENT_NAME, "".join(f"{version}\n" for version in versions[:_REMEMBERED]))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_SECONDS
        try:
            with (self.path / _LOCK_NAME).open("ab") as lock:
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > deadline:
                            raise OutputError(
                                f"{self.path}: expected it free, found it locked by another process "
                                f"for {_LOCK_SECONDS:g} s; try again"
                            ) from None
                        time.sleep(_LOCK_CHECK_SECONDS)
                yield
        except OSError as error:
            found = f"{error.strerror} ({error.filename2 or error.filename})"
            raise OutputError(f"{self.path}: expected a model's folder that can be changed, found: {found}") from error


def find_model_folders(repository: Path) -> list[ModelFolder]:
    """The models in a repository, by name.

    Raises:
        ModelError: there is no such folder, or no model in it.
    """
    try:
        folders = sorted(p for p in repository.iterdir() if p.is_dir() and not p.name.startswith("."))
        models = [ModelFolder(p) for p in folders if any(_is_version(inner) for inner in p.iterdir())]
    except OSError as error:
        raise ModelError(f"{repository}: expected a model repository: {error.strerror}", "missing") from error
    if not models:
        raise ModelError(f"{repository}: expected folders of models in it, found none", "missing")
    return models


def current_token(folder: Path) -> str:
    """A token that changes whenever ``CURRENT`` is replaced, even by the same; empty while there is none."""
    try:
        status = (folder / CURRENT_NAME).stat()
    except OSError:
        return ""
    return f"{status.st_ino}-{status.st_mtime_ns}"


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdecimal() and not name.startswith("0") and path.is_dir()


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was promoted and that a daemon does not serve."""

    version: int
    """0 where it could not be told."""
    sha256: str
    """Of its ONNX file; empty where it could not be read."""
    reason: str
    """In one word."""
    message: str
    at: str
    """UTC time in RFC 3339."""
    current: str
    """Token of the ``CURRENT`` that asked for it (`current_token`); after another one it is tried again."""
    folder: str = ""
    """Absolute path of the model's folder; empty from an earlier frazil: that of the record."""


class ServingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The version that one daemon serves in a session, and those that it has refused."""

    folder: str
    """Absolute path of the folder of the model that serves."""
    host: str
    watch: str
    """The directory that the daemon watches."""
    version: int
    """Number of the version that serves; 0, in what is posted in a folder, if none of that folder does."""
    sha256: str
    since: str
    """UTC time in RFC 3339."""
    refusals: tuple[Refusal, ...] = ()
    """Oldest first, one for each version."""
    trying: Refusal | None = None
    """The version that is being checked, as a refusal: it holds if the daemon dies meanwhile."""

    def serve(self, folder: str, version: int, sha256: str, at: str) -> ServingRecord:
        """The record once another version serves."""
        return msgspec.structs.replace(
            self.with_folders(), folder=folder, version=version, sha256=sha256, since=at, trying=None
        )

    def refuse(self, refusal: Refusal) -> ServingRecord:
        """The record once a version was refused."""
        this = self.with_folders()
        refused = (refusal.folder or self.folder, refusal.version)
        others = [r for r in this.refusals if (r.folder, r.version) != refused]
        return msgspec.structs.replace(this, refusals=(*others, refusal)[-_MOST_REFUSALS:], trying=None)

    def refusal_of(self, version: int) -> Refusal | None:
        """The last refusal of a version."""
        return next((r for r in self.refusals if r.version == version), None)

    def with_folders(self) -> ServingRecord:
        """The record with the folder in each refusal, also where an earlier frazil made it."""
        refusals = tuple(r if r.folder else msgspec.structs.replace(r, folder=self.folder) for r in self.refusals)
        return msgspec.structs.replace(self, refusals=refusals)

    def seen_from(self, folder: str) -> ServingRecord:
        """What is to be posted in a model's folder: of that folder alone."""
        own = folder == self.folder
        return msgspec.structs.replace(
            self,
            folder=folder,
            version=self.version if own else 0,
            sha256=self.sha256 if own else "",
            refusals=tuple(r for r in self.refusals if (r.folder or self.folder) == folder),
            trying=self.trying if self.trying and (self.trying.folder or self.folder) == folder else None,
        )


def post_serving_record(directory: Path, name: str, record: ServingRecord) -> None:
    """Write a copy for others, whole or not at all, under the name of the daemon's ledger: it replaces its own alone.

    Raises:
        OSError: the directory cannot be written.
    """
    folder = directory / _RECORDS_NAME
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{name}.json", msgspec.json.encode(record))


def read_serving_records(directory: Path) -> list[ServingRecord]:
    """The records of all daemons in a directory; what cannot be read is skipped."""
    records = []
    for file in sorted((directory / _RECORDS_NAME).glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError), file.open("rb") as opened:
            records.append(msgspec.json.decode(opened.read(_LARGEST_RECORD_BYTES), type=ServingRecord))
    return records
