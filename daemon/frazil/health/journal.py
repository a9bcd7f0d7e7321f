"""The systemd journal, spoken to in its own protocol, so that each event keeps its fields.

A line on stderr reaches the journal as text alone. Over its socket an event has fields by name, by which
``journalctl FRAZIL_EVENT=failed`` finds it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import struct
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from frazil.errors import printable

__all__ = ["JOURNAL_SOCKET", "JournalHandler", "reaches_journal"]

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def reaches_journal(environment: Mapping[str, str] = os.environ, descriptor: int = 2) -> bool:
    """Whether a descriptor, stderr unless told otherwise, is connected to the journal, as ``JOURNAL_STREAM`` says."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class JournalHandler(logging.Handler):
    """Sends each record as one entry with its fields; an entry that cannot be sent goes to stderr as a line.

    Args:
        journal: its socket.
    """

    def __init__(self, journal: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._address = str(journal)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            self._send(_encode(_fields_of(record)))
        except OSError:
            print(printable(record.getMessage()), file=sys.stderr, flush=True)  # noqa: T201 - there is no other place

    def close(self) -> None:
        """Send nothing any more."""
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._address)
        except OSError:
            # Too long for a datagram, perhaps: the journal takes such an entry as a sealed file.
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        descriptor = os.memfd_create("frazil-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor has no path
            left = memoryview(entry)
            while left:
                left = left[file.write(left) :]
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([b""], [rights], 0, self._address)


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    fields = {
        "MESSAGE": printable(record.getMessage()),
        "PRIORITY": str(next((priority for level, priority in _PRIORITIES if record.levelno >= level), _DEBUG)),
        "SYSLOG_IDENTIFIER": "frazil",
        "LOGGER": record.name,
        "THREAD_NAME": str(record.threadName),
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": str(record.funcName),
    }
    if record.exc_info and record.exc_info[0] is not None:
        fields["FRAZIL_TRACEBACK"] = "".join(traceback.format_exception(*record.exc_info))
    for name, value in getattr(record, "event", {}).items():
        fields[f"FRAZIL_{name.upper()}"] = str(value)
    return fields


def _encode(fields: Mapping[str, str]) -> bytes:
    """Fields as the journal takes them: ``NAME=value``, or the value's length before it where it has lines."""
    parts = []
    for name, value in fields.items():
        if not _FIELD.fullmatch(name):
            continue
        content = value.encode(errors="surrogateescape")
        if b"\n" in content:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n")
        else:
            parts.append(name.encode() + b"=" + content + b"\n")
    return b"".join(parts)
