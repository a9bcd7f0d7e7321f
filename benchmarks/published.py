"""A ledger and the stream that publishes it, without a daemon, and documents for them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import prometheus_client

from frazil.documents import MicrographDocument, PickColumns, Seconds, encode_document, topic_of
from frazil.health.metrics import Metrics
from frazil.model import ModelIdentity
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger
from frazil.session.outbox.stream import Stream

__all__ = ["PublishedLedger", "make_document"]

_HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")


def make_document(path: str, picks: int, seed: int) -> MicrographDocument:
    """A document that the daemon could have written of the micrograph at a path below the watched directory."""
    rng = np.random.default_rng(seed)
    y, x, score = ([round(float(v), 4) for v in rng.random(picks) * scale] for scale in (4096, 4096, 1))
    return MicrographDocument(
        epoch="e" * 32,
        seq=1,
        micrograph=Path(path).name,
        path=f"/data/session/{path}",
        directory=str(Path(path).parent),
        shape=(4096, 4096),
        pixel_size_angstrom=0.9,
        diameter_px=212.0,
        model=ModelIdentity(name="fcn", version=3, sha256="a" * 64),
        threshold=0.3,
        min_distance_angstrom=100.0,
        edge_margin_angstrom=95.0,
        picks=PickColumns(y=y, x=x, score=score),
        seconds=Seconds(read=0.04, prepare=0.04, infer=0.2, peaks=0.01, total=0.3),
        picked_at="2026-07-01T12:00:00.000+00:00",
    )


class PublishedLedger:
    """A ledger in a folder and its stream, on free ports; documents are committed and published as a daemon does it."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream(
            "tcp://127.0.0.1:0", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0, metrics=self.metrics
        )
        self.addresses = [self.stream.address, self.stream.replay]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.ledger.close()

    def commit(self, document: MicrographDocument, score_map: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Commit a document; it is on the disk when this returns what `Stream.publish` needs."""

        def body_at(epoch: str, seq: int, supersedes: int) -> bytes:
            return encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=supersedes))

        name = f"{self.ledger.head + 1}.mrc"
        seq, body = self.ledger.commit_picked(name, _HANDLED, body_at, score_map=score_map)
        return seq, topic_of(document), body

    def publish(self, document: MicrographDocument) -> None:
        """Commit and publish a document."""
        self.stream.publish(*self.commit(document))
