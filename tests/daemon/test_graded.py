"""Tables of graded micrographs: chosen by grade and by what people say, as RELION and cryoSPARC read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cryosparc.star
import msgspec
import numpy as np
import prometheus_client
import pytest
from typer.testing import CliRunner

from frazil.commands.cli import app
from frazil.documents import CtfFit, MicrographDocument, QualityDocument
from frazil.graded import graded_micrographs, micrographs_star
from frazil.health.metrics import Metrics
from frazil.picking.coordinates.star import read_tables
from frazil.session.correct import MarkMicrograph
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, leave_edits
from frazil.session.outbox.outbox import Outbox

FIT = CtfFit(
    defocus_u_angstrom=15512.25,
    defocus_v_angstrom=15003.5,
    defocus_angle_deg=31.25,
    resolution_angstrom=4.25,
    correlation=0.3125,
    voltage_kv=300.0,
    cs_mm=2.7,
    amplitude_contrast=0.1,
)


class Nowhere:
    session = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Nobody listens."""


class Session:
    """A ledger with assessed micrographs of a directory."""

    def __init__(self, folder: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.root, self.out = folder / "movies", folder / "out"
        self.out.mkdir()
        self.make_document = make_document
        self.ledger = Ledger(self.out / "frazil-ledger.sqlite")
        self.outbox = Outbox(
            self.ledger,
            Nowhere(),
            Metrics(prometheus_client.CollectorRegistry()),
            self.root,
            self.out,
            threading.Event(),
        )

    def add(self, key: str, **changes: object) -> None:
        placed = {"path": str(self.root / key), "directory": str(Path(key).parent).strip(".")}
        document = msgspec.structs.replace(self.make_document(key), micrograph=Path(key).name, **placed)
        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
        of = self.outbox.commit(document, key=key, handled=handled)
        quality = QualityDocument(
            epoch="",
            seq=0,
            micrograph=Path(key).name,
            of=of,
            grade="good",
            picks=1,
            usable_fraction=1.0,
            pixel_size_angstrom=1.25,
            ctf=FIT,
            **placed,
        )
        self.outbox.commit(msgspec.structs.replace(quality, **changes), key=key, fingerprint="f")

    def mark(self, key: str, mark: str) -> None:
        left = leave_edits(self.ledger.file, [MarkMicrograph(id=f"edit-of-{key[0]}", path=key, mark=mark)])  # type: ignore[arg-type]
        assert left.accepted == 1
        kept = self.ledger.result(key)
        assert kept is not None
        document = msgspec.json.decode(kept.body, type=MicrographDocument)
        self.outbox.commit(
            msgspec.structs.replace(document, supersedes=kept.seq), key=key, revises=kept.seq, score_map=None
        )

    def names(self, grade: str) -> list[str]:
        with LedgerReader(self.ledger.file) as reader:
            return [str(one.path.relative_to(self.root)) for one in graded_micrographs(reader, grade)]  # type: ignore[arg-type]

    def star(self, grade: str = "all") -> tuple[str, list[str]]:
        with LedgerReader(self.ledger.file) as reader:
            found = list(graded_micrographs(reader, grade))  # type: ignore[arg-type]
        return micrographs_star((str(one.path.relative_to(self.root.parent)), one.record) for one in found)


@pytest.fixture
def session(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Session]:
    made = Session(tmp_path, make_document)
    yield made
    made.ledger.close()


def test_a_persons_mark_comes_before_the_grade(session: Session) -> None:
    session.add("a.mrc")
    session.add("b.mrc", grade="doubtful")
    session.add("c.mrc", grade="bad")
    session.add("d.mrc", grade="bad")
    session.add("e.mrc")
    session.mark("d.mrc", "good")
    session.mark("e.mrc", "bad")
    assert session.names("all") == ["a.mrc", "b.mrc", "c.mrc", "d.mrc", "e.mrc"]
    assert session.names("usable") == ["a.mrc", "b.mrc", "d.mrc"]
    assert session.names("good") == ["a.mrc", "d.mrc"]


def test_relion_reads_the_table_of_optics_groups_and_micrographs(session: Session, tmp_path: Path) -> None:
    session.add("grid1/a.mrc")
    session.add("b.mrc", ctf=msgspec.structs.replace(FIT, voltage_kv=200.0, resolution_angstrom=None))
    session.add("c.mrc", pixel_size_angstrom=2.5)
    text, left_out = session.star()
    assert left_out == []
    file = tmp_path / "micrographs.star"
    file.write_text(text)
    printed = print_table(file, "micrographs", "rlnMicrographName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV")
    assert [row.split() for row in printed] == [
        ["movies/b.mrc", "1", "15512.25", "15003.50"],
        ["movies/c.mrc", "2", "15512.25", "15003.50"],
        ["movies/grid1/a.mrc", "3", "15512.25", "15003.50"],
    ]
    columns = "rlnDefocusAngle", "rlnCtfAstigmatism", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution"
    assert [[float(value) for value in row.split()] for row in print_table(file, "micrographs", *columns)] == [
        [31.25, 508.75, 0.3125, 999.0],
        [31.25, 508.75, 0.3125, 4.25],
        [31.25, 508.75, 0.3125, 4.25],
    ]
    columns = "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMicrographPixelSize"
    assert [[float(value) for value in row.split()] for row in print_table(file, "optics", *columns)] == [
        [200.0, 2.7, 0.1, 1.25],
        [300.0, 2.7, 0.1, 2.5],
        [300.0, 2.7, 0.1, 1.25],
    ]


def test_relion_selects_from_the_table_by_resolution(session: Session, tmp_path: Path) -> None:
    session.add("a.mrc")
    session.add("b.mrc", ctf=msgspec.structs.replace(FIT, resolution_angstrom=9.0))
    (tmp_path / "micrographs.star").write_text(session.star()[0])
    run(
        "relion_star_handler",
        *("--i", "micrographs.star", "--o", "best.star", "--select", "rlnCtfMaxResolution", "--maxval", "6"),
        folder=tmp_path,
    )
    (kept,) = [table for table in read_tables(tmp_path / "best.star") if table.block == "micrographs"]
    assert kept.columns["rlnMicrographName"] == ["movies/a.mrc"]


def test_cryosparc_tools_read_the_table(session: Session, tmp_path: Path) -> None:
    """cryoSPARC's own reader of STAR files knows blocks of records, and nothing of micrographs in particular."""
    session.add("a.mrc")
    session.add("b.mrc")
    file = tmp_path / "micrographs.star"
    file.write_text(session.star()[0])
    blocks = cryosparc.star.read(str(file))
    assert list(blocks["micrographs"]["rlnMicrographName"]) == ["movies/a.mrc", "movies/b.mrc"]
    assert np.allclose(blocks["micrographs"]["rlnDefocusU"].astype(float), 15512.25)
    assert float(blocks["optics"]["rlnVoltage"][0]) == 300.0


def test_one_without_a_ctf_is_left_out_and_said_so_unless_none_has_one(session: Session) -> None:
    session.add("a.mrc")
    session.add("b.mrc", ctf=msgspec.UNSET)
    text, left_out = session.star()
    assert "b.mrc" not in text
    assert left_out == ["movies/b.mrc: no CTF was fitted"]
    session.add("a.mrc", ctf=msgspec.UNSET)
    text, left_out = session.star()
    assert ("rlnDefocusU" in text, "rlnVoltage" in text, left_out) == (False, False, [])
    assert "movies/a.mrc 1\nmovies/b.mrc 1\n" in text


def test_phase_shifts_have_a_column_where_there_are_any(session: Session) -> None:
    session.add("a.mrc")
    assert "rlnPhaseShift" not in session.star()[0]
    session.add("b.mrc", ctf=msgspec.structs.replace(FIT, phase_shift_deg=90.5))
    text, _ = session.star()
    assert "_rlnPhaseShift #9" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("movies/")] == ["0.00", "90.50"]


def test_a_name_that_relion_cannot_read_is_left_out(session: Session) -> None:
    session.add("a.mrc")
    session.add("two  blanks.mrc")
    text, left_out = session.star()
    assert "blanks" not in text
    assert "two blanks in a row" in left_out[0]


def test_the_command_writes_names_as_seen_from_here(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add("a.mrc")
    session.add("b.mrc", grade="bad")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["micrographs", "--to", "good.star", "--grade", "good", "--ledger", "out"])
    assert (done.exit_code, done.stdout) == (0, "1 micrographs written to good.star\n")
    (table,) = [table for table in read_tables(tmp_path / "good.star") if table.block == "micrographs"]
    assert table.columns["rlnMicrographName"] == ["movies/a.mrc"]
    refused = CliRunner().invoke(app, ["micrographs", "--to", "good.csv", "--ledger", "out"])
    assert "expected a name that ends with .star, found good.csv" in str(refused.exception)


def print_table(file: Path, table: str, *columns: str) -> list[str]:
    said = run("relion_star_printtable", file.name, f"data_{table}", *columns, folder=file.parent)
    return [line for line in said.splitlines() if line.strip()]


def run(program: str, *arguments: str, folder: Path) -> str:
    if shutil.which(program) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing, and CI must not skip what needs it (apt-get install relion)")
        pytest.skip(f"needs {program} (Debian: apt-get install relion), which is not installed")
    done = subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout
