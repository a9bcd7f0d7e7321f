"""The last two stages of a micrograph in the daemon: the durable commit, and the message to a subscriber."""

from __future__ import annotations

from pathlib import Path

from benchmarks.published import PublishedLedger
from frazil import PickStream
from frazil.session.outbox.score_map import pack_score_map
from frazil.session.pick.record import Record

__all__ = ["Outbox"]

_PATIENCE_SECONDS = 30.0


class Outbox(PublishedLedger):
    """A published ledger on the disk, and one subscriber."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder)
        self._subscriber = PickStream(self.stream.address)
        assert self._subscriber.wait_connected(_PATIENCE_SECONDS)

    def __exit__(self, *error: object) -> None:
        self._subscriber.close()
        super().__exit__(*error)

    def commit_record(self, record: Record) -> None:
        """Commit picks and score map; they are on the disk when this returns."""
        self._last = self.commit(record.document, pack_score_map(record.score_map))

    def publish_last(self) -> None:
        """Send what was committed last, and wait until the subscriber has it."""
        self.stream.publish(*self._last)
        assert self._subscriber.receive(_PATIENCE_SECONDS) is not None
