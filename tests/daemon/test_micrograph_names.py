"""Names: what is below a directory, of a pattern, in a STAR file; one by one, however many there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from frazil.errors import FrazilError
from frazil.micrograph_names import Names, Source
from frazil.session.intake.selection import Selection
from frazil.settings import ServeSettings


def settings(**given: Any) -> ServeSettings:
    return ServeSettings(out=Path("out"), diameter_angstrom=100.0, **given)


def names_of(given: str | Path, session: Path | None = None, **options: Any) -> Names:
    source = Source.of(str(given), session)
    names = Names(source=source, selection=Selection.of(settings(**options), "any", source.include))
    names.count()
    return names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for key in ("a/1.mrc", "a/2.mrc", "a/x.txt", "b/deep/3.mrc", "b/4.tif", "c/.hidden.mrc", "5.mrc"):
        file = tmp_path / "tree" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "tree"


def test_below_a_directory_they_are_those_that_a_daemon_takes(tree: Path) -> None:
    names = names_of(tree)
    assert sorted(names) == ["5.mrc", "a/1.mrc", "a/2.mrc", "b/deep/3.mrc"]
    assert sorted(names) == ["5.mrc", "a/1.mrc", "a/2.mrc", "b/deep/3.mrc"]  # each pass gives all
    assert names.count() == names.inventory.taken == 4
    assert names.inventory.count("not_included") == 1
    assert sorted(names_of(tree, include=["*.tif"])) == ["b/4.tif"]
    assert sorted(names_of(tree, exclude=["a"])) == ["5.mrc", "b/deep/3.mrc"]


def test_they_are_listed_as_they_are_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = names_of(tree)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    one = iter(names)
    next(one)
    assert len(listed) == 1  # of five folders
    assert len(list(one)) == 3


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.mrc", ["a/1.mrc", "a/2.mrc"]),
        ("*/*.tif", ["4.tif"]),
        ("*.mrc", ["5.mrc"]),
        ("[ab]", ["a/1.mrc", "a/2.mrc", "b/deep/3.mrc"]),
        ("**/3.mrc", ["b/deep/3.mrc"]),
    ],
)
def test_a_pattern_is_of_micrographs_or_of_directories(tree: Path, pattern: str, expected: list[str]) -> None:
    names = names_of(tree / pattern)
    below = names.source.root.relative_to(tree)
    assert sorted(str(below / key) for key in names) == sorted(key if key != "4.tif" else "b/4.tif" for key in expected)


def test_a_part_of_a_session_keeps_the_keys_of_the_session(tree: Path) -> None:
    assert sorted(names_of(tree / "b", session=tree)) == ["b/deep/3.mrc"]
    assert sorted(names_of(tree / "a/[1]*.mrc", session=tree)) == ["a/1.mrc"]
    assert names_of(tree, session=tree).source == Source(root=tree)


STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
1 opticsGroup1

data_micrographs

loop_
_rlnOpticsGroup #1
_rlnMicrographName #2
1 a/1.mrc
1 "b/deep/3.mrc"
1 a/1.mrc

"""


def test_a_star_file_names_them_from_the_project_up(tree: Path) -> None:
    star = tree / "CtfFind" / "job003" / "micrographs_ctf.star"
    star.parent.mkdir(parents=True)
    star.write_text(STAR)
    names = names_of(star)
    assert names.source.root == tree
    assert names.count() == 3
    assert list(names) == ["a/1.mrc", "b/deep/3.mrc", "a/1.mrc"]

    star.write_text(STAR.replace("a/1.mrc", "b/deep/3.mrc"))
    assert list(names_of(star, session=tree / "b")) == ["deep/3.mrc"] * 3  # keys of the session, names of the project

    star.write_text(STAR.replace("a/1.mrc", str(tree / "a/1.mrc")).replace('"b', f'"{tree}/b'))
    assert list(names_of(star, session=tree)) == ["a/1.mrc", "b/deep/3.mrc", "a/1.mrc"]
    assert names_of(star).source.root == Path("/")
    with pytest.raises(FrazilError, match=r"expected micrographs below .*, found /.*1.mrc: give another --out"):
        list(names_of(star, session=tree / "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STAR.replace("MicrographName", "MovieName"), "expected a table with rlnMicrographName, found none"),
        (STAR.replace("1 a/1.mrc", "1"), "line 16: expected 2 values in a row, found 1"),
        (STAR.replace("a/1", "a/9"), "expected a/9.mrc below the folder of this file, or one above it"),
    ],
)
def test_a_star_file_without_names_is_refused(tree: Path, text: str, message: str) -> None:
    star = tree / "some.star"
    star.write_text(text)
    with pytest.raises(FrazilError, match=message):
        names_of(star)
