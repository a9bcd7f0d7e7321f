"""Names as the user gave them: links keep theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from frazil.paths import absolute_path, path_below


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a linked folder, itself reached by a link, too; the working directory is its real one."""
    (tmp_path / "raid" / "grid").mkdir(parents=True)
    (tmp_path / "export" / "project").mkdir(parents=True)
    (tmp_path / "home").symlink_to("export")
    (tmp_path / "export" / "project" / "Micrographs").symlink_to(tmp_path / "raid")
    (tmp_path / "raid" / "grid" / "a.mrc").symlink_to("0176_b.mrc")
    monkeypatch.chdir(tmp_path / "export" / "project")
    return tmp_path


def test_a_path_from_the_root_follows_no_link(project: Path) -> None:
    here = project / "export" / "project"
    assert absolute_path(Path("Micrographs/grid/../grid/a.mrc")) == here / "Micrographs/grid/a.mrc"
    assert absolute_path(project / "home/project/Micrographs") == project / "home/project/Micrographs"


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("Micrographs/grid/a.mrc", "Micrographs/grid/a.mrc"),
        ("{}/home/project/Micrographs/grid/a.mrc", "Micrographs/grid/a.mrc"),
        ("{}/export/project/Micrographs/not_there/a.mrc", "Micrographs/not_there/a.mrc"),
        ("{}/raid/grid/a.mrc", None),
        ("{}/nowhere/a.mrc", None),
    ],
)
def test_a_project_is_known_by_each_of_its_names(project: Path, path: str, below: str | None) -> None:
    found = path_below(Path.cwd(), Path(path.format(project)))
    assert found == (below if below is None else Path(below))


@pytest.mark.parametrize("watch", ["Micrographs", "{}/home/project/Micrographs", "{}/raid"])
@pytest.mark.parametrize(
    "path", ["Micrographs/grid/a.mrc", "{}/home/project/Micrographs/grid/a.mrc", "{}/raid/grid/a.mrc"]
)
def test_what_is_below_a_folder_is_below_its_links(project: Path, watch: str, path: str) -> None:
    assert path_below(Path(watch.format(project)), Path(path.format(project))) == Path("grid/a.mrc")
