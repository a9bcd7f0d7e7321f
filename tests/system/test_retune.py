"""Tuning beside a real daemon: earlier results are revised once each, later ones are picked so, whatever happens."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from frazil import PickStream
from frazil.documents import MicrographDocument, encode_document
from frazil.limits import LimitsPatch
from frazil.model import load_model
from frazil.picking import Micrograph, Picker, PickingSettings, read_star
from frazil.record import record_picks
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import TUNED_KEY, Handled, Ledger, LedgerReader
from frazil.session.retune import RevisionProgress, request_change
from frazil.session.retune.repick import pack_score_map

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821


def frazil(*arguments: object) -> str:
    done = subprocess.run(
        [str(a) for a in (BIN / "frazil", *arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def receive_all(address: str, ledger: Path) -> list[MicrographDocument]:
    """What a subscriber that comes last ends with."""
    with LedgerReader(ledger) as reader:
        head = max(seq for seq, _ in reader.documents())
    documents: list[MicrographDocument] = []
    with PickStream(address, since=1) as stream:
        while not documents or documents[-1].seq < head:
            document = stream.receive(PATIENCE_SECONDS)
            assert document is not None
            documents.append(document)
    return documents


def by_micrograph(documents: Sequence[MicrographDocument]) -> dict[str, list[MicrographDocument]]:
    results: dict[str, list[MicrographDocument]] = defaultdict(list)
    for document in documents:
        results[document.micrograph].append(document)
    return results


def assert_one_chain(results: Sequence[MicrographDocument], out: Path) -> None:
    """Each result supersedes the one before, and the file holds the picks of the last."""
    assert [r.supersedes for r in results] == [0, *(r.seq for r in results[:-1])]
    picks = read_star(out / f"{Path(results[-1].micrograph).stem}_picks.star")
    np.testing.assert_allclose(picks.y, results[-1].picks.y, atol=1e-3)
    np.testing.assert_allclose(picks.x, results[-1].picks.x, atol=1e-3)
    np.testing.assert_allclose(picks.score, results[-1].picks.score, atol=1e-5)


@pytest.fixture
def drop(tmp_path: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]) -> Callable[..., None]:
    scenes = [
        write_mrc(tmp_path / f"scene{seed}.mrc", make_scene(seed=seed, count=25).pixels, 2.0)  # type: ignore[attr-defined]
        for seed in range(3)
    ]

    def put(folder: Path, numbers: range) -> None:
        for number in numbers:
            aside = tmp_path / "aside.tmp"
            shutil.copy(scenes[number % 3], aside)
            aside.rename(folder / f"m{number:02}.mrc")

    return put


def test_what_is_applied_holds_for_all_there_is_and_all_that_comes(
    serve: Serve, blob_model: Path, drop: Callable[..., None], tmp_path: Path
) -> None:
    options = ("--diameter", "48", "--model", blob_model, "--min-distance", "20")
    daemon = serve(*options)
    drop(daemon.watched, range(6))
    daemon.wait_log(r"picked m05\.mrc", PATIENCE_SECONDS)

    # Seen before it is applied: nothing changes.
    ledger = daemon.out / "frazil-ledger.sqlite"
    counted = json.loads(frazil("retune", daemon.out, "--threshold", "0.9999", "--min-distance", "120", "--json"))
    assert counted["micrographs"] == 6
    assert 0 < counted["after"] < counted["before"]
    assert len(receive_all(daemon.stream, ledger)) == 6

    # Applied while micrographs keep coming.
    drop(daemon.watched, range(6, 14))
    daemon.wait_log(r"picked m06\.mrc", PATIENCE_SECONDS)
    with LedgerReader(ledger) as reader:
        request_change(reader, LimitsPatch(threshold=0.9999, min_distance_angstrom=120.0))
    daemon.wait_log(r"tuned since .*threshold 0\.9999 .*min-distance 120 Å; \d+ results revised$", PATIENCE_SECONDS)
    for number in range(6, 14):
        daemon.wait_log(rf"picked m{number:02}\.mrc", PATIENCE_SECONDS)
    status = frazil("status", "--ledger", daemon.out)
    assert re.search(r"^tuned since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: threshold 0\.9999", status, re.MULTILINE)

    results = by_micrograph(receive_all(daemon.stream, ledger))
    assert len(results) == 14
    for documents in results.values():
        assert_one_chain(documents, daemon.out)
        assert (documents[-1].threshold, documents[-1].min_distance_angstrom) == (0.9999, 120.0)
    assert all(len(results[f"m{number:02}.mrc"]) == 2 for number in range(7))
    assert counted["after"] == sum(len(results[f"m{number:02}.mrc"][-1].picks.score) for number in range(6))

    # It holds after a restart, until the settings are changed.
    daemon.stop()
    again = serve(*options)
    again.wait_log("tuned since")
    drop(again.watched, range(14, 15))
    again.wait_log(r"picked m14\.mrc", PATIENCE_SECONDS)
    again.stop()
    changed = serve(*options, "--edge-margin", "15")
    changed.wait_log("the settings have changed: they hold again")
    drop(changed.watched, range(15, 16))
    changed.wait_log(r"picked m15\.mrc", PATIENCE_SECONDS)
    results = by_micrograph(receive_all(changed.stream, ledger))
    (tuned,), (untuned,) = results["m14.mrc"], results["m15.mrc"]
    # Scenes come again: what was revised and what was picked so are the same picks.
    assert results["m02.mrc"][-1].picks == tuned.picks
    assert (tuned.threshold, tuned.min_distance_angstrom) == (0.9999, 120.0)
    assert (untuned.threshold, untuned.min_distance_angstrom, untuned.edge_margin_angstrom) == (0.5, 20.0, 15.0)
    assert "tuned since" not in frazil("status", "--ledger", changed.out)


def test_killed_in_the_middle_it_goes_on_and_revises_each_result_once(
    serve: Serve, blob_model: Path, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    watched, out = tmp_path / "watched", tmp_path / "out"
    watched.mkdir()
    out.mkdir()
    picking = PickingSettings(diameter_angstrom=48)
    scene = Micrograph(
        path=watched / "scene.mrc",
        pixels=make_scene(count=25).pixels,  # type: ignore[attr-defined]
        pixel_size_angstrom=2.0,
    )
    record = record_picks(Picker(load_model(blob_model, "cpu", 1), picking), scene, read_seconds=0, since=0)
    names = [f"{number:03}.mrc" for number in range(200)]
    without_map = {"050.mrc", "100.mrc"}
    with closing(Ledger(out / "frazil-ledger.sqlite")) as ledger:
        for name in names:
            document = msgspec.structs.replace(record.document, micrograph=name, path=str(watched / name))

            def body_at(epoch: str, seq: int, _: int, document: MicrographDocument = document) -> bytes:
                return encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))

            ledger.commit_picked(
                name,
                Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=name),
                body_at,
                score_map=None if name in without_map else pack_score_map(record.score_map),
            )
        ledger.mark_delivered(ledger.head)

    said = frazil("retune", out, "--threshold", "0.9999", "--min-distance", "120", "--apply")
    assert "no daemon runs: the request waits in the ledger" in said
    cut = []
    for at in (10, 60, 120):
        daemon = serve("--diameter", "48", "--model", blob_model, "--log-level", "debug")
        daemon.wait_log(rf"revised {at:03}\.mrc|results revised", PATIENCE_SECONDS)
        daemon.stop(signal.SIGKILL)
        with LedgerReader(out / "frazil-ledger.sqlite") as reader:
            tuned = RevisionProgress.decode(reader.meta()[TUNED_KEY])
        assert tuned is not None
        cut.append(not tuned.is_done)
    assert cut[0], "expected the first kill to come before the end"
    daemon = serve("--diameter", "48", "--model", blob_model)
    daemon.wait_log(r"198 results revised, 2 cannot be$", PATIENCE_SECONDS)

    results = by_micrograph(receive_all(daemon.stream, out / "frazil-ledger.sqlite"))
    assert sorted(results) == names
    for name, documents in results.items():
        assert len(documents) == (1 if name in without_map else 2)
        if name not in without_map:
            assert_one_chain(documents, out)
            assert documents[-1].threshold == 0.9999
    said = frazil("retune", out)
    assert "2 have no kept score map and would stay as they are: 050.mrc, 100.mrc" in said
    assert "picks per micrograph at other thresholds" in said
    one = json.loads(frazil("retune", out, "--threshold", "0.5", "--micrograph", watched / "001.mrc", "--json"))
    assert (one["path"], one["limits"]["threshold"], one["before"]["threshold"]) == ("001.mrc", 0.5, 0.9999)


def test_a_threshold_that_frazil_chooses_holds_for_all_whatever_kills_it_and_the_operator_wins(
    serve: Serve, blob_model: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object], tmp_path: Path
) -> None:
    options = ("--diameter", "48", "--model", blob_model, "--choose-threshold")
    watched, ledger = tmp_path / "watched", tmp_path / "out" / "frazil-ledger.sqlite"

    def put(number: int) -> None:
        scene, rng = make_scene(seed=number, count=25), np.random.default_rng(number)
        pixels = rng.normal(100, 10, (320, 448)).astype(np.float32)
        y, x = np.mgrid[:320, :448]
        for cy, cx, depth in zip(scene.truth.y, scene.truth.x, np.linspace(4, 9, 25), strict=True):  # type: ignore[attr-defined]
            pixels[np.hypot(y - cy, x - cx) <= 12] -= depth if number else 30.0
        write_mrc(tmp_path / "aside.tmp", pixels, 2.0).rename(watched / f"m{number:02}.mrc")

    daemon = serve(*options)
    for number in range(8):
        put(number)
        daemon.wait_log(rf"picked m{number:02}\.mrc", PATIENCE_SECONDS)
        if number in (0, 1, 4):
            daemon.stop(signal.SIGKILL)
            daemon = serve(*options)
    daemon.stop()  # what is left to revise, the next start revises
    daemon = serve(*options)
    put(8)
    daemon.wait_log(r"picked m08\.mrc", PATIENCE_SECONDS)

    def settled(threshold: float | None = None) -> dict[str, list[MicrographDocument]]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            results = by_micrograph(receive_all(daemon.stream, ledger))
            found = {documents[-1].threshold for documents in results.values()}
            if len(results) == 9 and len(found) == 1 and found != {0.5} and threshold in (None, *found):
                return results
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    results = settled()
    for documents in results.values():
        assert_one_chain(documents, daemon.out)
        assert all(not isinstance(document.chosen, msgspec.UnsetType) for document in documents)
        thresholds = [document.threshold for document in documents]
        assert all(abs(a - b) > 0.02 for a, b in itertools.pairwise(thresholds))
        assert len(documents) <= 5
    newest = results["m08.mrc"][-1]
    assert newest.chosen.micrographs == 9  # type: ignore[union-attr]
    said = json.loads(frazil("status", "--ledger", daemon.out, "--json"))["threshold"]
    assert (said["value"], said["chosen"]["micrographs"]) == (newest.threshold, 9)
    line = f"threshold: {newest.threshold:g}, chosen from 9 micrographs so far, estimated precision 0\\.\\d\\d"
    assert re.search(line, frazil("status", "--ledger", daemon.out))
    assert json.loads(frazil("retune", daemon.out, "--choose", "--json"))["micrographs"] == 9

    frazil("retune", daemon.out, "--threshold", "0.9", "--apply")
    assert {documents[-1].chosen for documents in settled(0.9).values()} == {msgspec.UNSET}
    assert "threshold: 0.9, tuned by the operator" in frazil("status", "--ledger", daemon.out)
    frazil("retune", daemon.out, "--choose", "--apply")
    for documents in settled(newest.threshold).values():
        assert_one_chain(documents, daemon.out)


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    def complaint(*arguments: object) -> str:
        done = subprocess.run(
            [str(a) for a in (BIN / "frazil", "retune", *arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == (78 if "threshold: expected" in done.stderr else 1)  # 78: settings that cannot be
        return done.stderr

    with closing(Ledger(tmp_path / "frazil-ledger.sqlite")):
        assert "expected a ledger, found none" in complaint(tmp_path / "nowhere")
        assert "threshold: expected a number from 0 to 1, found 7" in complaint(tmp_path, "--threshold", "7")
        assert "expected --threshold, --min-distance or --edge-margin" in complaint(tmp_path, "--apply")
        assert "expected a result to tune by" in complaint(tmp_path, "--threshold", "0.5", "--apply")
        assert "expected --threshold or --choose" in complaint(tmp_path, "--threshold", "0.5", "--choose")
        assert "expected a result to tune by" in complaint(tmp_path, "--choose")
        assert "expected --apply or --micrograph" in complaint(tmp_path, "--apply", "--micrograph", "a.mrc")
        assert "expected a micrograph with a result" in complaint(tmp_path, "--micrograph", "a.mrc")
