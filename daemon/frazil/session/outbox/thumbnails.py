"""Small pictures of micrographs, made when they are picked and kept beside the ledger, up to a number of bytes.

They can be made again from the micrographs, so nothing waits for them: one that cannot be kept is left out, and the
file may be deleted while nothing uses it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import cv2

from frazil.picking import Picture, small_picture

__all__ = ["THUMBNAIL_PX", "Thumbnails", "make_thumbnail"]

THUMBNAIL_PX = 320
"""Longest side."""
_NAME = "frazil-thumbnails.sqlite"
_JPEG_QUALITY = 75
_MOST_BYTES = 128 << 20
_BUSY_SECONDS = 0.2
_TABLE = """
CREATE TABLE IF NOT EXISTS thumbnails (number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL,
body BLOB NOT NULL)
"""


def make_thumbnail(picture: Picture, *, inverted: bool) -> bytes:
    """JPEG of a micrograph, from the picture that the model saw.

    Args:
        picture: as the model saw it.
        inverted: whether the model saw it the other way round than it is in the file.
    """
    small = small_picture(picture.pixels, longest_side_px=THUMBNAIL_PX)
    done, encoded = cv2.imencode(".jpg", 255 - small if inverted else small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes() if done else b""


class Thumbnails:
    """Keeps the newest ones; from one thread, while another has its own.

    Args:
        ledger: beside which they are kept.
        most_bytes: kept at most; the oldest ones go first.
    """

    def __init__(self, ledger: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._file = ledger.with_name(_NAME)
        self._most_bytes = most_bytes
        self._database: sqlite3.Connection | None = None
        self._bytes = 0

    def keep(self, path: str, thumbnail: bytes) -> None:
        """Keep one, in place of an earlier one of the same micrograph, unless that cannot be.

        Args:
            path: the ledger's name of the micrograph.
            thumbnail: JPEG.
        """
        with contextlib.suppress(sqlite3.Error):
            database = self._open()
            database.execute(
                "INSERT OR REPLACE INTO thumbnails (path, bytes, body) VALUES (?, ?, ?)",
                (path, len(thumbnail), thumbnail),
            )
            self._bytes += len(thumbnail)
            if self._bytes > self._most_bytes:
                self._forget_oldest(database)

    def find(self, path: str) -> bytes | None:
        """The one of a micrograph; None where none is kept."""
        with contextlib.suppress(sqlite3.Error):
            row = self._open().execute("SELECT body FROM thumbnails WHERE path = ?", (path,)).fetchone()
            return None if row is None else row[0]
        return None

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._file.chmod(0o600)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # what a crash takes is made again
            database.execute(_TABLE)
            self._bytes = self._count(database)
            self._database = database
        return self._database

    def _forget_oldest(self, database: sqlite3.Connection) -> None:
        """Make room for a tenth more, so that this is seldom."""
        excess = self._count(database) - self._most_bytes * 9 // 10
        for number, size in database.execute("SELECT number, bytes FROM thumbnails ORDER BY number").fetchall():
            if excess <= 0:
                break
            database.execute("DELETE FROM thumbnails WHERE number = ?", (number,))
            excess -= size
        self._bytes = self._count(database)

    @staticmethod
    def _count(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT coalesce(sum(bytes), 0) FROM thumbnails").fetchone()[0])
