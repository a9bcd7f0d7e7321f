"""The serving record: which version of a model a daemon serves, which it has refused, and why.

The daemon keeps it in its ledger and posts a copy, one file for each daemon, in the model's folder, for whoever
promotes and prunes; where it may not write there, beside its results.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from frazil.files import write_atomically

__all__ = ["Refusal", "ServingRecord", "post_serving_record", "read_serving_records"]

_FOLDER_NAME = ".serving"
_LARGEST_BYTES = 2**18
_MOST_REFUSALS = 20


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


class ServingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The version that one daemon serves from a model's folder, and those that it has refused."""

    folder: str
    """Absolute path of the model's folder."""
    host: str
    watch: str
    """The directory that the daemon watches."""
    version: int
    """Number of the version that serves."""
    sha256: str
    since: str
    """UTC time in RFC 3339."""
    refusals: tuple[Refusal, ...] = ()
    """Oldest first, one for each version."""
    trying: Refusal | None = None
    """The version that is being checked, as a refusal: it holds if the daemon dies meanwhile."""

    def serve(self, version: int, sha256: str, at: str) -> ServingRecord:
        """The record once another version serves."""
        return msgspec.structs.replace(self, version=version, sha256=sha256, since=at, trying=None)

    def refuse(self, refusal: Refusal) -> ServingRecord:
        """The record once a version was refused."""
        others = [r for r in self.refusals if r.version != refusal.version]
        return msgspec.structs.replace(self, refusals=(*others, refusal)[-_MOST_REFUSALS:], trying=None)

    def refusal_of(self, version: int) -> Refusal | None:
        """The last refusal of a version."""
        return next((r for r in self.refusals if r.version == version), None)


def post_serving_record(directory: Path, name: str, record: ServingRecord) -> None:
    """Write a copy for others, whole or not at all, under the name of the daemon's ledger: it replaces its own alone.

    Raises:
        OSError: the directory cannot be written.
    """
    folder = directory / _FOLDER_NAME
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{name}.json", msgspec.json.encode(record))


def read_serving_records(directory: Path) -> list[ServingRecord]:
    """The records of all daemons in a directory; what cannot be read is skipped."""
    records = []
    for file in sorted((directory / _FOLDER_NAME).glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError), file.open("rb") as opened:
            records.append(msgspec.json.decode(opened.read(_LARGEST_BYTES), type=ServingRecord))
    return records
