"""Which directories below a root are sessions, and when they changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frazil.microscope.discovery import find_sessions, last_change


def found(root: Path, pattern: str) -> dict[str, Path]:
    return {session.name: session.directory for session in find_sessions(root, pattern)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("1101_apo/Averages", "1102_80S/Averages", "1103/Movies", ".trash/Averages", "2026/1104/Averages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*/Averages", {"1101_apo", "1102_80S"}),
        ("*", {"1101_apo", "1102_80S", "1103", "2026"}),
        ("11*", {"1101_apo", "1102_80S", "1103"}),
        ("2026/*/Averages", {"2026/1104"}),
        ("*/*/Averages", {"2026/1104"}),
        ("110[12]_*/A*", {"1101_apo/Averages", "1102_80S/Averages"}),
        ("1101_apo/Averages", {"1101_apo/Averages"}),
        ("nothing/*", set()),
    ],
)
def test_a_session_is_named_after_its_path_up_to_the_last_wildcard(root: Path, pattern: str, names: set[str]) -> None:
    sessions = found(root, pattern)
    assert set(sessions) == names
    assert all(directory.is_dir() for directory in sessions.values())


def test_a_linked_session_is_found_and_a_name_that_is_no_text_is_not(root: Path, tmp_path: Path) -> None:
    (root / "linked").symlink_to(root / "1101_apo")
    os.mkdir(os.fsencode(root) + b"/\xff")  # noqa: PTH102 - a name that pathlib can hold, and JSON cannot
    os.mkdir(os.fsencode(root) + b"/\xff/Averages")  # noqa: PTH102
    assert set(found(root, "*/Averages")) == {"1101_apo", "1102_80S", "linked"}


def test_a_root_that_cannot_be_seen_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        found(tmp_path / "nothing", "*")


def test_a_change_near_the_top_of_a_session_counts(root: Path) -> None:
    session = root / "1101_apo"
    for folder in (session, session / "Averages"):
        os.utime(folder, (1e9, 1e9))
    assert last_change(session) == 1e9
    os.utime(session / "Averages", (2e9, 2e9))
    assert last_change(session) == 2e9
    assert last_change(root / "gone") == 0
