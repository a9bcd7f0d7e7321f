"""Which names count as micrographs."""

from __future__ import annotations

import pytest

from frazil.service.watch import Selection


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a.mrc", True),
        ("a.MRC", True),
        ("grid 1/square/a.mrc", True),
        (".a.mrc", False),
        (".a.mrc.Xy12ab", False),
        ("a.mrc.tmp", False),
        ("a.mrc.part", False),
        ("a.mrc.filepart", False),
        ("a.mrc~", False),
        (".~tmp~/a.mrc", False),
        ("grid/.hidden/square/a.mrc", False),
        ("a.star", False),
    ],
)
def test_temporary_names_and_hidden_folders_are_ignored(name: str, taken: bool) -> None:
    assert Selection().takes(name) is taken


@pytest.mark.parametrize("name", ["a.tmp", "a.part", "a.filepart", "a~", ".a", "b/.a.Xy12ab"])
def test_temporary_names_are_ignored_whatever_is_included(name: str) -> None:
    assert not Selection(include=["*"]).takes(name)
    assert Selection(include=["*"]).takes("a")


def test_patterns_without_a_slash_are_for_names_and_with_one_for_paths() -> None:
    selection = Selection(include=["*_aligned.mrc", "averages/*.mrc"], exclude=["*test*", "/raw/*"])
    assert selection.takes("deep/down/x_aligned.mrc")
    assert selection.takes("averages/deep/x.mrc")
    assert not selection.takes("x.mrc")
    assert not selection.takes("a test/x_aligned.mrc")
    assert not selection.takes("x_test_aligned.mrc")
    assert not selection.takes("raw/x_aligned.mrc")
    assert selection.takes("more/raw/x_aligned.mrc")
