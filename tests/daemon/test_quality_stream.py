"""Assessments on the stream: who asks for them gets them, and a client that knows nothing of them misses no picks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_client
import pytest

from frazil.client import PickStream
from frazil.documents import MicrographDocument, QualityDocument
from frazil.health.metrics import Metrics
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream

EARLIER_CLIENT = """
import sys
import msgspec
from frazil import documents as d

d._DECODER = msgspec.json.Decoder(
    d.MicrographDocument | d.FailedDocument | d.ModelDocument | d.SessionDocument | d.Heartbeat
)
from frazil.client import PickStream

with PickStream(sys.argv[1], since=1, timeout_seconds=30) as stream:
    for document in stream:
        print(document.seq, flush=True)
        if document.seq == int(sys.argv[2]):
            break
    print(stream.missing, flush=True)
"""
"""What a client of frazil before the quality of micrographs can decode."""


class Rig:
    def __init__(self, folder: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.make_document = make_document
        self.ledger = Ledger(folder / "ledger")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=metrics)
        channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)
        self.outbox = Outbox(self.ledger, channel, metrics, Path("/w"), folder / "out", threading.Event())

    def pick_and_assess(self, name: str) -> None:
        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
        of = self.outbox.commit(self.make_document(f"/w/{name}"), key=name, handled=handled)
        self.outbox.commit(
            QualityDocument(
                epoch="",
                seq=0,
                micrograph=name,
                path=f"/w/{name}",
                of=of,
                grade="good",
                picks=1,
                usable_fraction=1.0,
                pixel_size_angstrom=1.0,
            ),
            key=name,
        )

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


@pytest.fixture
def rig(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Rig]:
    made = Rig(tmp_path, make_document)
    yield made
    made.close()


def test_an_earlier_client_gets_all_picks_and_misses_nothing(rig: Rig) -> None:
    for number in range(5):
        rig.pick_and_assess(f"{number}.mrc")
    command = [sys.executable, "-c", EARLIER_CLIENT, rig.stream.address, "19"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        said = [client.stdout.readline() for _ in range(5)]  # it follows what is published from now on
        for number in range(5, 10):
            rig.pick_and_assess(f"{number}.mrc")
        said += client.stdout.readlines()
    assert [line.strip() for line in said] == [*(str(seq) for seq in range(1, 20, 2)), "[]"]


def test_who_asks_for_assessments_gets_them_in_order_with_the_picks(rig: Rig) -> None:
    rig.pick_and_assess("0.mrc")
    with PickStream(rig.stream.address, since=1, topics=("picks", "quality"), timeout_seconds=30) as stream:
        found = [next(stream) for _ in range(2)]
        for number in range(1, 4):  # as they are published, each is there once
            rig.pick_and_assess(f"{number}.mrc")
            found += [next(stream) for _ in range(2)]
    assert [document.seq for document in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [getattr(one, "of", None) for one in found] == [None, 1, None, 3, None, 5, None, 7]
