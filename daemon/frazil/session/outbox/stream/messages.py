"""What the daemon and the process of the stream's sockets say to each other, through two pipes.

Documents go one way, each behind a header of fixed size. Lines of JSON come back: first the addresses, then what
happened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

__all__ = ["Bound", "Documents", "Job", "Logged", "Refused", "Report", "decode_line", "encode_document_frame"]

_HEADER = struct.Struct(">QII")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do, as its one argument."""

    publish: str
    """Address; port 0 takes a free one."""
    replay: str
    ledger: str
    epoch: str
    generation: str
    published: int
    curve_key: str = ""
    """File with the daemon's key; empty where everybody may connect."""
    curve_clients: str = ""
    patience_seconds: float = 0.0
    """How long to wait for an address that is taken."""


class Bound(msgspec.Struct, frozen=True, kw_only=True, tag="bound"):
    """Both sockets are open."""

    publish: str
    """Address really bound."""
    replay: str


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """A socket cannot be opened."""

    error: str


class Logged(msgspec.Struct, frozen=True, kw_only=True, tag="logged"):
    """A line for the daemon's log."""

    logger: str
    level: int
    message: str


class Report(msgspec.Struct, kw_only=True, tag="report"):
    """What happened since the last report."""

    subscribers: int = 0
    """Connections at present."""
    refused: int = 0
    overflows: int = 0
    replayed: int = 0
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    """Replay requests by outcome."""
    damaged: list[tuple[int, str]] = msgspec.field(default_factory=list)
    """Sequence numbers and paths of documents that cannot be read."""
    ledger_damage: str = ""
    """What is wrong with the ledger itself."""


_LINES: msgspec.json.Decoder[Bound | Refused | Logged | Report] = msgspec.json.Decoder(
    Bound | Refused | Logged | Report
)


def decode_line(line: bytes) -> Bound | Refused | Logged | Report | None:
    """A line from the process; None where it is none of ours, such as the last words of a library."""
    try:
        return _LINES.decode(line)
    except ValueError:
        return None


def encode_document_frame(seq: int, topic: bytes, body: bytes) -> bytes:
    """A document for the process; without topic and body, the end of all documents."""
    return _HEADER.pack(seq, len(topic), len(body)) + topic + body


class Documents:
    """Puts the documents together again, however the pipe cut them.

    Attributes:
        ended: whether the end of all documents has come.
    """

    def __init__(self) -> None:
        self.ended = False
        self._read = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Take what was read; yields (seq, topic, body) of what is complete."""
        self._read += data
        while len(self._read) >= _HEADER.size:
            seq, topic_bytes, body_bytes = _HEADER.unpack_from(self._read)
            end = _HEADER.size + topic_bytes + body_bytes
            if len(self._read) < end:
                return
            if topic_bytes == body_bytes == 0:
                self.ended = True
                return
            topic = bytes(self._read[_HEADER.size : _HEADER.size + topic_bytes])
            body = bytes(self._read[_HEADER.size + topic_bytes : end])
            del self._read[:end]
            yield seq, topic, body
