"""RELION coordinate files: x is the column, y the row, nothing flipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import FrazilError
from frazil.picking import Picks, read_star, write_star


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
