"""Which names count as micrographs."""

from __future__ import annotations

import pytest

from frazil.session.intake.selection import Selection


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
    assert selection.takes("averages/x.mrc")
    assert not selection.takes("x.mrc")
    assert not selection.takes("a test/x_aligned.mrc")
    assert not selection.takes("x_test_aligned.mrc")
    assert not selection.takes("raw/x_aligned.mrc")
    assert not selection.takes("raw/deep/down/x_aligned.mrc")
    assert selection.takes("more/raw/x_aligned.mrc")


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("averages/*.mrc", "averages/x.mrc", "averages/deep/x.mrc"),
        ("averages/**/*.mrc", "averages/x.mrc", "other/x.mrc"),
        ("averages/**/*.mrc", "averages/very/deep/x.mrc", "more/averages/x.mrc"),
        ("**/Data/*.mrc", "Data/x.mrc", "Data/deep/x.mrc"),
        ("**/Data/*.mrc", "Images-Disc1/GridSquare_1/Data/x.mrc", "Images-Disc1/GridSquare_1/MyData/x.mrc"),
        ("*/Data/*.mrc", "GridSquare_1/Data/x.mrc", "Images-Disc1/GridSquare_1/Data/x.mrc"),
        ("averages/**", "averages/deep/x.mrc", "averages.mrc"),
        ("./averages/x?.mrc", "averages/x1.mrc", "averages/x/.mrc"),
        ("averages/x[0-9].mrc", "averages/x7.mrc", "averages/x/.mrc"),
        ("averages/x[!0-9]y.mrc", "averages/x-y.mrc", "averages/x/y.mrc"),
        ("Averages/[x.mrc", "averages/[X.MRC", "averages/x.mrc"),
    ],
)
def test_a_wildcard_stays_within_one_folder_and_two_stars_cross_any(pattern: str, taken: str, not_taken: str) -> None:
    selection = Selection(include=[pattern])
    assert selection.takes(taken)
    assert not selection.takes(not_taken)


def test_a_folder_may_be_excluded_with_a_slash_at_its_end() -> None:
    selection = Selection(exclude=["raw/", "gone/away/"])
    assert not selection.takes("deep/raw/x.mrc")
    assert not selection.takes("gone/away/x.mrc")
    assert selection.takes("deep/gone/away/x.mrc")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.mrc", None),
        ("deep/a.tif", "not_included"),
        ("deep/a.MRC.GZ", "not_included"),
        ("a.mrcs", "movie"),
        ("a.eer", "movie"),
        ("a_fractions.tiff", "movie"),
        ("a.dm4", "other_format"),
        ("a.xml", "not_an_image"),
        (".a.mrc", "unfinished"),
        ("test_a.mrc", "excluded"),
        ("a_noDW.mrc", "companion"),
        ("a_PS.mrc", "companion"),
    ],
)
def test_what_is_passed_over_has_a_reason(name: str, reason: str | None) -> None:
    assert Selection(exclude=["test*"]).why_not(name) == reason


EXPOSURE = "FoilHole_100_Data_200_201_20230101_000001_fractions"


@pytest.mark.parametrize(
    ("tree", "taken"),
    [
        # RELION: the average is weighted by dose
        ([f"Movies/{EXPOSURE}{end}.mrc" for end in ("", "_noDW", "_EVN", "_ODD", "_PS")], {f"Movies/{EXPOSURE}.mrc"}),
        # MotionCor2 by itself
        (["x.mrc", "x_DW.mrc", "x_DWS.mrc"], {"x.mrc"}),
        (["x_DW.mrc", "y_DW.mrc"], {"x_DW.mrc", "y_DW.mrc"}),
        # EPU
        (["S/Data/FoilHole_1_Data_2.mrc", "S/Data/FoilHole_1_Data_2_Fractions.mrc"], {"S/Data/FoilHole_1_Data_2.mrc"}),
        (["S/GridSquare_1/FoilHoles/FoilHole_1.mrc", "S/GridSquare_1/GridSquare_20230101.mrc", "gain.mrc"], set()),
        (["S/Atlas/Atlas_1.mrc", "S/Atlas/Tile_1_2.mrc", "GridSquare_1/Data/x.mrc"], {"GridSquare_1/Data/x.mrc"}),
        # cryoSPARC
        ([f"J/m/1_x_patch_aligned{end}.mrc" for end in ("", "_doseweighted")], {"J/m/1_x_patch_aligned.mrc"}),
        (["J/m/1_x_patch_aligned_doseweighted.mrc"], {"J/m/1_x_patch_aligned_doseweighted.mrc"}),
        # Warp
        (
            [f"{folder}/x.mrc" for folder in ("average", "average/even", "average/odd", "deconv", "mask")],
            {"average/x.mrc"},
        ),
        # names that only look alike
        (
            ["x_EVNT.mrc", "PS.mrc", "again_1.mrc", "x_DWarf.mrc"],
            {"x_EVNT.mrc", "PS.mrc", "again_1.mrc", "x_DWarf.mrc"},
        ),
    ],
)
def test_one_file_an_exposure_is_taken_from_what_the_known_programs_write(tree: list[str], taken: set[str]) -> None:
    selection = Selection()
    assert {
        name for name in tree if selection.takes(name) and not selection.lies_beside(name, tree.__contains__)
    } == taken


def test_a_companion_is_taken_where_include_names_it_or_none_are_left_alone() -> None:
    tree = ["x.mrc", "x_DW.mrc", "x_noDW.mrc", "x_PS.mrc"]

    def taken(selection: Selection) -> list[str]:
        return [name for name in tree if selection.takes(name) and not selection.lies_beside(name, tree.__contains__)]

    assert taken(Selection(include=["*_dw.mrc"])) == ["x_DW.mrc"]
    assert taken(Selection(include=["*_noDW.mrc"])) == ["x_noDW.mrc"]
    assert taken(Selection(include=["**/*_noDW.mrc"])) == ["x_noDW.mrc"]
    assert taken(Selection(companions=[])) == tree
    assert taken(Selection(companions=[""])) == tree
