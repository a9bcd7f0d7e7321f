"""Assessing in a real daemon: every micrograph once, also when it is killed between the picks and the assessment."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.documents import QualityDocument
from frazil.session.outbox.ledger import LedgerReader, check

pytestmark = pytest.mark.system

COUNT = 12
PATIENCE_SECONDS = 240.0


@pytest.fixture
def micrographs(tmp_path: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]) -> Path:
    watched = tmp_path / "watched"
    watched.mkdir()
    for number in range(COUNT):
        write_mrc(watched / f"{number:02}.mrc", make_scene(seed=number).pixels)  # type: ignore[attr-defined]
    return watched


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def qualities(ledger: Path) -> list[QualityDocument]:
    with LedgerReader(ledger) as reader:
        found = [stored.decode() for stored in reader.documents()]
    return [document for document in found if isinstance(document, QualityDocument)]


def test_a_daemon_that_is_killed_again_and_again_assesses_each_micrograph_once(
    serve: Callable[..., object], micrographs: Path, blob_model: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "out" / "frazil-ledger.sqlite"
    options = ("--diameter", "48", "--model", blob_model, "--assess")
    seen = 0
    for _ in range(3):
        daemon = serve(*options)  # killed as soon as something more is assessed: wherever that is
        until(lambda before=seen: ledger.exists() and len(qualities(ledger)) > before)  # type: ignore[misc]
        daemon.process.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
        daemon.process.wait()  # type: ignore[attr-defined]
        seen = len(qualities(ledger))
    daemon = serve(*options)
    until(lambda: len(qualities(ledger)) >= COUNT, lambda: str(len(qualities(ledger))))
    daemon.process.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert daemon.process.wait(60) == 0  # type: ignore[attr-defined]
    found = qualities(ledger)
    assert sorted(document.micrograph for document in found) == [f"{number:02}.mrc" for number in range(COUNT)]
    with LedgerReader(ledger) as reader:
        of = {record.path: record.of for record in reader.qualities()}
        assert of == {record.path: record.seq for record in reader.micrographs()}
        assert reader.unassessed() == 0
    assert check(ledger).faults == []


def test_a_daemon_that_is_not_to_assess_leaves_it_to_a_later_one(
    serve: Callable[..., object], micrographs: Path, blob_model: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "out" / "frazil-ledger.sqlite"

    def picked() -> int:
        with LedgerReader(ledger) as reader:
            return reader.counts().get("picked", 0)

    daemon = serve("--diameter", "48", "--model", blob_model, "--no-assess")
    until(lambda: ledger.exists() and picked() == COUNT)
    daemon.process.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert daemon.process.wait(60) == 0  # type: ignore[attr-defined]
    assert qualities(ledger) == []
    serve("--diameter", "48", "--model", blob_model, "--assess")
    until(lambda: len(qualities(ledger)) == COUNT, lambda: str(len(qualities(ledger))))
    assert qualities(ledger)[0].micrograph == f"{COUNT - 1:02}.mrc"  # the newest one first
