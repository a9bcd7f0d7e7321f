"""How log lines look: one event, one line, whatever a file is called; in the journal, with fields.

A call of the log that tells of an event gives its name and fields beside the message::

    log.info("picked %s: %d picks", key, picks, extra=event("picked", micrograph=key, picks=picks))

Elsewhere than in the journal only the message shows.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from frazil.errors import printable
from frazil.health.journal import JOURNAL_SOCKET, JournalHandler, reaches_journal

__all__ = ["LineFormatter", "configure_logging", "event"]


def event(name: str, **fields: object) -> dict[str, dict[str, object]]:
    """What names an event to the log: ``FRAZIL_EVENT`` and, of each field, ``FRAZIL_<NAME>`` in the journal."""
    return {"event": {"event": name, **fields}}


class LineFormatter(logging.Formatter):
    """Keeps control characters, which a file name may hold, from making or hiding lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and those of its traceback."""
        record.message = printable(record.getMessage())
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += [printable(line) for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(lines)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line with its time."""
        record.asctime = self.formatTime(record)
        return super().formatMessage(record)


def configure_logging(level: str, journal: Path = JOURNAL_SOCKET) -> None:
    """Send the log, and Python's warnings, from this level up to stderr, or to the journal where stderr leads there."""
    logging.captureWarnings(capture=True)
    handler: logging.Handler
    if reaches_journal():
        handler = JournalHandler(journal)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
