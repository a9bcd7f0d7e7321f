"""Session trees as microscopes and motion correction write them: whose they are, and one result for an exposure."""

from __future__ import annotations

from pathlib import Path

import pytest

from frazil.session.intake.scan import Scanner
from frazil.session.intake.selection import Selection
from frazil.session.intake.survey import survey
from frazil.session.outbox.file_stamp import FileStamp, stamp_of
from frazil.settings import ANY, LAYOUTS

SQUARE = "Images-Disc1/GridSquare_7"
EXPOSURE = f"{SQUARE}/Data/FoilHole_1_Data_2_3_20230101_000001"
OVERVIEWS = (
    *(f"{SQUARE}/GridSquare_20230101_000000.{ending}" for ending in ("mrc", "jpg", "xml")),
    *(f"{SQUARE}/FoilHoles/FoilHole_1_20230101_000000.{ending}" for ending in ("mrc", "jpg", "xml")),
    *("EpuSession.dm", "Metadata/GridSquare_7.dm", "Sample0/Atlas/Atlas_1.mrc", "Sample0/Atlas/Tile_1.mrc"),
)
MOVIE = "FoilHole_1_Data_2_3_20230101_000001_fractions"

TREES = {
    "epu": (
        [*OVERVIEWS, *(f"{EXPOSURE}.{e}" for e in ("mrc", "jpg", "xml")), f"{EXPOSURE}_Fractions.mrc", "Screening.mrc"],
        "epu",
        {f"{EXPOSURE}.mrc"},
    ),
    "epu, movies alone, with gain": (
        [*OVERVIEWS, f"{EXPOSURE}_Fractions.mrc", f"{EXPOSURE}_gain.mrc", f"{EXPOSURE}-gain-ref.MRC"],
        "epu",
        set(),
    ),
    "epu, EER": ([*OVERVIEWS, f"{EXPOSURE}.mrc", f"{EXPOSURE}_EER.eer", f"{EXPOSURE}.xml"], "epu", {f"{EXPOSURE}.mrc"}),
    "epu, TIFF": (
        [*OVERVIEWS, f"{EXPOSURE}.jpg", f"{EXPOSURE}_fractions.tiff", "FoilHole_gain.tiff"],
        "epu",
        set(),
    ),
    # RELION mirrors the folders of the movies, EPU's included.
    "relion": (
        [f"Images-Disc1/GridSquare_7/Data/{MOVIE}{end}.mrc" for end in ("", "_noDW", "_EVN", "_ODD", "_PS")]
        + [f"Images-Disc1/GridSquare_7/Data/{MOVIE}.star", "run.out"],
        "relion",
        {f"Images-Disc1/GridSquare_7/Data/{MOVIE}.mrc"},
    ),
    "a RELION project with EPU's movies in it": (
        [f"raw/{name}" for name in (*OVERVIEWS, f"{EXPOSURE}.mrc", f"{EXPOSURE}_fractions.tiff")]
        + ["MotionCorr/job002/run.out", "MotionCorr/job002/Movies/m.mrc", "MotionCorr/job002/Movies/m_PS.mrc"]
        + ["Refine3D/job010/run_class001.mrc", "MaskCreate/job011/mask.mrc", "Class2D/job005/run_it025_classes.mrcs"],
        "relion-project",
        {"MotionCorr/job002/Movies/m.mrc"},
    ),
    "a RELION project without motion correction": (
        ["default_pipeline.star", "Micrographs/a.mrc", "Micrographs/b.mrc"],
        "any",
        {"Micrographs/a.mrc", "Micrographs/b.mrc"},
    ),
    "motioncor, weighted alone": (["a_DW.mrc", "b_DW.mrc", "a-Full.log"], "motioncor", {"a_DW.mrc", "b_DW.mrc"}),
    "motioncor": ([f"a{e}.mrc" for e in ("", "_DW", "_DWS", "_EVN", "_ODD")] + ["a_Ctf.mrc"], "motioncor", {"a.mrc"}),
    "cryosparc": (
        [
            *(f"J12/motioncorrected/01_{end}.mrc" for end in (f"{MOVIE}_patch_aligned_doseweighted", "background")),
            *("J20/mask.mrc", "J12/thumbnails/01.mrc"),
        ],
        "cryosparc",
        {f"J12/motioncorrected/01_{MOVIE}_patch_aligned_doseweighted.mrc"},
    ),
    "cryosparc, both": (
        [f"motioncorrected/a.mrc_patch_aligned{end}.mrc" for end in ("", "_doseweighted")],
        "cryosparc",
        {"motioncorrected/a.mrc_patch_aligned.mrc"},
    ),
    "warp": (
        [f"warp/{f}/a.mrc" for f in ("average", "average/even", "average/odd", "average/denoised", "deconv", "mask")]
        + ["warp/powerspectrum/a.mrc", "warp/a.xml", "gain.mrc", "reference.mrc"],
        "warp",
        {"warp/average/a.mrc"},
    ),
    "the averages of warp": (["a.mrc", "even/a.mrc", "odd/a.mrc", "denoised/a.mrc"], "any", {"a.mrc"}),
    "serialem": (
        ["grid.nav", "LMM1.mrc", "MMM.mrc", "SuperRef_1.mrc", "a_0001.mrc", "a_0001.mrc.mdoc", "frames/a.tif"],
        "serialem",
        {"a_0001.mrc"},
    ),
    "leginon": (
        [f"rawdata/23jan01a_00005{end}.mrc" for end in ("gr", "gr_00002sq", "gr_00002sq_00003hl")]
        + [f"rawdata/23jan01a_00005gr_00002sq_00003hl_00004enn{e}.mrc" for e in ("", "-a", "-a-DW", ".frames")]
        + ["rawdata/23jan01a_00005gr_00002sq_00003hl_00006en-a.mrc", "ref/bright_0.mrc"]
        + ["rawdata/23jan01a_00005gr_00002sq_00003hl_00006en-a-DW.mrc"],
        "leginon",
        {
            "rawdata/23jan01a_00005gr_00002sq_00003hl_00004enn.mrc",
            "rawdata/23jan01a_00005gr_00002sq_00003hl_00006en-a.mrc",
        },
    ),
    "none that is known": (["a.mrc", "deep/b.mrc", "c.xml"], "any", {"a.mrc", "deep/b.mrc"}),
}


def plant(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def taken(scanner: Scanner, root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in scanner.scan().new}


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_is_known_by_looking_and_gives_one_file_for_each_exposure(tmp_path: Path, tree: str) -> None:
    names, layout, expected = TREES[tree]
    plant(tmp_path, names)
    selection = Selection(layout="auto")
    scanner = Scanner(tmp_path, selection, {})
    assert taken(scanner, tmp_path) == expected
    assert selection.layout.name == layout
    assert {name for name in names if scanner.finds(name)} == expected


def test_every_layout_is_found_somewhere_and_auto_finds_no_other() -> None:
    assert {layout for _, layout, _ in TREES.values()} == {layout.name for layout in (*LAYOUTS, ANY)}


def test_a_layout_that_shows_later_changes_nothing_that_was_taken_and_is_the_last(tmp_path: Path) -> None:
    known: dict[str, FileStamp] = {}
    scanner = Scanner(tmp_path, Selection(layout="auto"), known)
    plant(tmp_path, ["early.mrc"])
    assert taken(scanner, tmp_path) == {"early.mrc"}
    known["early.mrc"] = stamp_of(tmp_path / "early.mrc")
    plant(tmp_path, [*OVERVIEWS, f"{EXPOSURE}.mrc", "late.mrc"])
    assert taken(scanner, tmp_path) == {f"{EXPOSURE}.mrc"}
    inventory = scanner.scan().inventory
    assert (inventory.layout, inventory.taken) == ("epu", 2)
    assert inventory.passed_over["layout"].names == ("late.mrc",)
    plant(tmp_path, ["MotionCorr/job002/run.out", "MotionCorr/job002/m.mrc"])
    assert scanner.scan().inventory.layout == "epu"


def test_an_event_is_a_sign_as_well(tmp_path: Path) -> None:
    scanner = Scanner(tmp_path, Selection(layout="auto"), {})
    scanner.scan()
    assert not scanner.finds(f"{SQUARE}/GridSquare_1.xml")  # gone again before a scan
    assert scanner.scan().inventory.layout == "epu"


def test_the_operators_patterns_and_layout_win(tmp_path: Path) -> None:
    plant(tmp_path, [*OVERVIEWS, f"{EXPOSURE}.mrc", "other.mrc"])

    def found(selection: Selection) -> set[str]:
        return taken(Scanner(tmp_path, selection, {}), tmp_path)

    assert found(Selection(include=["other.mrc"], layout="auto")) == {"other.mrc"}
    assert found(Selection(exclude=["FoilHole_1_*"], layout="auto")) == set()
    assert found(Selection(layout="any")) == {f"{EXPOSURE}.mrc", "other.mrc"}
    assert found(Selection(layout="motioncor")) == {f"{EXPOSURE}.mrc", "other.mrc"}
    assert found(Selection(layout="auto", found="epu")) == {f"{EXPOSURE}.mrc"}
    assert found(Selection(layout="any", found="epu")) == {f"{EXPOSURE}.mrc", "other.mrc"}


def test_a_survey_counts_what_each_pattern_decides_on(tmp_path: Path) -> None:
    plant(tmp_path, [*OVERVIEWS, f"{EXPOSURE}.mrc", f"{EXPOSURE}_Fractions.mrc", "other.mrc", "raw/x.mrc"])
    found = survey(tmp_path, Selection(exclude=["raw"], layout="auto"), [])
    assert {(one.reason, one.pattern): one.count for one in found.patterns} == {
        (None, "FoilHole_*_Data_*.mrc"): 1,
        ("movie", "*_fractions.mrc"): 1,
        ("companion", "FoilHoles"): 1,
        ("companion", "GridSquare_*.mrc"): 1,
        ("companion", "Atlas"): 1,
        ("excluded", "raw"): 1,
        ("layout", ""): 1,
        ("not_an_image", ""): 4,
    }
    assert found.patterns[0].reason is None
    assert found.inventory.taken == 1


def test_links_may_be_kept_to_named_directories(tmp_path: Path) -> None:
    root, raid, scratch = (tmp_path / name for name in ("root", "raid", "scratch"))
    plant(raid, ["a.mrc"])
    plant(scratch, ["b.mrc", "deep/c.mrc"])
    root.mkdir()
    for name, target in (("a.mrc", raid / "a.mrc"), ("b.mrc", scratch / "b.mrc"), ("deep", scratch / "deep")):
        (root / name).symlink_to(target)
    (root / "loop").symlink_to(root)
    assert taken(Scanner(root, Selection(), {}), root) == {"a.mrc", "b.mrc", "deep/c.mrc"}
    (tmp_path / "alias").symlink_to(raid)
    scanner = Scanner(root, Selection(), {}, link_roots=[tmp_path / "alias", tmp_path / "scr"])
    assert taken(scanner, root) == {"a.mrc"}
    assert scanner.scan().inventory.passed_over["link_outside"].count == 2
    assert not scanner.finds("b.mrc")
    assert not scanner.finds("deep/c.mrc")
