"""Coordinate files: x is the column, y the row, and nothing is flipped unless it is asked for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import example, given
from hypothesis import strategies as st

from frazil.errors import FrazilError
from frazil.files import write_atomically
from frazil.picking import Picks, named_micrographs, read_coordinates, read_star, write_star
from frazil.picking.coordinates import coordinate_list, particles_star
from frazil.picking.coordinates.star import read_star_table, read_tables, spell, spell_without_quotes, split_row
from frazil.picking.coordinates.table import stem_of


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


def test_the_name_of_the_micrograph_stands_in_each_row_where_it_is_given(tmp_path: Path) -> None:
    """Topaz fails on a STAR file without it."""
    write_star(tmp_path / "a.star", picks((10.25, 300.5, 0.875), (11, 4000, 0.5)), micrograph="data_a b.mrc")
    column = cif.read_file(str(tmp_path / "a.star")).sole_block().find_values("_rlnMicrographName")
    assert [cif.as_string(name) for name in column] == ["data_a b.mrc", "data_a b.mrc"]
    assert named_micrographs(tmp_path / "a.star") == {"data_a b"}
    write_star(tmp_path / "b.star", picks((10.25, 300.5, 0.875)), micrograph="a\nb.mrc")
    assert len(read_star(tmp_path / "b.star")) == 1
    assert named_micrographs(tmp_path / "b.star") == frozenset()


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
    with pytest.raises(ValueError, match=r"^y_axis='up' needs the height of the micrograph$"):
        read_coordinates(tmp_path / "a.csv", y_axis="up")


@pytest.mark.parametrize("name", FORMATS)
def test_coordinates_of_binned_micrographs_are_multiplied_by_the_binning(tmp_path: Path, name: str) -> None:
    """As ``topaz convert --up-scale`` does; boxes are taken by their corner and size first."""
    (tmp_path / name).write_text(FORMATS[name])
    read = read_coordinates(tmp_path / name, stem="m.17", binning=8)
    assert rows_of(read) == [(8 * y, 8 * x, score) for y, x, score in PLACES]


@given(
    y=st.integers(0, 299),
    binning=st.sampled_from([0.5, 1, 1.6, 2, 8]),
    height_px=st.integers(2000, 5000),
    up=st.booleans(),
)
def test_scaled_rows_are_turned_round_in_the_micrograph_that_was_picked(
    tmp_path_factory: pytest.TempPathFactory, y: int, binning: float, height_px: int, up: bool
) -> None:
    path = tmp_path_factory.mktemp("binned") / "a.csv"
    path.write_text(f"x,y\n7,{y}\n")
    read = read_coordinates(path, y_axis="up" if up else "down", binning=binning, height_px=height_px)
    assert read.x.tolist() == [7 * binning]
    assert read.y[0] == pytest.approx(height_px - binning * (1 + y) if up else binning * y)


@pytest.mark.parametrize("binning", [0, -1, float("nan"), float("inf")])
def test_a_binning_that_cannot_be_is_refused(tmp_path: Path, binning: float) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="expected a binning above 0, found"):
        read_coordinates(tmp_path / "a.csv", binning=binning)


def test_sizes_and_origins_in_a_binned_micrographs_table_are_of_its_pixels(tmp_path: Path) -> None:
    path = star_of(tmp_path / "a.star", "CoordinateX CoordinateY OriginXAngst MicrographPixelSize", "9 8 10 5")
    assert rows_of(read_coordinates(path, pixel_size_angstrom=2.5, binning=2)) == [(16, 14, 1)]
    with pytest.raises(FrazilError, match=r"pixels of 10 Å, .* found rlnMicrographPixelSize 5 Å"):
        read_coordinates(path, pixel_size_angstrom=2.5, binning=4)


def test_a_name_with_cryosparcs_prefix_is_found_without_it(tmp_path: Path) -> None:
    uids = ("014810031491354839884", "010952247516538852012")
    path = star_of(
        tmp_path / "a.star",
        "CoordinateX CoordinateY MicrographName",
        *(
            f"1 2 J1/imported/{uids[0]}_a.mrc",
            f"3 4 J1/imported/{uids[1]}_b.mrc",
            "5 6 b.mrc",
            "7 8 01481003149135483988_c.mrc",
        ),
    )
    assert named_micrographs(path) == {f"{uids[0]}_a", "a", f"{uids[1]}_b", "b", "01481003149135483988_c"}
    assert rows_of(read_coordinates(path, stem="a")) == [(2, 1, 1)]
    assert rows_of(read_coordinates(path, stem="b")) == [(6, 5, 1)]  # the name as it stands goes first
    with pytest.raises(FrazilError, match=r"of the micrograph c, found those of"):
        read_coordinates(path, stem="c")


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
        ("a.box", "# x y\n400 0 40 20\n\n  13   190 40 20\n"),
        ("a.cbox", "data_cryolo\nloop_\n_Width\n_Height\n_CoordinateX\n_CoordinateY\n40 20 400 0\n40 20 13 190\n"),
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
        ("a.json", "{}", r"ending in \.star, \.cs, \.box, \.cbox, \.txt, \.tsv, \.csv; found '\.json'"),
        ("a", "1 2", "expected coordinates in a file ending in .*; found ''"),
        ("a.box", "1 2 3\n", "expected corner x, corner y, width, height in each row, found '1 2 3'"),
        ("a.box", "1 2 40 40\n1 two 40 40\n", "expected numbers as coordinates, found corner y 'two' in row 2"),
        ("a.box", "1 inf 40 40\n", "found corner y 'inf' in row 1"),
        ("a.box", "x 1 40 40\n", "found corner x 'x' in row 1"),
        ("a.box", "1 1 w 40\n", "found width 'w' in row 1"),
        ("a.box", "1 1 40 h\n", "found height 'h' in row 1"),
        ("a.box", "1 2 40 40 half\n", "found score 'half' in row 1"),
        ("a.box", f"1 {'2' * 80}\n", "found '1 2{58}'$"),
        ("a.txt", "image_name\tx_coord\ty_coord\nm\ttwo\t1\n", "found x_coord 'two' in row 1"),
        ("a.csv", "x,y,score\n1,2,half\n", "found score 'half' in row 1"),
        ("a.csv", "a" * 80, "found 'a{60}'$"),
        ("a.csv", f"x,y\n{'1' * 140_000},2\n", "expected a table, cannot read it: field larger than"),
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


# --- STAR as RELION reads it ---------------------------------------------------------------------------------------

PARTICLES = (
    "\n# version 30001\n\ndata_particles\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "data_20230101/m.mrc",
            "Data_7.mrc",
            "save_3/m.mrc",
            "loop_",
            "STOP_",
            "global_",
            "m\u00a01.mrc",
            "m\x1f1.mrc",
            "m\u20281.mrc",
        ),
        *(
            "$m.mrc",
            "[1]/m.mrc",
            ";m.mrc",
            "it's.mrc",
            'a"b.mrc',
            "a#b.mrc",
            "mikrographié.mrc",
            "m\x851.mrc",
            "'t.mrc",
            "?",
        ),
    ],
)
def test_relions_rows_are_split_at_blanks_and_no_word_is_reserved(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(f"{PARTICLES}{name} 3 4\nother.mrc 1 2\n{name}\t5   6 \n\n")
    table = read_star_table(path)
    assert table.micrographs == (name, "other.mrc", name)
    assert rows_of(table.picks) == [(4, 3, 1), (2, 1, 1), (6, 5, 1)]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(
            ('"a b.mrc"', "a b.mrc"),
            ("'a b.mrc'", "a b.mrc"),
            ('"it\'s a.mrc"', "it's a.mrc"),
            ('"a"b.mrc"', 'a"b.mrc'),
        ),
        *(
            ("'data_a.mrc'", "data_a.mrc"),
            ('"a\a" b.mrc"', 'a" b.mrc'),
            ('"#a"', "#a"),
            ('"a\u00a0b.mrc"', "a\u00a0b.mrc"),
        ),
    ],
)
def test_a_value_in_quotes_may_hold_anything(tmp_path: Path, written: str, name: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(f"{PARTICLES}{written} 3 4 # one\n# two\n{written} 5 6\n")
    assert read_star_table(path).micrographs == (name, name)


@pytest.mark.parametrize("name", ["a.star", "a.cbox", "a.box", "a.csv", "a.txt"])
def test_a_mark_of_the_byte_order_and_ends_of_lines_from_windows_are_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + FORMATS[name].replace("\n", "\r\n").encode())
    assert rows_of(read_coordinates(tmp_path / name, stem="m.17")) == PLACES


def test_blocks_follow_each_other_as_other_programs_write_them(tmp_path: Path) -> None:
    """Without empty lines between them, with empty lines in them, with single values, and rows over several lines."""
    path = tmp_path / "a.star"
    path.write_text(
        "data_general\n_rlnVersion 3\n_rlnName 'a b'\ndata_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n1 300\n"
        "data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n\n10 20\n\n30\n40\n"
        "data_last\nloop_\n_rlnFile\ndata_7.mrc\n# none\ndata_8.mrc\n_x.mrc\n"
    )
    assert rows_of(read_star(path)) == [(20, 10, 1), (40, 30, 1)]
    tables = {table.block: table.columns for table in read_tables(path)}
    assert tables["general"] == {"rlnVersion": ["3"], "rlnName": ["a b"]}
    assert tables["last"] == {"rlnFile": ["data_7.mrc", "data_8.mrc", "_x.mrc"]}


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("data_\nloop_\n_a\n_b\n1 2\n_c 3\n", [{"a": ["1", "_c"], "b": ["2", "3"]}]),
        ("data_\nloop_\n_a\n_b\n1 2\n# none\n_c 3\n", [{"a": ["1", "_c"], "b": ["2", "3"]}]),
        ("data_\nloop_\n_a\n_b\n1 2\n \t\r\n_c 3\n", [{"a": ["1"], "b": ["2"]}, {"c": ["3"]}]),
        ("data_\nloop_\n_a\n_b\n1 2\n\n# none\n_c 3\n", [{"a": ["1"], "b": ["2"]}, {"c": ["3"]}]),
        ("data_\n loop_\n\t_a\n _b\n 1 2\n", [{"a": ["1"], "b": ["2"]}]),
        ("data_\nloop_\n_a\nX_b\n\u00a0_c\n", [{"a": ["X_b", "\u00a0_c"]}]),
        ("data_\nloop_\n_a\n\u00a0_c\n", [{"a": ["\u00a0_c"]}]),
        ("data_\nloop_\n_a\n_b\n_c\n_x 1\n2\n", [{"a": ["_x"], "b": ["1"], "c": ["2"]}]),
    ],
)
def test_a_line_below_the_labels_is_a_row_until_an_empty_one(
    tmp_path: Path, text: str, tables: list[dict[str, list[str]]]
) -> None:
    path = tmp_path / "a.star"
    path.write_text(text, newline="")
    found = read_tables(path)
    assert [table.columns for table in found] == tables
    assert {table.block for table in found} == {""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loop_\n_a\n1\n", "line 1: expected data_ and a name, found 'loop_'"),
        ("data_\n1 2\n", "line 2: expected a table (loop_), found '1 2'"),
        ("data_\n_a 1\n5  6\n", "line 3: expected a table (loop_), found '5 6'"),
        (f"data_\n{'1' * 80}\n", f"line 2: expected a table (loop_), found '{'1' * 60}'"),
    ],
)
def test_a_line_that_is_no_part_of_a_table_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(text)
    with pytest.raises(FrazilError) as refused:
        read_tables(path)
    assert str(refused.value) == f"{path}: cannot be read as a STAR file ({says})"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a b.mrc 3 4\n", r"line 10: expected 3 values, found 4 in 'a b\.mrc 3 4'"),
        ("a.mrc 3\nb.mrc 3 4\n", "line 11: expected 3 values, found 5"),
        ("a.mrc 3\n", r"last row: expected 3 values, found 2: 'a\.mrc 3'"),
        ("_rlnCoordinateX #4\na.mrc 3 4 5\n", "line 10: expected each column once, found _rlnCoordinateX again"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, rows: str, says: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(PARTICLES + rows)
    with pytest.raises(FrazilError, match=says):
        read_star(path)


@given(st.text(min_size=1, max_size=20))
@example("data_a b' c\" d")
@example("it's \"")
def test_a_value_is_read_as_it_was_written_by_us_and_by_a_reader_of_cif(value: str) -> None:
    try:
        written = spell(value)
    except ValueError:
        # RELION drops or changes these; two kinds of quotes before blanks leave none to quote with.
        assert re.search(r"[\x00-\x1f\x7f]|  |' (.*)\" |\" (.*)' ", value)
        return
    assert split_row(f"{written} 1.000 {written}") == [value, "1.000", value]
    block = cif.read_string(f"data_\nloop_\n_a\n_b\n{written} {written}\n").sole_block()
    assert [cif.as_string(v) for v in block.find_values("_b")] == [value]


# --- columns that change what coordinates mean ---------------------------------------------------------------------


def star_of(path: Path, columns: str, *rows: str, optics: str = "") -> Path:
    """A STAR of particles with these columns, and one with their optics groups before it."""
    labels = "".join(f"_rln{name}\n" for name in columns.split())
    path.write_text(f"{optics}\ndata_particles\n\nloop_\n{labels}" + "\n".join(rows) + "\n\n")
    return path


OPTICS = "\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rln{column}\n1 {first}\n2 {second}\n\n"


def test_origins_in_angstrom_are_taken_from_the_coordinates(tmp_path: Path) -> None:
    path = star_of(
        tmp_path / "a.star",
        "OriginXAngst CoordinateX CoordinateY OriginYAngst MicrographName",
        *("25 100 200 -5 G1/a.mrc", "0 30 40 0 G1/a.mrc", "100 1 2 100 G1/b.mrc"),
    )
    assert rows_of(read_coordinates(path, stem="a", pixel_size_angstrom=2.5)) == [(202, 90, 1), (40, 30, 1)]
    up = read_coordinates(path, stem="a", pixel_size_angstrom=2.5, y_axis="up", height_px=HEIGHT)
    assert rows_of(up) == [(97, 90, 1), (259, 30, 1)]
    with pytest.raises(FrazilError, match=r"rlnOriginXAngst.*expected a pixel size"):
        read_coordinates(path, stem="a")


@pytest.mark.parametrize(
    ("columns", "values", "optics"),
    [
        ("DetectorPixelSize Magnification", "14 28000", ""),  # 5 Å
        ("ImagePixelSize", "5", ""),
        ("OpticsGroup", "2", OPTICS.format(column="ImagePixelSize", first=1, second=5)),
    ],
)
def test_origins_in_pixels_are_those_of_the_extracted_images(
    tmp_path: Path, columns: str, values: str, optics: str
) -> None:
    """RELION up to 3.0; here the images are binned twice."""
    path = star_of(
        tmp_path / "a.star", f"CoordinateX CoordinateY OriginX OriginY {columns}", f"9 8 1 -2 {values}", optics=optics
    )
    assert rows_of(read_coordinates(path, pixel_size_angstrom=2.5)) == [(12, 7, 1)]


@pytest.mark.parametrize(
    "more",
    [
        "",
        "Magnification 0 DetectorPixelSize 5",
        "Magnification 0 DetectorPixelSize 0",
        "Magnification 10000 DetectorPixelSize 0",
    ],
)
def test_origins_in_pixels_of_unknown_size_are_refused(tmp_path: Path, more: str) -> None:
    names, values = more.split()[::2], more.split()[1::2]
    columns = " ".join(["CoordinateX CoordinateY OriginX", *names])
    path = star_of(tmp_path / "a.star", columns, " ".join(["9 8 1", *values]))
    with pytest.raises(FrazilError, match=r"rlnOriginX and rlnOriginY move .* rlnDetectorPixelSize and rlnMagnif"):
        read_coordinates(path, pixel_size_angstrom=2.5)
    path = star_of(tmp_path / "b.star", columns, " ".join(["9 8 0", *values]))
    assert rows_of(read_coordinates(path, pixel_size_angstrom=2.5)) == [(8, 9, 1)]


@pytest.mark.parametrize(
    ("columns", "rows", "optics"),
    [
        ("MicrographPixelSize", ("5", "2.5"), ""),
        ("OpticsGroup", ("2", "1"), OPTICS.format(column="MicrographPixelSize", first=2.5, second=5)),
    ],
)
def test_coordinates_in_pixels_of_another_size_are_refused_of_their_micrograph(
    tmp_path: Path, columns: str, rows: tuple[str, str], optics: str
) -> None:
    path = star_of(
        tmp_path / "a.star",
        f"CoordinateX CoordinateY MicrographName {columns}",
        *(f"9 8 a.mrc {rows[0]}", f"7 6 b.mrc {rows[1]}"),
        optics=optics,
    )
    with pytest.raises(FrazilError, match=r"pixels of 2\.5 Å, .* found rlnMicrographPixelSize 5 Å"):
        read_coordinates(path, stem="a", pixel_size_angstrom=2.5)
    # Calibrated later, they are the same pixels.
    assert rows_of(read_coordinates(path, stem="b", pixel_size_angstrom=2.39)) == [(6, 7, 1)]
    with pytest.raises(FrazilError, match=r"found rlnMicrographPixelSize 2\.5 Å"):
        read_coordinates(path, stem="b", pixel_size_angstrom=2.36)
    assert rows_of(read_coordinates(path, stem="a")) == [(8, 9, 1)]


def test_the_pixel_size_of_the_file_serves_where_no_other_is_known(tmp_path: Path) -> None:
    columns = "CoordinateX CoordinateY OriginXAngst MicrographPixelSize"
    path = star_of(tmp_path / "a.star", columns, "9 8 5 2.5")
    assert rows_of(read_star(path)) == [(8, 7, 1)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.star", ("CoordinateX CoordinateY CoordinateZ", "1 2 3"), r"positions in a volume \(rlnCoordinateZ\)"),
        ("a.star", ("CoordinateX CoordinateY TomoName", "1 2 t"), r"positions in a volume \(rlnTomoName\)"),
        ("a.star", ("CoordinateX CoordinateY ShiftX", "1 2 3"), "other columns .* found rlnShiftX"),
        ("a.star", ("CoordinateX CoordinateY CenteredCoordinateXAngst", "1 2 3"), "found rlnCenteredCoordinateXA"),
        ("a.txt", "image_name\tx_coord\ty_coord\tz_coord\nm\t1\t2\t3\n", r"in a volume \(z_coord\)"),
        ("a.txt", "image_name\tx_coord\ty_coord\tx_offset\nm\t1\t2\t3\n", "found x_offset"),
        ("a.csv", "x,y,z\n1,2,3\n", r"in a volume \(z\)"),
        ("a.csv", "x,y,origin_x\n1,2,3\n", "found origin_x"),
        ("a.cbox", CBOX.replace("400.0 0.0 <NA>", "400.0 0.0 7"), r"in a volume \(CoordinateZ\)"),
        ("a.cbox", CBOX.replace("_NumBoxes", "_ShiftX"), "found ShiftX"),
        ("a.box", "1 2 40 40 -1\n9 9 40 40 -2\n", r"found EMAN's ends of filaments \(-1\)"),
        ("a.box", "1 2 40 40 -2 0\n", r"found EMAN's ends of filaments \(-2\)"),
    ],
)
def test_columns_that_cannot_be_applied_are_refused_by_name(
    tmp_path: Path, name: str, content: str | tuple[str, str], says: str
) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        star_of(path, *content)
    with pytest.raises(FrazilError, match=says) as refused:
        read_coordinates(path, pixel_size_angstrom=2.5)
    assert str(refused.value).startswith(f"{path}: ")


def test_columns_that_move_nothing_are_passed_over(tmp_path: Path) -> None:
    path = star_of(
        tmp_path / "a.star",
        "CoordinateX CoordinateY CoordinateZ AnglePsi PhaseShift OriginXPriorAngst OriginalParticleName HelicalTubeID "
        "HelicalTrackLengthAngst ClassNumber MicrographOriginalPixelSize",
        "1 2 0.000000 90 1.5 30 a 1 20 3 0.5",
    )
    assert rows_of(read_coordinates(path, pixel_size_angstrom=2.5)) == [(2, 1, 1)]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("CoordinateY CoordinateX", "1 bad"),
        ("CoordinateX CoordinateY", "1 bad"),
        ("CoordinateX CoordinateY CoordinateZ", "1 2 bad"),
        ("CoordinateX CoordinateY AutopickFigureOfMerit", "1 2 bad"),
        ("CoordinateX CoordinateY OriginXAngst", "1 2 bad"),
        ("CoordinateX CoordinateY OriginY", "1 2 bad"),
        ("CoordinateX CoordinateY OriginX ImagePixelSize", "1 2 3 bad"),
        ("CoordinateX CoordinateY OriginX Magnification DetectorPixelSize", "1 2 3 4 bad"),
        ("CoordinateX CoordinateY OriginX DetectorPixelSize Magnification", "1 2 3 4 bad"),
        ("CoordinateX CoordinateY MicrographPixelSize", "1 2 bad"),
    ],
)
def test_a_value_that_is_no_number_is_refused_by_file_column_and_row(tmp_path: Path, columns: str, row: str) -> None:
    path = star_of(tmp_path / "a.star", columns, row)
    with pytest.raises(FrazilError) as refused:
        read_star(path)
    name = f"rln{columns.split()[-1]}"
    assert str(refused.value) == f"{path}: expected numbers as coordinates, found {name} 'bad' in row 1"


def test_origins_may_be_in_pixels_below_one_angstrom(tmp_path: Path) -> None:
    columns = "CoordinateX CoordinateY OriginX DetectorPixelSize Magnification"
    path = star_of(tmp_path / "a.star", columns, "9 8 5 5 100000")
    assert rows_of(read_coordinates(path, pixel_size_angstrom=2.5)) == [(8, 8, 1)]


def test_optics_may_stand_after_the_particles_and_lack_a_group(tmp_path: Path) -> None:
    path = star_of(
        tmp_path / "a.star",
        "CoordinateX CoordinateY MicrographName OpticsGroup",
        *("9 8 b.mrc 3", "7 6 a.mrc 2"),
        optics="\ndata_general\n_rlnVersion 3\n",
    )
    with path.open("a") as file:
        file.write(OPTICS.format(column="MicrographPixelSize", first=1, second=5))
    for pixel_size in (None, 2.5):  # which of its group nobody says
        assert rows_of(read_coordinates(path, stem="b", pixel_size_angstrom=pixel_size)) == [(8, 9, 1)]
    assert rows_of(read_coordinates(path, stem="a", pixel_size_angstrom=5)) == [(6, 7, 1)]
    with pytest.raises(FrazilError, match=r"found rlnMicrographPixelSize 5 Å"):
        read_coordinates(path, stem="a", pixel_size_angstrom=2.5)


def test_what_is_refused_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = star_of(tmp_path / "a.star", "CoordinateX CoordinateY MicrographPixelSize", "1 2 5", "3 4 10")
    with pytest.raises(FrazilError) as refused:
        read_coordinates(path, pixel_size_angstrom=2.5)
    assert str(refused.value) == (
        f"{path}: expected coordinates in pixels of 2.5 Å, as the micrograph's, found rlnMicrographPixelSize 5 Å and "
        "10 Å: were they picked on binned micrographs? give their binning (labels_binning in a recipe), or correct the "
        "pixel size"
    )
    star_of(path, "CoordinateX CoordinateY ShiftX", "1 2 3")
    with pytest.raises(FrazilError) as refused:
        read_coordinates(path)
    assert str(refused.value) == (
        f"{path}: expected no other columns that say where particles lie, found rlnShiftX: move the coordinates by "
        "them if they should be, and take them out"
    )
    with pytest.raises(ValueError, match=r"RELION changes control characters and two blanks in a row$"):
        spell("a  b.mrc")


def test_a_table_with_one_of_the_two_coordinates_is_none_of_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("data_a\nloop_\n_rlnCoordinateX\n7\n\ndata_b\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n")
    assert rows_of(read_star(path)) == [(2, 1, 1)]


def test_several_tables_with_coordinates_are_refused_by_name(tmp_path: Path) -> None:
    table = "\ndata_{}\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n\n"
    (tmp_path / "a.star").write_text(table.format("one") + table.format("two"))
    with pytest.raises(FrazilError, match=r"found 2 \(data_one and data_two\): keep one"):
        read_star(tmp_path / "a.star")
    (tmp_path / "a.star").write_text("".join(map(table.format, "abcd")))
    with pytest.raises(FrazilError, match=r"found 4 \(data_a and data_b and data_c\): keep one"):
        read_star(tmp_path / "a.star")


# --- micrographs of one name ---------------------------------------------------------------------------------------

STAR_OF_TWO = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n1 2 {}\n3 4 {}\n5 6 c.mrc\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(
            ("G1/m.17.mrc", "G2/m.17.mrc"),
            ("m.17.mrc", "m.17.tif"),
            ("m.17", "m.17.mrc"),
            ("J1/a/m.17.mrc", "J2/a/m.17.mrc"),
        ),
        *(("m.17.mrcs", "m.17.mrc.gz"), ("m.17.eer", "m.17.MRC")),
    ],
)
@pytest.mark.parametrize("kind", ["a.star", "a.txt", "a.csv"])
def test_one_name_that_stands_for_two_micrographs_is_refused_with_both(
    tmp_path: Path, kind: str, first: str, second: str
) -> None:
    path, names = tmp_path / kind, (first, second, "c.mrc")
    if kind == "a.star":
        path.write_text(STAR_OF_TWO.format(first, second))
    elif kind == "a.txt":
        path.write_text("image_name\tx_coord\ty_coord\n" + "".join(f"{name}\t1\t2\n" for name in names))
    else:
        path.write_text("x,y,micrograph\n" + "".join(f"1,2,{name}\n" for name in names))
    assert named_micrographs(path) == {"m.17", "c"}
    with pytest.raises(FrazilError, match=r"m\.17 stands for .* and .*; keep") as refused:
        read_coordinates(path, stem="m.17")
    assert first in str(refused.value)
    assert second in str(refused.value)
    assert len(read_coordinates(path, stem="c")) == 1


def test_one_micrograph_named_in_two_ways_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(STAR_OF_TWO.format("G1/m.17.mrc", "./G1//m.17.mrc"))
    assert len(read_coordinates(tmp_path / "a.star", stem="m.17")) == 2


def test_a_file_of_its_own_that_names_two_of_one_name_is_refused(tmp_path: Path) -> None:
    path = star_of(tmp_path / "a.star", "CoordinateX CoordinateY MicrographName", "1 2 G1/a.mrc", "3 4 G2/a.mrc")
    with pytest.raises(FrazilError, match=r"a stands for G1/a\.mrc and G2/a\.mrc"):
        read_coordinates(path)


def test_topazs_sources_hold_images_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("source\timage_name\tx_coord\ty_coord\n0\ta\t1\t2\n1\ta\t3\t4\n")
    with pytest.raises(FrazilError, match="a stands for 0/a and 1/a"):
        read_coordinates(tmp_path / "a.txt", stem="a")


def test_many_names_are_cut_short_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for count, listed in ((3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (6, "0, 1, 2 and 3 more")):
        path.write_text("x,y,image\n" + "".join(f"1,2,{i}.mrc\n" for i in range(count)))
        with pytest.raises(FrazilError) as refused:
            read_coordinates(path)
        assert str(refused.value) == f"{path}: expected particles of one micrograph, found those of {listed}"
    path.write_text("x,y,image\n" + "".join(f"1,2,{folder}/m.mrc\n" for folder in "ABCD"))
    with pytest.raises(FrazilError) as refused:
        read_coordinates(path)
    assert str(refused.value) == (
        f"{path}: m stands for A/m.mrc and B/m.mrc and C/m.mrc; keep the particles of one of them, or give each "
        "micrograph a name and labels of its own"
    )


def test_origins_of_unknown_size_are_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    path = star_of(tmp_path / "a.star", "CoordinateX CoordinateY OriginXAngst MicrographName", "9 8 5 a.mrc")
    for read in (read_star, read_coordinates):
        with pytest.raises(FrazilError, match="expected a pixel size") as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("content", "moment"), [("x,y\n3,4\n", 1), ("x,y\n3,4\n5,6\n", 0)])
def test_a_file_that_changed_is_read_again(tmp_path: Path, content: str, moment: int) -> None:
    """By its time though it is as long as before, and by its length though it is of the same time."""
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    os.utime(path, ns=(0, 0))
    assert rows_of(read_coordinates(path)) == [(2, 1, 1)]
    path.write_text(content)
    os.utime(path, ns=(moment, moment))
    assert rows_of(read_coordinates(path))[0] == (4, 3, 1)


# --- files that appear whole or not at all ------------------------------------------------------------------------


def test_files_of_one_folder_are_written_aside_under_short_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside: set[str] = set()
    fsync = os.fsync

    def look_and_fsync(descriptor: int) -> None:
        aside.update(path.name for path in tmp_path.glob(".*"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look_and_fsync)
    names = ["a.star", "b.star", "c.star", f"{'d' * 250}.star"]
    for name in names:
        write_atomically(tmp_path / name, name)
    assert len(aside) == len(names)
    assert max(map(len, aside)) <= len("a.star") + 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_what_cannot_be_written_is_the_systems_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "a.star", "")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


# --- tables that grow ----------------------------------------------------------------------------------------------


def test_a_micrograph_that_comes_again_replaces_its_rows_alone(tmp_path: Path) -> None:
    table = coordinate_list(tmp_path / "a.star")
    for name, where in (("a.mrc", "1"), ("b.mrc", "2"), ("c.mrc", "3"), ("b.mrc", "4"), ("./a.mrc", "5")):
        table.put(name, [[where]])
    (columns,) = (table.columns for table in read_tables(tmp_path / "a.star"))
    assert columns == {
        "rlnMicrographName": ["c.mrc", "b.mrc", "./a.mrc"],
        "rlnMicrographCoordinates": ["3", "4", "5"],
    }


def test_a_row_that_was_torn_by_a_loss_of_power_is_cut_off_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    table = particles_star(path)
    table.put("a.mrc", [["1", "2", "0.5"], ["3", "4", "0.5"]])
    table.put("mikrographi\u00e9.mrc", [["5", "6", "0.5"]])
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"c.mrc 7 8")
    again = particles_star(path)
    assert path.read_bytes() == whole
    again.put("c.mrc", [["7", "8", "0.5"]])
    assert path.read_bytes() == whole + b"c.mrc 7 8 0.5\n"
    particles_star(path)
    assert path.read_bytes() == whole + b"c.mrc 7 8 0.5\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("data_\nloop_\n_rlnA\n_rlnB\n1 2\n\nloop_\n_rlnC\n3\n", "rlnA, rlnB"),
        ("data_particles\n", "no column"),
    ],
)
def test_a_table_that_frazil_did_not_write_is_refused_by_its_columns(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(content)
    with pytest.raises(FrazilError) as refused:
        particles_star(path)
    assert str(refused.value) == (
        f"{path}: expected a table data_particles with rlnMicrographName, rlnCoordinateX, rlnCoordinateY, "
        f"rlnAutopickFigureOfMerit, as frazil writes it, found one with {found}: move it away, or write elsewhere"
    )
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.mrc", "a.mrc"),
        ("mikrographi\u00e9.mrc", "mikrographi\u00e9.mrc"),
        ("data_1.mrc", "./data_1.mrc"),
        ("a#b.mrc", '"a#b.mrc"'),
        ("a b.mrc", '"a b.mrc"'),
        ("a\u00a0b.mrc", '"a\u00a0b.mrc"'),
        ("a\u200bb.mrc", '"a\u200bb.mrc"'),
    ],
)
def test_a_name_for_cryosparc_is_quoted_only_where_it_would_be_split(name: str, written: str) -> None:
    assert spell_without_quotes(name) == written


@pytest.mark.parametrize("ending", ["mrc", "MRC", "mrcs", "mrc.gz", "mrc.bz2", "eer", "tif", "tiff", "png", "jpeg"])
def test_endings_of_images_are_no_part_of_a_name(ending: str) -> None:
    assert stem_of(f"Job/m.17.{ending}") == "m.17"
    assert stem_of("Job/m.17") == "m.17"
