"""What the daemon and the process of the stream's sockets say to each other, through two pipes.

Frames go one way, each behind a header of fixed size: the state of a channel, then its documents. Lines of JSON come
back: first the addresses, then what happened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

__all__ = [
    "END_FRAME",
    "Bound",
    "ChannelState",
    "Frames",
    "Job",
    "Logged",
    "Refused",
    "Report",
    "SentDocument",
    "channel_frame",
    "decode_line",
    "document_frame",
]

_HEADER = struct.Struct(">IQII")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do, as its one argument."""

    publish: str
    """Address; port 0 takes a free one."""
    replay: str
    is_microscope: bool
    """Whether it lists sessions, even before the first one is added."""
    channels: int
    """Number of channels of which it is told at once. Requests wait until it knows them."""
    curve_key: str = ""
    """File with the daemon's key; empty where everybody may connect."""
    curve_clients: str = ""
    patience_seconds: float = 0.0
    """How long to wait for an address that is taken."""


class ChannelState(msgspec.Struct, kw_only=True):
    """The documents of one session, which either process keeps for itself, each with its `published`."""

    number: int
    """By which frames name the channel."""
    session: str
    """Name of the session; empty for the only one."""
    ledger: bytes
    """File of the ledger, as bytes of the file system."""
    epoch: str
    generation: str
    since: int
    """Sequence number of the first document that this daemon publishes."""
    published: int
    """Sequence number of the newest document that was published, or is about to be."""
    live: bool
    """Whether the session is open: it has heartbeats then."""


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
    damaged: list[tuple[str, int, str]] = msgspec.field(default_factory=list)
    """Sessions, sequence numbers and paths of documents that cannot be read."""
    ledger_damage: dict[int, str] = msgspec.field(default_factory=dict)
    """What is wrong with a channel's ledger itself."""


_LINES: msgspec.json.Decoder[Bound | Refused | Logged | Report] = msgspec.json.Decoder(
    Bound | Refused | Logged | Report
)


def decode_line(line: bytes) -> Bound | Refused | Logged | Report | None:
    """A line from the process; None where it is none of ours, such as the last words of a library."""
    try:
        return _LINES.decode(line)
    except ValueError:
        return None


SentDocument = tuple[int, int, bytes, bytes]
"""Channel, sequence number, topic and body of a document."""

_CHANNELS = msgspec.json.Decoder(ChannelState)
END_FRAME = _HEADER.pack(0, 0, 0, 0)
"""The end of all documents."""


def document_frame(channel: int, seq: int, topic: bytes, body: bytes) -> bytes:
    """A document for the process; it has a topic."""
    return _HEADER.pack(channel, seq, len(topic), len(body)) + topic + body


def channel_frame(channel: ChannelState) -> bytes:
    """The state of a channel for the process: of a new one, or of one that is closed."""
    body = msgspec.json.encode(channel)
    return _HEADER.pack(channel.number, 0, 0, len(body)) + body


class Frames:
    """Puts the frames together again, however the pipe cut them.

    Attributes:
        ended: whether the end of all documents has come.
    """

    def __init__(self) -> None:
        self.ended = False
        self._read = bytearray()

    def feed(self, data: bytes) -> Iterator[SentDocument | ChannelState]:
        """Take what was read; yields what is complete."""
        self._read += data
        while len(self._read) >= _HEADER.size:
            channel, seq, topic_bytes, body_bytes = _HEADER.unpack_from(self._read)
            end = _HEADER.size + topic_bytes + body_bytes
            if len(self._read) < end:
                return
            if end == _HEADER.size:
                self.ended = True
                return
            topic = bytes(self._read[_HEADER.size : _HEADER.size + topic_bytes])
            body = bytes(self._read[_HEADER.size + topic_bytes : end])
            del self._read[:end]
            yield (channel, seq, topic, body) if topic else _CHANNELS.decode(body)
