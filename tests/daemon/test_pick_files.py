"""Files beside the stream: golden ones, of a micrograph that is neither square nor symmetric."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from gemmi import cif
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.documents import MicrographDocument, PickColumns, decode_document
from frazil.errors import FrazilError, MicrographError, OutputError
from frazil.pick_files import PickFileWriter
from frazil.picking import Picks, named_micrographs, read_coordinates, read_star, write_topaz
from frazil.picking.coordinates.star import read_tables
from frazil.picking.coordinates.table import stem_of

# 300 rows and 460 columns; nothing in it can be swapped or flipped unseen.
SHAPE = (300, 460)
PLACES = [(10.0, 420.0, 0.75), (200.25, 33.0, 0.5), (290.0, 455.0, 0.25)]

GOLDEN = {
    "star": (
        "m.17_picks.star",
        (
            "\n# version 30001\n\ndata_\n\nloop_\n"
            "_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n_rlnMicrographName #4\n"
            "     420.000       10.000     0.750000 m.17.mrc\n      33.000      200.250     0.500000 m.17.mrc\n"
            "     455.000      290.000     0.250000 m.17.mrc\n\n"
        ),
    ),
    "box": (
        "m.17.box",
        "400\t-10\t40\t40\t0.750000\n13\t180\t40\t40\t0.500000\n435\t270\t40\t40\t0.250000\n",
    ),
    "cbox": (
        "m.17.cbox",
        (
            "data_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n"
            "_CoordinateZ #3\n_Width #4\n_Height #5\n_Depth #6\n_EstWidth #7\n_EstHeight #8\n_Confidence #9\n"
            "_NumBoxes #10\n_Angle #11\n"
            "400.000 -10.000 <NA> 40.0 40.0 <NA> 40.200 40.200 0.750000 1 <NA>\n"
            "13.000 180.250 <NA> 40.0 40.0 <NA> 40.200 40.200 0.500000 1 <NA>\n"
            "435.000 270.000 <NA> 40.0 40.0 <NA> 40.200 40.200 0.250000 1 <NA>\n"
            "\ndata_cryolo_include\n\nloop_\n_slice_index #1\n"
        ),
    ),
    "topaz": (
        "m.17.txt",
        (
            "image_name\tx_coord\ty_coord\tscore\nm.17\t420\t10\t0.750000\nm.17\t33\t200\t0.500000\n"
            "m.17\t455\t290\t0.250000\n"
        ),
    ),
    "csv": ("m.17.csv", "x,y,score\n420.000,10.000,0.750000\n33.000,200.250,0.500000\n455.000,290.000,0.250000\n"),
}

RELIONS = (
    "\n# version 30001\n\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
    "     420.000       10.000     0.750000\n      33.000      200.250     0.500000\n"
    "     455.000      290.000     0.250000\n\n"
)

AUTOPICK = """
# version 30001

data_coordinate_files

loop_
_rlnMicrographName #1
_rlnMicrographCoordinates #2
MotionCorr/job002/Movies/m.17.mrc AutoPick/job006/Movies/m.17_autopick.star
"""

PARTICLES = """
# version 30001

data_particles

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnAutopickFigureOfMerit #4
MotionCorr/job002/Movies/m.17.mrc 420.000 10.000 0.750000
MotionCorr/job002/Movies/m.17.mrc 33.000 200.250 0.500000
MotionCorr/job002/Movies/m.17.mrc 455.000 290.000 0.250000
"""


@pytest.fixture
def picked(
    make_document: Callable[..., MicrographDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MicrographDocument]:
    """Documents of micrographs in MotionCorr/job002/Movies of the project in the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(name: str = "m.17.mrc", places: list[tuple[float, float, float]] = PLACES) -> MicrographDocument:
        y, x, score = zip(*places, strict=True)
        return msgspec.structs.replace(
            make_document(f"{tmp_path}/MotionCorr/job002/Movies/{name}"),
            shape=SHAPE,
            diameter_px=40.2,
            directory="Movies",
            picks=PickColumns(y=list(y), x=list(x), score=list(score)),
        )

    return make


@pytest.mark.parametrize("file_format", GOLDEN)
def test_a_file_is_what_its_format_asks_for(picked: Callable[..., MicrographDocument], file_format: str) -> None:
    name, text = GOLDEN[file_format]
    PickFileWriter(Path("out"), file_format).write(picked())  # type: ignore[arg-type]
    assert [f.name for f in Path("out/Movies").iterdir()] == [name]
    assert Path("out/Movies", name).read_text() == text
    read = read_coordinates(Path("out/Movies", name))
    rounded = [(round(y), x, s) for y, x, s in PLACES] if file_format in ("box", "topaz") else PLACES
    assert list(zip(read.y.tolist(), read.x.tolist(), read.score.tolist(), strict=True)) == rounded


@pytest.mark.parametrize("name", ["a\tb.mrc", "a\nb.mrc", 'a"b.mrc', "a\x85b.mrc"])
def test_a_name_that_would_part_topazs_line_is_refused(picked: Callable[..., MicrographDocument], name: str) -> None:
    with pytest.raises(MicrographError, match=r"expected a name that can stand in Topaz's table, found 'a") as refused:
        PickFileWriter(Path("out"), "topaz").write(picked(name))
    assert refused.value.reason == "name"
    assert not list(Path("out/Movies").iterdir())


@given(
    st.lists(st.tuples(*[st.floats(0, 9999)] * 2, st.floats(0, 1)), max_size=5),
    st.text(st.characters(exclude_characters='/"', exclude_categories=["C", "Z"]), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_topazs_table_names_its_micrograph(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, float]], name: str
) -> None:
    path = tmp_path_factory.mktemp("topaz") / "a.txt"
    y, x, score = (np.array(values, np.float64) for values in (zip(*rows, strict=True) if rows else ((), (), ())))
    write_topaz(path, Picks(y=y, x=x, score=score), f"{name}.mrc")
    if not rows:
        assert len(read_coordinates(path, may_be_empty=True)) == 0
        return
    assert named_micrographs(path) == {stem_of(name)}
    read = read_coordinates(path, stem=stem_of(name))
    np.testing.assert_allclose((read.y, read.x), (y, x), atol=0.5)
    np.testing.assert_allclose(read.score, score, atol=1e-6)


def test_a_relion_job_lists_micrographs_and_coordinate_files(picked: Callable[..., MicrographDocument]) -> None:
    PickFileWriter(Path("AutoPick/job006"), "relion").write(picked())
    assert Path("AutoPick/job006/autopick.star").read_text() == AUTOPICK
    assert Path("AutoPick/job006/Movies/m.17_autopick.star").read_text() == RELIONS


@pytest.mark.parametrize("target", ["../MotionCorr/job002/", "job002", "{}/MotionCorr/job002"])
def test_by_an_alias_of_a_job_it_is_known_by_the_jobs_number(
    picked: Callable[..., MicrographDocument], tmp_path: Path, target: str
) -> None:
    Path("MotionCorr/job002/Movies").mkdir(parents=True)
    Path("MotionCorr/good").symlink_to(target.format(tmp_path))
    document = msgspec.structs.replace(picked(), path=f"{tmp_path}/MotionCorr/good/Movies/m.17.mrc")
    PickFileWriter(Path("AutoPick/job006"), "relion").write(document)
    assert Path("AutoPick/job006/autopick.star").read_text() == AUTOPICK


def test_a_link_that_is_no_alias_keeps_its_name(picked: Callable[..., MicrographDocument], tmp_path: Path) -> None:
    (tmp_path / "elsewhere/job002").mkdir(parents=True)
    Path("MotionCorr").mkdir()
    Path("MotionCorr/job003").symlink_to(tmp_path / "elsewhere/job002")
    document = msgspec.structs.replace(picked(), path=f"{tmp_path}/MotionCorr/job003/m.17.mrc")
    PickFileWriter(Path("AutoPick/job006"), "relion").write(document)
    assert names_in(Path("AutoPick/job006/autopick.star")) == ["MotionCorr/job003/m.17.mrc"]


def test_cryosparc_gets_one_table_of_all_particles(picked: Callable[..., MicrographDocument]) -> None:
    PickFileWriter(Path("out"), "cryosparc").write(picked())
    assert Path("out/particles.star").read_text() == PARTICLES
    assert read_coordinates(Path("out/particles.star"), stem="m.17").x.tolist() == [420.0, 33.0, 455.0]


def test_a_document_can_be_kept_as_it_is(picked: Callable[..., MicrographDocument]) -> None:
    PickFileWriter(Path("out"), "json").write(picked())
    assert decode_document(Path("out/Movies/m.17.json").read_bytes()) == picked()


@pytest.mark.parametrize(("file_format", "table"), [("relion", "autopick.star"), ("cryosparc", "particles.star")])
def test_a_table_goes_on_after_a_restart_and_holds_nothing_twice(
    picked: Callable[..., MicrographDocument], file_format: str, table: str
) -> None:
    PickFileWriter(Path("out"), file_format).write(picked("a.mrc"))  # type: ignore[arg-type]
    path = Path("out", table)
    with path.open("a") as file:
        file.write("MotionCorr/job002/Movies/b.mrc to")  # the power went here
    again = PickFileWriter(Path("out"), file_format)  # type: ignore[arg-type]
    for name, places in (("b.mrc", PLACES), ("a b.mrc", PLACES[:1]), ("a.mrc", PLACES[:2])):
        again.write(picked(name, places))
    names = names_in(path)
    counts = {Path(name).name: names.count(name) for name in names}
    assert counts == (
        {"a.mrc": 1, "b.mrc": 1, "a b.mrc": 1} if table == "autopick.star" else {"a.mrc": 2, "b.mrc": 3, "a b.mrc": 1}
    )


def names_in(path: Path) -> list[str]:
    """What a reader of CIF finds."""
    return [cif.as_string(v) for v in cif.read_file(str(path)).sole_block().find_values("_rlnMicrographName")]


HARD_NAMES = [
    *("data_20230101/m.mrc", "Data_7.mrc", "save_/m.mrc", "_m.mrc", "$m.mrc", "[1].mrc", ";m.mrc", "#m.mrc", "'m'.mrc"),
    *(
        'a b/"m.mrc',
        "it's.mrc",
        "m\u00a01.mrc",
        "m\u20281.mrc",
        "m\x851.mrc",
        "loop_/m.mrc",
        "LOOP_",
        "mikrographié.mrc",
    ),
]


@pytest.mark.parametrize("file_format", ["relion", "cryosparc"])
def test_a_table_of_hard_names_goes_on_after_each_of_them(
    make_document: Callable[..., MicrographDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table = Path("out", "autopick.star" if file_format == "relion" else "particles.star")
    for name in [*HARD_NAMES, *HARD_NAMES]:
        # Made anew, as after a restart; the second time each replaces its rows.
        PickFileWriter(Path("out"), file_format).write(make_document(f"{tmp_path}/{name}"))  # type: ignore[arg-type]
    found = [name for (table_,) in [read_tables(table)] for name in table_.columns["rlnMicrographName"]]
    assert len(found) == len(set(found)) * len(make_document("a.mrc").picks.score) ** (file_format == "cryosparc")
    assert {os.path.normpath(name) for name in found} == set(HARD_NAMES)
    if file_format == "relion":
        assert set(names_in(table)) == set(HARD_NAMES)  # word for word: RELION compares them


ANY_NAME = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=25)  # a disk may take its time
@given(names=st.lists(ANY_NAME.filter(lambda name: name.strip(".")), max_size=4))
@pytest.mark.parametrize(("file_format", "table"), [("relion", "autopick.star"), ("cryosparc", "particles.star")])
def test_any_name_is_found_again_after_a_restart_or_refused(
    make_document: Callable[..., MicrographDocument],
    tmp_path_factory: pytest.TempPathFactory,
    file_format: str,
    table: str,
    names: list[str],
) -> None:
    project = tmp_path_factory.mktemp("project")
    written = set()
    with contextlib.chdir(project):
        for path in [*names, *(f"folder/{name}.mrc" for name in names), *names]:  # what comes again replaces its row
            files = PickFileWriter(Path("out"), file_format)  # type: ignore[arg-type]
            with contextlib.suppress(MicrographError):
                files.write(make_document(f"{project}/{path}"))
                written.add(path)
        tables = read_tables(Path("out", table)) if written else []
    found = [os.path.normpath(name) for one in tables for name in one.columns["rlnMicrographName"]]
    assert sorted(found) == sorted(written)


def test_names_for_cryosparc_need_no_quotes_where_a_folder_before_them_helps(
    make_document: Callable[..., MicrographDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader knows no quotes, and CIF's keeps these words for itself."""
    monkeypatch.chdir(tmp_path)
    files = PickFileWriter(Path("out"), "cryosparc")
    names = ["data_1/m.mrc", "_m.mrc", "$m.mrc", "'m'.mrc"]
    for name in names:
        files.write(make_document(f"{tmp_path}/{name}"))
    rows = [line.split() for line in Path("out/particles.star").read_text().splitlines() if line.endswith("0")]
    assert list(dict.fromkeys(row[0] for row in rows)) == [f"./{name}" for name in names]
    assert list(dict.fromkeys(names_in(Path("out/particles.star")))) == [f"./{name}" for name in names]


@pytest.mark.parametrize("name", ["a\nb.mrc", "a\tb.mrc", "a  b.mrc", "a' b\" c.mrc", "a\x7f.mrc"])
@pytest.mark.parametrize(("file_format", "table"), [("relion", "autopick.star"), ("cryosparc", "particles.star")])
def test_a_name_that_relion_cannot_read_is_refused_alone(
    make_document: Callable[..., MicrographDocument], tmp_path: Path, file_format: str, table: str, name: str
) -> None:
    files = PickFileWriter(tmp_path / "out", file_format)  # type: ignore[arg-type]
    files.write(make_document("/w/a.mrc"))
    with pytest.raises(MicrographError, match=rf"{table}: expected a name that can stand in a STAR file"):
        files.write(make_document(f"/w/{name}"))
    files.write(make_document("/w/b.mrc"))
    assert set(names_in(tmp_path / "out" / table)) == {"/w/a.mrc", "/w/b.mrc"}


def test_a_table_that_frazil_did_not_write_is_not_touched(tmp_path: Path) -> None:
    table = tmp_path / "particles.star"
    table.write_text(PARTICLES.replace("_rlnCoordinateX #2", "_rlnVoltage #2"))
    before = table.read_bytes()
    with pytest.raises(FrazilError, match=r"particles\.star: expected a table .*, found one with .*rlnVoltage"):
        PickFileWriter(tmp_path, "cryosparc")
    assert table.read_bytes() == before


@pytest.mark.parametrize("left", [None, ""])
def test_a_table_that_is_taken_away_begins_anew(
    make_document: Callable[..., MicrographDocument], tmp_path: Path, left: str | None
) -> None:
    files = PickFileWriter(tmp_path, "cryosparc")
    files.write(make_document("/w/a.mrc"))
    table = tmp_path / "particles.star"
    table.unlink() if left is None else table.write_text(left)
    files.write(make_document("/w/b.mrc"))
    assert names_in(table) == ["/w/b.mrc"]


def test_names_from_the_network_stay_inside_the_directory(
    picked: Callable[..., MicrographDocument], tmp_path: Path
) -> None:
    evil = msgspec.structs.replace(picked(), directory="/../../etc/..", micrograph="../../passwd.mrc")
    PickFileWriter(Path("out"), "star").write(evil)
    assert read_star(tmp_path / "out" / "etc" / "passwd_picks.star").x[0] == 420


def test_box_sizes_may_be_given(picked: Callable[..., MicrographDocument]) -> None:
    PickFileWriter(Path("out"), "box", box_size_px=100).write(picked())
    assert Path("out/Movies/m.17.box").read_text().startswith("370\t-40\t100\t100\t")


def test_places_that_cannot_be_written_are_refused_by_name(picked: Callable[..., MicrographDocument]) -> None:
    Path("file").write_text("")
    with pytest.raises(OutputError, match="file/out: expected a directory that can be written"):
        PickFileWriter(Path("file/out"), "star")
    Path("out").mkdir()
    Path("out/autopick.star").write_text("data_x loop_ _a _b 1 2 3\n" * 20)
    with pytest.raises(FrazilError, match=r"autopick\.star: cannot be read as a STAR file"):
        PickFileWriter(Path("out"), "relion")


@pytest.mark.parametrize("file_format", ["star", "relion", "cryosparc"])
def test_a_full_disk_is_no_fault_of_a_file(
    picked: Callable[..., MicrographDocument], small_disk: Callable[..., Path], file_format: str
) -> None:
    disk = small_disk("disk", 64)
    files = PickFileWriter(disk / "out", file_format)  # type: ignore[arg-type]
    files.write(picked("a.mrc"))
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(OutputError, match=r"out(/particles\.star)?: cannot be written: No space left on device"):
        files.write(picked("b.mrc", PLACES * 100))
    (disk / "filler").unlink()
    files = PickFileWriter(disk / "out", file_format)  # type: ignore[arg-type]
    files.write(picked("b.mrc", PLACES))
    if file_format == "cryosparc":
        assert len(read_coordinates(disk / "out/particles.star", stem="b")) == 3


def test_a_file_that_cannot_be_written_is_one_micrographs_fault(picked: Callable[..., MicrographDocument]) -> None:
    files = PickFileWriter(Path("out"), "star")
    Path("out/Movies/m.17_picks.star").mkdir(parents=True)
    with pytest.raises(MicrographError, match=r"m\.17_picks\.star: Is a directory") as refused:
        files.write(picked())
    assert refused.value.reason == "output"
    files.write(picked("n.MRC.gz"))
    assert sorted(f.name for f in Path("out/Movies").iterdir()) == ["m.17_picks.star", "n_picks.star"]
    with pytest.raises(MicrographError, match="null byte"):
        files.write(msgspec.structs.replace(picked(), micrograph="m\0.mrc"))


@pytest.mark.parametrize(("file_format", "table"), [("relion", "autopick.star"), ("cryosparc", "particles.star")])
def test_a_table_that_cannot_be_written_is_no_fault_of_a_micrograph(
    picked: Callable[..., MicrographDocument], file_format: str, table: str
) -> None:
    Path("out", table).mkdir(parents=True)
    with pytest.raises(OutputError, match=f"out/{re.escape(table)}: cannot be written: Is a directory"):
        PickFileWriter(Path("out"), file_format).write(picked())  # type: ignore[arg-type]
