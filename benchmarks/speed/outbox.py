"""The last two stages of a micrograph in the daemon: the durable commit, and the message to a subscriber."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import msgspec
import prometheus_client

from frazil import PickStream
from frazil.documents import encode_document, topic_of
from frazil.health.metrics import Metrics
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger
from frazil.session.outbox.score_map import pack_score_map
from frazil.session.outbox.stream import Stream
from frazil.session.pick.record import Record

__all__ = ["Outbox"]

_PATIENCE_SECONDS = 30.0
_HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")


class Outbox:
    """A ledger on the disk, the stream that publishes it, and one subscriber."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._ledger = Ledger(folder / "ledger.sqlite")
        self._stream = Stream("tcp://127.0.0.1:0", metrics=Metrics(prometheus_client.CollectorRegistry()))
        self._channel = self._stream.add(
            "", ledger=self._ledger.file, epoch=self._ledger.epoch, published=self._ledger.head
        )
        self._subscriber = PickStream(self._stream.address)
        self._last: tuple[int, bytes, bytes] = (0, b"", b"")

    def __enter__(self) -> Outbox:
        assert self._subscriber.wait_connected(_PATIENCE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._subscriber.close()
        self._stream.close()
        self._ledger.close()

    def commit(self, record: Record) -> None:
        """Commit picks and score map; they are on the disk when this returns."""

        def body_at(epoch: str, seq: int, supersedes: int) -> bytes:
            document = msgspec.structs.replace(record.document, epoch=epoch, seq=seq, supersedes=supersedes)
            return encode_document(document)

        name, packed = f"{self._ledger.head + 1}.mrc", pack_score_map(record.score_map)
        seq, body = self._ledger.commit_picked(name, _HANDLED, body_at, score_map=packed)
        self._last = seq, topic_of(record.document), body

    def publish(self) -> None:
        """Send what was committed last, and wait until the subscriber has it."""
        self._channel.publish(*self._last)
        assert self._subscriber.receive(_PATIENCE_SECONDS) is not None
