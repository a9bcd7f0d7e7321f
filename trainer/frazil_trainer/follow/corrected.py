"""The corrected micrographs of a session, gathered from its stream and kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from frazil.documents import MicrographDocument, decode_document, encode_document
from frazil.errors import FrazilError, OutputError
from frazil.files import write_atomically
from frazil.picking import Picks

__all__ = ["Corrected", "CorrectedSet"]

_KEPT_OUT_EVERY = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrected:
    """A micrograph as people left it."""

    number: int
    """Counted from 1 in the order of first corrections, and kept for good."""
    document: MicrographDocument

    @property
    def path(self) -> str:
        """The ledger's name of the micrograph."""
        return str(PurePosixPath(self.document.directory, self.document.micrograph))

    @property
    def at(self) -> str:
        """When it was last corrected, in RFC 3339."""
        return self.document.corrections.at if self.document.corrections else ""

    @property
    def is_kept_out(self) -> bool:
        """Whether no model may learn from it: every third one, so that it stays out of every training."""
        return self.number % _KEPT_OUT_EVERY == 0

    @property
    def picks(self) -> Picks:
        """The picks that people left or added."""
        y, x, score = self.document.picks.arrays()
        return Picks(y=y, x=x, score=score)


class CorrectedSet:
    """Keeps one file for each corrected micrograph: its document.

    Args:
        folder: of the files; made if missing.

    Raises:
        OutputError: it cannot be read or written.
        FrazilError: a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_path: dict[str, Corrected] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob("*.json")):
                self._note(file)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be read: {error.strerror}") from error

    @property
    def all(self) -> list[Corrected]:
        """In the order of their first corrections."""
        return sorted(self._by_path.values(), key=lambda one: one.number)

    def take(self, document: MicrographDocument) -> bool:
        """Take a result from the stream, before the cursor moves past it.

        What was picked anew and holds the same corrections changes nothing: people corrected what they saw.

        Returns:
            Whether people have changed something.

        Raises:
            OutputError: it cannot be written.
        """
        for one in self.all:
            if one.document.epoch != document.epoch:  # of another ledger, which says nothing of this one's
                self._drop(one)
        corrections = document.corrections
        taken = Corrected(number=max((one.number for one in self.all), default=0) + 1, document=document)
        before = self._by_path.get(taken.path)
        if not corrections or corrections.mark == "bad":
            if before is not None:
                self._drop(before)
            return before is not None
        if before is not None:
            if before.at == taken.at:
                return False
            taken = Corrected(number=before.number, document=document)
        try:
            write_atomically(self._file(taken), encode_document(document))
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror}") from error
        self._by_path[taken.path] = taken
        return True

    def _note(self, file: Path) -> None:
        try:
            document = decode_document(file.read_bytes())
            number = int(file.stem)
        except (ValueError, msgspec.MsgspecError) as error:
            raise FrazilError(f"{file}: expected a corrected micrograph, found: {error}; remove the folder") from error
        if isinstance(document, MicrographDocument):
            one = Corrected(number=number, document=document)
            self._by_path[one.path] = one

    def _drop(self, one: Corrected) -> None:
        self._file(one).unlink(missing_ok=True)
        del self._by_path[one.path]

    def _file(self, one: Corrected) -> Path:
        return self._folder / f"{one.number:06d}.json"
