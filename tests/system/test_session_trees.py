"""A session tree as EPU writes it, into a running daemon: one result for each exposure, and an account of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.session.outbox.ledger import LedgerReader, ledger_file

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Write = Callable[..., Path]
PATIENCE_SECONDS = 60.0
RNG = np.random.default_rng(0)


def frazil(*arguments: object, status: int = 0) -> str:
    command = [str(a) for a in (BIN / "frazil", *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def expose(write_mrc: Write, make_scene: Callable[..., object]) -> Callable[..., str]:
    """Writes a square's overview, a hole's image and one exposure, in the order and by the names of EPU."""
    scene = make_scene()
    noise = RNG.normal(500, 30, (256, 256)).astype(np.float32)

    def write(root: Path, square: int, number: int) -> str:
        folder = root / f"Images-Disc1/GridSquare_{square}"
        stem = f"FoilHole_{number}_Data_7_8_20230101_{number:06}"
        for place in (folder / "Data", folder / "FoilHoles", root / "Metadata"):
            place.mkdir(parents=True, exist_ok=True)
        (root / f"Metadata/GridSquare_{square}.dm").write_text("<x/>")
        hole = folder / f"FoilHoles/FoilHole_{number}_20230101_{number:06}"
        for path, pixel_size in ((folder / f"GridSquare_20230101_{square:06}.mrc", 330.0), (hole, 24.0)):
            write_mrc(path.with_suffix(".mrc"), noise, pixel_size)
            path.with_suffix(".xml").write_text("<x/>")
            path.with_suffix(".jpg").write_bytes(b"\xff\xd8")
        write_mrc(folder / f"Data/{stem}_Fractions.mrc", noise, 2.0)
        write_mrc(folder / f"Data/{stem}_gain.mrc", noise, 2.0)
        for ending in (".xml", ".jpg", "_Fractions.xml", "_fractions.tiff", "_EER.eer"):
            (folder / f"Data/{stem}{ending}").write_bytes(b"II*\0")
        write_mrc(folder / f"Data/{stem}.mrc", scene.pixels, 2.0)  # type: ignore[attr-defined]
        return f"Images-Disc1/GridSquare_{square}/Data/{stem}.mrc"

    return write


def picked(out: Path) -> dict[str, int]:
    """Sequence numbers of the micrographs that have a result, by key."""
    with LedgerReader(ledger_file(out)) as reader:
        return {record.path: record.seq or 0 for record in reader.micrographs(["picked"])}


def test_an_epu_session_gives_one_result_for_each_exposure(
    serve: Serve, blob_model: Path, expose: Callable[..., str], write_mrc: Write
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--scan", "0.2")
    exposures = {expose(daemon.watched, square, 10 * square + hole) for square in (1, 2) for hole in (1, 2)}
    daemon.wait_log("epu, the layout of EPU: taken for micrographs are FoilHole_\\*_Data_\\*.mrc")
    wait_for(lambda: set(picked(daemon.out)) == exposures)

    # Something that no list of names knows, by name an exposure.
    overview = "Images-Disc1/GridSquare_1/Data/FoilHole_99_Data_9_9_20230101_000099.mrc"
    write_mrc(daemon.watched / overview, RNG.normal(500, 30, (256, 256)).astype(np.float32), 20.0)
    (daemon.watched / "notes.mrc").write_bytes(b"")
    daemon.wait_log(rf"{overview}: held: expected 448 x 320 pixels of 2 Å, as the session's, found 256 x 256")

    def passed_over() -> dict[str, int]:
        said = json.loads(frazil("status", "--passed-over", "--json", "--ledger", daemon.out))
        assert said["layout"] == "epu"
        return {reason: passed["count"] for reason, passed in said["passed_over"].items()}

    expected = {"unlike": 1, "layout": 1, "movie": 12, "companion": 8, "not_an_image": 18}
    wait_for(lambda: passed_over() == expected)
    said = frazil("status", "--passed-over", "--ledger", daemon.out)
    assert f"  {overview}\n" in said
    assert "unlike: 1 held" in said
    assert f"frazil requeue {overview}" in said
    assert "layout: epu, the layout of EPU" in frazil("status", "--ledger", daemon.out)
    assert daemon.stop() == 0
    assert set(picked(daemon.out)) == exposures

    # The next run knows the layout and what is held.
    again = serve("--diameter", "48", "--model", blob_model, "--scan", "0.2")
    late = expose(again.watched, 3, 31)
    wait_for(lambda: set(picked(again.out)) == exposures | {late})
    before = picked(again.out)

    assert "2 to be picked again" in frazil("requeue", "*/GridSquare_2/*", "--ledger", again.out)
    wait_for(lambda: sum(seq > max(before.values()) for seq in picked(again.out).values()) == 2)
    square = again.watched / "Images-Disc1/GridSquare_3"
    assert "1 to be picked again" in frazil("requeue", "--directory", square, "--ledger", again.out)
    wait_for(lambda: picked(again.out).get(late, 0) > before[late])
    assert "found none" in frazil("requeue", "GridSquare_4/*", "--ledger", again.out, status=1)
    assert "1 to be picked again" in frazil("requeue", "--held", "--ledger", again.out)
    again.wait_log(f"(picked|failed).*{overview}")
    assert "6 to be picked again" in frazil("requeue", "--all", "--ledger", again.out)


def test_the_doctor_says_whose_tree_it_is(expose: Callable[..., str], tmp_path: Path) -> None:
    for hole in (1, 2):
        expose(tmp_path, 1, hole)
    found = json.loads(frazil("doctor", "--watch", tmp_path, "--json"))
    says = [one["says"] for one in found if one["check"] == "layout"]
    assert says[0] == f"{tmp_path} looks like epu, the layout of EPU: 2 micrographs"
    assert says[1].startswith("2 taken by FoilHole_*_Data_*.mrc, such as Images-Disc1/GridSquare_1/Data/FoilHole_")
    assert any(line.startswith("2 passed over (movie) by *_fractions.mrc") for line in says)
    assert any(line.startswith("1 passed over (companion) by FoilHoles") for line in says)


def test_a_directory_may_not_write_among_the_results_of_another(
    serve: Serve, blob_model: Path, expose: Callable[..., str], tmp_path: Path
) -> None:
    first, second = tmp_path / "session42", tmp_path / "session43"
    for root in (first, second):
        expose(root, 1, 1)
    settings = ("--diameter", "48", "--model", blob_model)
    daemon = serve(*settings, watched=first)
    wait_for(lambda: len(picked(daemon.out)) == 1)
    assert daemon.stop() == 0
    for ledger in (daemon.out / "frazil-ledger.sqlite", tmp_path / "other.sqlite"):
        said = frazil(
            *("serve", "--watch", second, "--out", daemon.out, "--ledger", ledger, "--publish", "tcp://127.0.0.1:0"),
            *("--http", "127.0.0.1:0", *settings),
            status=1,
        )
        assert f"of {second}, found that of {first}" in said
    again = serve(*settings, "--ledger", tmp_path / "new.sqlite", watched=first)  # its own directory may begin anew
    again.wait_log("picked Images-Disc1")
