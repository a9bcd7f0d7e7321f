"""Coordinate files: x is the column, y the row, and nothing is flipped unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import FrazilError
from frazil.picking import Picks, named_micrographs, read_coordinates, read_star, write_star


def picks(*rows: tuple[float, float, float]) -> Picks:
    values = np.array(rows, np.float64).reshape(-1, 3)
    return Picks(y=values[:, 0], x=values[:, 1], score=values[:, 2])


def test_star_has_relions_columns_with_x_as_the_column(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", picks((10.25, 300.5, 0.875), (11, 4000, 0.5)))
    block = cif.read_file(str(tmp_path / "a.star")).sole_block()
    columns = ["_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit"]
    table = block.find(columns)
    assert [[float(v) for v in row] for row in table] == [[300.5, 10.25, 0.875], [4000, 11, 0.5]]
    assert block.find_loop("_rlnCoordinateX").get_loop().tags == columns


@given(st.lists(st.tuples(st.floats(0, 99_999), st.floats(0, 99_999), st.floats(0, 1)), max_size=20))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, float]]
) -> None:
    path = tmp_path_factory.mktemp("star") / "a.star"
    written = picks(*rows)
    write_star(path, written)
    read = read_star(path)
    np.testing.assert_allclose(read.y, written.y, atol=6e-4)
    np.testing.assert_allclose(read.x, written.x, atol=6e-4)
    np.testing.assert_allclose(read.score, written.score, atol=6e-7)


def test_a_star_without_figure_of_merit_scores_1(real_micrographs: Path) -> None:
    read = read_star(real_micrographs / "apoferritin" / "May08_05.24.39.star")
    assert len(read) > 150
    assert set(read.score) == {1.0}
    assert read.x.max() < 1240


def test_nothing_but_the_whole_file_appears(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", picks((1, 2, 0.5)))
    write_star(tmp_path / "a.star", picks((3, 4, 0.5)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.star"]
    assert read_star(tmp_path / "a.star").y[0] == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("data_\nloop_\n_rlnMicrographName #1\na.mrc\n", "expected a table with rlnCoordinateX"),
        ("not a star file", "cannot be read as a STAR file"),
        ("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 two\n", "expected numbers"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(content)
    with pytest.raises(FrazilError, match=says) as refused:
        read_star(path)
    assert str(path) in str(refused.value)


# --- every other format ------------------------------------------------------------------------------------------

# A micrograph of 300 rows and 460 columns, with particles at (y, x, score): nothing in it can be swapped or flipped
# unseen.
HEIGHT = 300
PLACES = [(10.0, 420.0, 0.75), (200.0, 33.0, 0.5), (290.0, 455.0, 0.25)]

STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnMicrographPixelSize #2
1 1.77

data_particles

loop_
_rlnMicrographName #1
_rlnCoordinateY #2
_rlnCoordinateX #3
_rlnAutopickFigureOfMerit #4
MotionCorr/job002/m.17.mrc 10 420 0.75
MotionCorr/job002/other.mrc 1 2 0.9
MotionCorr/job002/m.17.mrc 200 33 0.5
MotionCorr/job002/m.17.mrc 290 455 0.25
"""
# Boxes of 40 columns and 20 rows.
BOX = "400\t0\t40\t20\t0.75\n13\t190\t40\t20\t0.5\n435\t280\t40\t20\t0.25\n"
CBOX = """
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
400.0 0.0 <NA> 40.0 20.0 <NA> 38.0 38.0 0.75 1 <NA>
13.0 190.0 <NA> 40.0 20.0 <NA> 38.0 38.0 0.5 1 <NA>
435.0 280.0 <NA> 40.0 20.0 <NA> 38.0 38.0 0.25 1 <NA>

data_cryolo_include

loop_
_slice_index #1
0
"""
TOPAZ = (
    "image_name\tx_coord\ty_coord\tscore\n"
    "m.17\t420\t10\t0.75\nother\t2\t1\t0.9\nm.17\t33\t200\t0.5\nm.17\t455\t290\t0.25\n"
)
CSV = "x,y,score\n420,10,0.75\n33,200,0.5\n455,290,0.25\n"
FORMATS = {"a.star": STAR, "a.box": BOX, "a.cbox": CBOX, "a.txt": TOPAZ, "a.tsv": TOPAZ, "a.csv": CSV}


def rows_of(read: Picks) -> list[tuple[float, float, float]]:
    return list(zip(read.y.tolist(), read.x.tolist(), read.score.tolist(), strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_x_is_the_column_and_y_the_row_in_every_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMATS[name])
    assert rows_of(read_coordinates(tmp_path / name, stem="m.17")) == PLACES


@pytest.mark.parametrize("name", FORMATS)
def test_y_that_grows_upwards_is_turned_round_at_the_micrographs_height(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMATS[name])
    read = read_coordinates(tmp_path / name, stem="m.17", y_axis="up", height_px=HEIGHT)
    assert rows_of(read) == [(299 - y, x, score) for y, x, score in PLACES]


def test_first_and_last_row_change_places_when_y_grows_upwards(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n5,0\n6,299\n")
    read = read_coordinates(tmp_path / "a.csv", y_axis="up", height_px=HEIGHT)
    assert rows_of(read) == [(299, 5, 1), (0, 6, 1)]
    with pytest.raises(ValueError, match="needs the height"):
        read_coordinates(tmp_path / "a.csv", y_axis="up")


def test_published_boxes_come_out_within_a_pixel_of_their_readmes_rule(shared_data: Path) -> None:
    # The rule is y = 4096 - (corner + 90). Ours is (4096 - 1) - (corner + 90): rows 0 and 4095 change places.
    path = next((shared_data / "beta-galactosidase" / "peer-picks" / "cryolo").glob("*.box"))
    corners = np.loadtxt(path)
    read = read_coordinates(path, y_axis="up", height_px=4096)
    np.testing.assert_array_equal(read.x, corners[:, 0] + 90)
    np.testing.assert_array_equal(read.y, 4096 - (corners[:, 1] + 90) - 1)
    np.testing.assert_array_equal(read.score, corners[:, 4])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.box", "400 0 40 20\n\n  13   190 40 20\n"),
        ("a.cbox", CBOX.replace(" 0.75 1 ", " <NA> 1 ").replace(" 0.5 1 ", " ? 1 ")),
        ("a.txt", "y_coord\tx_coord\timage_name\n10\t420\tm.17.mrc\n200\t33\tm.17.mrc\n"),
        ("a.csv", "\ufeffname, Y, X\r\nq, 10, 420\r\nq, 200, 33\r\n"),
        ("a.CSV", "x,y\n420,10\n33,200\n"),
    ],
)
def test_columns_may_change_places_and_a_score_be_missing(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    read = read_coordinates(tmp_path / name)
    assert rows_of(read)[:2] == [(10, 420, 1), (200, 33, 1)]


@pytest.mark.parametrize("name", ["a.star", "a.txt"])
def test_a_table_of_several_micrographs_needs_the_name_of_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name])
    assert named_micrographs(path) == {"m.17", "other"}
    assert rows_of(read_coordinates(path, stem="other")) == [(1, 2, 0.9)]
    with pytest.raises(FrazilError, match=r"expected particles of the micrograph m, found those of m\.17, other"):
        read_coordinates(path, stem="m")
    with pytest.raises(FrazilError, match=r"expected particles of one micrograph, found those of m\.17, other"):
        read_coordinates(path)


def test_a_file_of_one_micrograph_names_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    assert named_micrographs(tmp_path / "a.csv") == frozenset()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{}", r"ending in \.star, \.box, \.cbox, \.txt, \.tsv, \.csv; found '\.json'"),
        ("a", "1 2", "expected coordinates in a file ending in .*; found ''"),
        ("a.box", "1 2 3\n", "expected corner x, corner y, width, height in each row, found '1 2 3'"),
        ("a.box", "1 2 40 40\n1 two 40 40\n", "expected numbers as coordinates, found corner y 'two' in row 2"),
        ("a.box", "1 inf 40 40\n", "found corner y 'inf' in row 1"),
        ("a.box", "\n", r"expected particles inside the micrograph, found none \(the table is empty\)"),
        ("a.cbox", "data_other\n_a 1\n", "expected a block data_cryolo, found none"),
        ("a.cbox", "data_cryolo\nloop_\n_CoordinateX\n1\n", "expected a table with _CoordinateX, .*_Height in"),
        ("a.cbox", CBOX.replace(" 0.5 1 ", " half 1 "), "found score 'half' in row 2"),
        ("a.cbox", "400 0 40 20\n", "cannot be read as a CBOX file"),
        ("a.txt", "x\ty\n1\t2\n", "expected a header with image_name, x_coord, y_coord; found"),
        ("a.txt", "image_name\tx_coord\ty_coord\nm\t1\n", "found y_coord '' in row 1"),
        ("a.txt", "image_name\tx_coord\ty_coord\n", "the table is empty"),
        ("a.csv", "420,10\n33,200\n", "expected a header with x, y; found '420,10'"),
        ("a.csv", "", "expected a header with x, y; found ''"),
        ("a.csv", "x,y\n1,2\n1,\n", "found y '' in row 2"),
        ("a.csv", "x,y\n", "the table is empty"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n", "a.star"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 nan\n", "rlnCoordinateY 'nan' in row 1"),
    ],
)
def test_bad_files_are_refused_by_name_in_one_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(FrazilError, match=says) as refused:
        read_coordinates(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a.star", "a.box", "a.cbox", "a.txt", "a.csv"])
def test_missing_and_binary_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(FrazilError, match=name):
        read_coordinates(path)
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(FrazilError, match=name):
        read_coordinates(path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.box", ""), ("a.csv", "x,y\n"), ("a.txt", "image_name\tx_coord\ty_coord\n")]
)
def test_file_without_particles_is_read_where_it_may_be_empty(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert len(read_coordinates(path, y_axis="up", height_px=9, may_be_empty=True)) == 0
