"""How log lines look: one event, one line, whatever a file is called."""

from __future__ import annotations

import logging
import sys

from frazil.errors import printable

__all__ = ["configure_logging"]


class _LineFormatter(logging.Formatter):
    """Keeps control characters, which a file name may hold, from making or hiding lines."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = printable(record.getMessage())
        line = self.formatMessage(record)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.encode("utf-8", "backslashreplace").decode()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.asctime = self.formatTime(record)
        return super().formatMessage(record)


def configure_logging(level: str) -> None:
    """Send the log, and Python's warnings, to stderr, from this level up."""
    logging.captureWarnings(capture=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
