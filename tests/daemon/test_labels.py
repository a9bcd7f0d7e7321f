"""Labels: picks go to other programs and come back, and what people changed there becomes edits."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frazil.errors import FrazilError
from frazil.labels import LabelImport, import_labels
from frazil.picking import Picks, read_coordinates, write_box, write_cbox, write_csv, write_star, write_topaz
from frazil.session.correct import AddPick, DeletePick, MarkMicrograph
from frazil.session.outbox.ledger import LedgerReader

Rig = Any
"""Of ``conftest.py``: a ledger with what commits to it and grants edits."""
BIN = Path(sys.executable).parent
SHAPE = (400, 500)
PLACES = [(40.0 + 40 * row, 60.0 + 40 * column) for row in range(5) for column in range(10)]
"""All in the upper half: upside down they lie on nothing."""


@pytest.fixture
def rig(open_rig: Callable[..., Rig]) -> Rig:
    return open_rig()


def frazil(*words: object, status: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in (BIN / "frazil", *words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


def picks_at(*places: tuple[float, float]) -> Picks:
    y, x = np.array(places, np.float64).reshape(-1, 2).T
    return Picks(y=y, x=x, score=np.ones(y.size))


def read(rig: Rig, *given: Path, **options: Any) -> LabelImport:
    with LedgerReader(rig.file) as reader:
        done = import_labels(reader, given, **options)
    rig.grant()
    return done


def where(rig: Rig, key: str = "a.mrc") -> set[tuple[float, float]]:
    picks = rig.newest(key).picks
    return set(zip(picks.y, picks.x, strict=True))


def correct(rig: Rig) -> None:
    """What a person does to four micrographs: two corrected, one without a particle, one left alone."""
    for key in ("a.mrc", "grid 1/a.mrc", "grid 1/b.mrc", "c.mrc"):
        rig.pick(key, at=PLACES)
    rig.leave((DeletePick, {"y": 40, "x": 60}), (AddPick, {"y": 390, "x": 490}))
    rig.leave((AddPick, {"y": 300, "x": 20.5}), (DeletePick, {"y": 80, "x": 100}), key="grid 1/b.mrc", first=10)
    rig.leave((MarkMicrograph, {"mark": "bad"}), key="c.mrc", first=20)
    rig.grant()


@pytest.mark.parametrize("form", ["star", "box", "cbox", "topaz", "csv"])
def test_what_is_exported_and_imported_into_a_fresh_ledger_is_equal(
    form: str, rig: Rig, open_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    correct(rig)
    said = frazil("labels", "export", "--ledger", rig.file, "--out", tmp_path / "labels", "--format", form)
    assert "150 picks of 4 micrographs" in said
    (tmp_path / "fresh").mkdir()
    fresh = open_rig(folder=tmp_path / "fresh")
    for key in ("a.mrc", "grid 1/a.mrc", "grid 1/b.mrc", "c.mrc"):
        fresh.pick(key, at=PLACES)
    said = frazil("labels", "import", tmp_path / "labels", "--ledger", fresh.file, "--by", "Ada")
    assert "4 micrographs compared, 3 corrected: 2 picks added, 52 deleted" in said
    fresh.grant()
    for key in ("a.mrc", "grid 1/a.mrc", "grid 1/b.mrc", "c.mrc"):
        one, other = rig.newest(key), fresh.newest(key)
        assert one.picks.score == other.picks.score
        px = 0.51 if form in ("box", "topaz") else 1e-3  # whole pixels, or three decimals
        np.testing.assert_allclose(one.picks.y, other.picks.y, atol=px)
        np.testing.assert_allclose(one.picks.x, other.picks.x, atol=px)
    again = frazil("labels", "import", tmp_path / "labels", "--ledger", fresh.file)
    assert "4 micrographs compared, 0 corrected" in again
    corrections = fresh.newest().corrections
    assert (corrections.by, corrections.added, corrections.deleted) == (["Ada"], [0], 1)


def test_an_import_counts_with_edits_that_wait_and_with_what_is_labelled_twice(rig: Rig, tmp_path: Path) -> None:
    rig.pick(at=PLACES)
    twice = ((390, 491), (PLACES[7][0] + 2, PLACES[7][1]))
    write_star(tmp_path / "a.star", picks_at(*PLACES[1:], (390, 490), *twice))
    with LedgerReader(rig.file) as reader:
        assert [import_labels(reader, [tmp_path / "a.star"]).added for _ in range(2)] == [1, 0]
    rig.grant()
    assert where(rig) == {*PLACES[1:], (390, 490)}


def test_a_table_of_many_micrographs_is_read_for_those_that_are_known(rig: Rig, tmp_path: Path) -> None:
    rig.pick(at=PLACES)
    rig.pick("deep/b.mrc", at=PLACES)
    rows = [("a", *place) for place in PLACES[2:]] + [("deep/b", *place) for place in PLACES[4:]] + [("z", 1, 1)]
    table = "image_name\tx_coord\ty_coord\n" + "".join(f"{name}\t{x}\t{y}\n" for name, y, x in rows)
    (tmp_path / "all.txt").write_text(table)
    done = read(rig, tmp_path / "all.txt")
    assert (done.micrographs, done.deleted, done.added, done.passed_over) == (2, 6, 0, [])
    assert where(rig) == set(PLACES[2:])
    assert where(rig, "deep/b.mrc") == set(PLACES[4:])


@pytest.mark.parametrize("y_axis", ["down", "up"])
def test_labels_that_are_upside_down_are_refused_and_right_with_the_other_axis(
    y_axis: str, rig: Rig, tmp_path: Path
) -> None:
    rig.pick(at=PLACES)
    turned = [(399 - y, x) for y, x in PLACES[3:]]
    write_cbox(tmp_path / "a.cbox", picks_at(*(turned if y_axis == "down" else PLACES[3:])), 40, diameter_px=40)
    other = "up" if y_axis == "down" else "down"
    with pytest.raises(FrazilError, match=rf"much better with y flipped .*: give --y-axis {other}"):
        read(rig, tmp_path / "a.cbox", y_axis=y_axis)
    assert rig.ledger.next_to_correct() is None
    assert read(rig, tmp_path / "a.cbox", y_axis=other).deleted == 3
    assert where(rig) == set(PLACES[3:])


def test_where_the_model_found_nothing_the_picture_tells_which_way_y_grows(
    rig: Rig, tmp_path: Path, make_scene: Callable[..., Any], write_mrc: Callable[..., Path]
) -> None:
    scene = make_scene(shape=(600, 800), count=60)
    write_mrc(tmp_path / "a.mrc", scene.pixels)
    rig.pick(at=[], shape=(600, 800), diameter_px=24.0, path=str(tmp_path / "a.mrc"))
    y, x = scene.truth.y, scene.truth.x
    write_csv(tmp_path / "a.csv", picks_at(*zip(599 - y, x, strict=True)))
    with pytest.raises(FrazilError, match=r"contrast .*: give --y-axis up"):
        read(rig, tmp_path / "a.csv")
    assert read(rig, tmp_path / "a.csv", y_axis="up").added == len(y)


def test_what_cannot_be_labels_is_passed_over_and_said(rig: Rig, tmp_path: Path) -> None:
    for key in ("a.mrc", "one/b.mrc", "two/b.mrc", "c.mrc", "d.mrc"):
        rig.pick(key, at=PLACES)
    rig.leave((MarkMicrograph, {"mark": "bad"}), key="d.mrc")
    rig.grant()
    folder = tmp_path / "labels"
    folder.mkdir()
    write_star(folder / "a_picks.star", picks_at(*PLACES[1:]))
    write_box(folder / "b.box", picks_at(*PLACES), 40)
    write_topaz(folder / "c.txt", picks_at(*((y * 4, x * 4) for y, x in PLACES)), "c.mrc")
    write_star(folder / "d.star", picks_at(*PLACES))
    write_star(folder / "unknown.star", picks_at(*PLACES))
    (folder / "README.txt").write_text("picked by Ada")
    (folder / "e.star").write_bytes(bytes(range(256)))
    done = read(rig, folder)
    assert (done.micrographs, done.deleted, done.added) == (1, 1, 0)
    said = "\n".join(done.passed_over)
    for why in (
        "b stands for one/b.mrc and two/b.mrc",
        "c.txt: expected particles in a picture of 500 x 400 px, found",
        "d.mrc is marked bad",
        "unknown.star: expected labels of a micrograph with a result",
        "README.txt: expected a header",
        "e.star: expected",
    ):
        assert why in said
    assert len(done.passed_over) == 6


def test_two_files_of_one_micrograph_ask_for_the_format(rig: Rig, tmp_path: Path) -> None:
    rig.pick(at=PLACES)
    write_star(tmp_path / "a.star", picks_at(*PLACES[1:]))
    write_csv(tmp_path / "a.csv", picks_at(*PLACES[2:]))
    with pytest.raises(FrazilError, match="choose one with --format"):
        read(rig, tmp_path / "a.star", tmp_path / "a.csv")
    assert read(rig, tmp_path, file_format="csv").deleted == 2
    with pytest.raises(FrazilError, match="found none"):
        read(rig, tmp_path, file_format="box")


def test_reject_marks_by_name_and_pattern_and_takes_the_marks_away(rig: Rig, tmp_path: Path) -> None:
    for key in ("a.mrc", "grid/b.mrc", "grid/c.mrc"):
        rig.pick(key, at=PLACES)
    assert frazil("reject", "a.mrc", "grid/*", "--ledger", rig.file) == "3 marked bad\n"
    rig.grant()
    assert [len(where(rig, key)) for key in ("a.mrc", "grid/b.mrc", "grid/c.mrc")] == [0, 0, 0]
    assert len(read_coordinates(tmp_path / "out" / "a_picks.star", may_be_empty=True)) == 0
    assert frazil("reject", "grid/*", "--undo", "--ledger", rig.file) == "2 no longer marked\n"
    rig.grant()
    assert [len(where(rig, key)) for key in ("a.mrc", "grid/b.mrc", "grid/c.mrc")] == [0, 50, 50]
    assert "expected a micrograph that" in frazil("reject", "x.mrc", "--ledger", rig.file, status=1)


def test_a_name_that_a_format_cannot_hold_is_said_and_the_others_are_written(rig: Rig, tmp_path: Path) -> None:
    rig.pick('a"b.mrc', at=PLACES)
    rig.pick("c.mrc", at=PLACES)
    rig.leave((MarkMicrograph, {"mark": "good"}), key="c.mrc")
    said = frazil("labels", "export", "--ledger", rig.file, "--out", tmp_path / "l", "--format", "topaz", status=1)
    assert "expected a name that can stand in Topaz's table" in said
    assert "1 edits wait for the daemon" in said
    assert [file.name for file in (tmp_path / "l").iterdir()] == ["c.txt"]
    rig.grant()
    for option in ("--good", "--corrected"):
        said = frazil("labels", "export", "--ledger", rig.file, "--out", tmp_path / "l", option)
        assert "50 picks of 1 micrographs" in said
    assert "found 'pdf'" in frazil("labels", "export", "--out", tmp_path, "--format", "pdf", status=1)


# --- downloads --------------------------------------------------------------------------------------------------


def get(url: str) -> tuple[dict[str, str], bytes]:
    with urllib.request.urlopen(url, timeout=240) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def test_the_page_gives_out_one_file_or_a_zip_of_many(
    open_page: Callable[..., Any], open_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    page = open_page()
    rig = open_rig(page.ledger)
    correct(rig)
    headers, body = get(f"{page.url}/api/export?format=star&paths=grid%201/b.mrc")
    assert 'filename="b_picks.star"' in headers["content-disposition"]
    assert body == (tmp_path / "out" / "grid 1" / "b_picks.star").read_bytes()
    headers, body = get(f"{page.url}/api/export?format=star")
    assert headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(body)) as bundle:
        assert bundle.testzip() is None
        names = bundle.namelist()
        assert sorted(names) == [
            "a_picks.star", "c_picks.star", "grid 1/a_picks.star", "grid 1/b_picks.star",
        ]  # fmt: skip
        for name in names:
            assert bundle.read(name) == (tmp_path / "out" / name).read_bytes()
    _, body = get(f"{page.url}/api/export?format=topaz&paths=a.mrc&paths=c.mrc&paths=unknown.mrc")
    with zipfile.ZipFile(io.BytesIO(body)) as bundle:
        assert sorted(bundle.namelist()) == ["a.txt", "c.txt"]
    _, body = get(f"{page.url}/api/export?mark=bad")
    with zipfile.ZipFile(io.BytesIO(body)) as bundle:
        assert bundle.namelist() == ["c_picks.star"]
    _, body = get(f"{page.url}/api/export?format=csv&folder=grid%201&search=B.&sort=picks")
    with zipfile.ZipFile(io.BytesIO(body)) as bundle:
        assert bundle.namelist() == ["grid 1/b.csv"]
    many = {"format": "box", "paths": ["a.mrc", "c.mrc", *(f"unknown_{k:0200}.mrc" for k in range(1000))]}
    asked = urllib.request.Request(
        f"{page.url}/api/export", json.dumps(many).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=240) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as bundle:
        assert sorted(bundle.namelist()) == ["a.box", "c.box"]
    for query in ("format=json", "mark=fine", "format=cryosparc"):
        with pytest.raises(urllib.request.HTTPError, match="400"):
            get(f"{page.url}/api/export?{query}")
    with pytest.raises(urllib.request.HTTPError, match="404"):
        get(f"{page.url}/api/export?paths=../../etc/passwd")


def test_names_with_signs_are_downloaded_by_their_names(
    open_page: Callable[..., Any], open_rig: Callable[..., Rig]
) -> None:
    page = open_page()
    rig = open_rig(page.ledger)
    rig.pick('é"a\tb.mrc', at=PLACES)
    headers, _ = get(f"{page.url}/api/export?format=csv&paths=%C3%A9%22a%09b.mrc")
    assert headers["content-disposition"].endswith("filename*=UTF-8''%C3%A9%22a%09b.csv")
    _, body = get(f"{page.url}/api/export?format=topaz")
    with zipfile.ZipFile(io.BytesIO(body)) as bundle:
        assert bundle.namelist() == ["left-out.txt"]
        assert b"expected a name that can stand in Topaz's table" in bundle.read("left-out.txt")
