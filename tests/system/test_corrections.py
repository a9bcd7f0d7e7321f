"""Corrections beside a real daemon: whenever it is killed, each edit is in one revision of its micrograph."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frazil import PickStream
from frazil.documents import Corrections, MicrographDocument, PickColumns, encode_document
from frazil.picking import read_star
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader

pytestmark = pytest.mark.system

PATIENCE_SECONDS = 240.0
NAMES = [f"{number:03}.mrc" for number in range(120)]


def post_edits(daemon: Any, edits: list[dict[str, Any]]) -> dict[str, Any]:
    token = (daemon.out / "frazil-page-token").read_text().strip()
    request = urllib.request.Request(
        f"{daemon.page}api/edits",
        json.dumps({"by": "Ada", "edits": edits}).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return dict(json.loads(answer.read()))


def test_killed_before_and_while_edits_are_granted_each_is_in_one_revision(
    serve: Callable[..., Any], blob_model: Path, make_document: Callable[..., MicrographDocument], tmp_path: Path
) -> None:
    watched, out = tmp_path / "watched", tmp_path / "out"
    watched.mkdir()
    out.mkdir()
    with closing(Ledger(out / "frazil-ledger.sqlite")) as ledger:
        for name in NAMES:
            document = msgspec.structs.replace(
                make_document(str(watched / name)),
                shape=(400, 500),
                diameter_px=40.0,
                picks=PickColumns(y=[50.0, 50.0], x=[50.0, 150.0], score=[0.9, 0.8]),
            )

            def body_at(epoch: str, seq: int, _: int, document: MicrographDocument = document) -> bytes:
                return encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))

            ledger.commit_picked(name, Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=name), body_at)
        ledger.mark_delivered(ledger.head)

    daemon = serve("--diameter", "48", "--model", blob_model)
    edits = [
        edit
        for number, name in enumerate(NAMES)
        for edit in (
            {"id": f"delete-{number:04}", "path": name, "seq": number + 1, "kind": "delete", "y": 51, "x": 50},
            {"id": f"add-{number:07}", "path": name, "seq": number + 1, "kind": "add", "y": 300, "x": 300},
        )
    ]
    assert post_edits(daemon, edits) == {"accepted": 240, "merged": [], "refused": []}
    daemon.stop(signal.SIGKILL)
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        assert len(list(reader.every_edit())) == 240
        assert reader.waiting_edits() > 0, "expected the kill to come before the end"
    daemon = serve("--diameter", "48", "--model", blob_model)
    daemon.wait_log(r"corrected \d+\.mrc", PATIENCE_SECONDS)
    daemon.stop(signal.SIGKILL)
    daemon = serve("--diameter", "48", "--model", blob_model)
    post_edits(daemon, edits)  # as one who heard no answer does
    with PickStream(daemon.stream, since=1) as stream:
        results: dict[str, list[MicrographDocument]] = {name: [] for name in NAMES}
        while any(len(documents) < 2 for documents in results.values()):
            document = stream.receive(PATIENCE_SECONDS)
            assert document is not None
            results[document.micrograph].append(document)
    assert daemon.stop() == 0
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        assert (reader.waiting_edits(), reader.head()) == (0, 2 * len(NAMES))
    for name, (first, second) in results.items():
        assert second.supersedes == first.seq
        assert list(zip(second.picks.y, second.picks.x, strict=True)) == [(300, 300), (50, 150)]
        assert isinstance(second.corrections, Corrections)
        assert (second.corrections.by, second.corrections.added, second.corrections.deleted) == (["Ada"], [0], 1)
        assert read_star(out / f"{Path(name).stem}_picks.star").y.tolist() == [300, 50]
