"""Notes: what the intake has to say of files without a result, written to the ledger a few at a time."""

from __future__ import annotations

import logging
import sqlite3

from frazil.paths import is_utf8
from frazil.session.intake.watcher import Sightings
from frazil.session.outbox.ledger import Ledger, Note

__all__ = ["Notes"]

log = logging.getLogger(__name__)


class Notes:
    """Collects notes and writes them. Notes that cannot be written are kept for the next time. Used from one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._notes: dict[str, Note] = {}
        self._gone: set[str] = set()
        self._returned: set[str] = set()

    def add(self, note: Note) -> None:
        """Note a file that was found, or that waits."""
        if is_utf8(note.key):
            self._gone.discard(note.key)
            self._notes[note.key] = note

    def add_gone(self, key: str) -> None:
        """Note that a file is gone."""
        if is_utf8(key):
            self._gone.add(key)

    def add_sightings(self, sightings: Sightings) -> None:
        """Note known files that disappeared or came back."""
        self._gone.update(sightings.missing)
        self._gone.difference_update(sightings.returned)
        self._returned.update(sightings.returned)

    def write(self) -> None:
        """Write all notes."""
        try:
            if self._notes:
                self._ledger.note(list(self._notes.values()))
                self._notes.clear()
            if self._gone:
                self._ledger.note_gone(list(self._gone))
                self._gone.clear()
            if self._returned:
                self._ledger.note_returned(list(self._returned))
                self._returned.clear()
        except sqlite3.Error as error:
            log.debug("notes cannot be written to the ledger (%s); this is retried", error)
