"""Files of other pickers are found by the micrographs' names and scored as models are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from frazil.errors import FrazilError, SettingsError
from frazil.picking import Picks, write_star, write_topaz
from frazil_trainer.data.labelled import LabelledPaths
from frazil_trainer.evaluation import find_pick_files, flip_warnings, score_micrographs, validation_paths
from frazil_trainer.evaluation.scores import row_curves, score_rows
from frazil_trainer.evaluation.sources import PickFiles, open_sources
from frazil_trainer.recipe import TrainingSet

SHAPE = (320, 448)
PEER_STEMS = (
    "14_33_35_0",
    "15_33_42_0",
    "15_41_22_0",
    "15_43_48_0",
    "15_46_37_0",
    "16_26_22_0",
    "16_51_03_0",
)


@pytest.fixture
def data(tmp_path: Path, make_scene: Callable, write_mrc: Callable) -> Path:
    """Two sets, a and b, of two labelled micrographs each; m1 is in both."""
    for i, place in enumerate(("a/m1", "a/m2", "b/m1", "b/m3")):
        scene = make_scene(SHAPE, seed=i)
        file = tmp_path / f"{place}.mrc"
        file.parent.mkdir(exist_ok=True)
        write_mrc(file, scene.pixels)
        write_star(file.with_suffix(".star"), scene.truth)
    return tmp_path


def paths_of(data: Path, **sets: tuple[str, ...]) -> list[LabelledPaths]:
    sources = tuple(TrainingSet(folder=name, diameter_angstrom=48, validation=stems) for name, stems in sets.items())
    return validation_paths(data, sources)


def truth_of(paths: LabelledPaths) -> Picks:
    (one,) = score_micrographs([Everything()], [paths])
    return one.truth


class Everything:
    """Finds nothing, and so has its say on every micrograph."""

    name, threshold = "everything", None

    def pick(self, paths, micrograph):
        return Picks(y=np.zeros(0), x=np.zeros(0), score=np.zeros(0))


def write_box(path: Path, picks: Picks, *, up: bool = False, scores: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y = SHAPE[0] - 1 - picks.y if up else picks.y
    rows = zip(picks.x - 12, y - 12, np.linspace(0.9, 0.1, len(picks)), strict=True)
    path.write_text("".join(f"{x}\t{b}\t24\t24" + (f"\t{s}\n" if scores else "\n") for x, b, s in rows))


def row_of(files: PickFiles, paths: list[LabelledPaths]):
    (row,) = score_rows(score_micrographs([files], paths), [files], paths)
    return row


@pytest.mark.parametrize("name", ["m1.box", "m1_autopick.box", "m1_1-2.BOX"])
def test_picks_are_found_by_the_micrographs_name_whatever_follows_it(data, name):
    paths = paths_of(data, a=("m1",))
    write_box(data / "picks" / name, truth_of(paths[0]))
    row = row_of(find_pick_files("other", data / "picks", "down", paths), paths)
    assert (row.picker, row.threshold, row.picks) == ("other", None, 12)
    assert row.half.micro.f1 == row.fifth.micro.f1 == row.half.micro.average_precision == 1


def test_y_axis_up_turns_the_picks_round_and_the_wrong_one_is_told(data):
    paths = paths_of(data, a=("m1",))
    write_box(data / "picks" / "m1.box", truth_of(paths[0]), up=True)
    right, wrong = (row_of(find_pick_files("p", data / "picks", axis, paths), paths) for axis in ("up", "down"))
    assert right.half.micro.f1 == 1
    assert wrong.half.micro.f1 < 0.5
    assert flip_warnings([right]) == []
    assert len(flip_warnings([wrong])) == 1


def test_one_table_may_name_all_micrographs(data):
    paths = paths_of(data, a=("m1", "m2"))
    lines = ["image_name\tx_coord\ty_coord\tscore"]
    for one in paths:
        truth = truth_of(one)
        lines += [f"{one.micrograph.stem}\t{x}\t{y}\t3.5" for x, y in zip(truth.x, truth.y, strict=True)]
    (data / "picks").mkdir()
    (data / "picks" / "all.txt").write_text("\n".join(lines))
    row = row_of(find_pick_files("topaz", data / "picks", "down", paths), paths)
    assert (len(row.micrographs), row.half.micro.f1) == (2, 1)


def test_a_table_with_picks_of_two_micrographs_of_one_name_is_refused_with_both(data):
    paths = paths_of(data, a=("m1", "m2"))
    (data / "table").mkdir()
    rows = "".join(f"{folder}/{stem}.mrc 9 8\n" for folder in ("G1", "G2") for stem in ("m1", "m2"))
    head = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
    (data / "table" / "all.star").write_text(head + rows)
    files = find_pick_files("peer", data / "table", "down", paths)
    with pytest.raises(FrazilError, match=r"m1 stands for G1/m1\.mrc and G2/m1\.mrc; keep"):
        score_micrographs([files], paths)


def test_refined_picks_are_scored_where_their_origins_put_them(data):
    paths = paths_of(data, a=("m1",))
    (data / "refined").mkdir()
    truth, size = truth_of(paths[0]), 4.0
    head = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginXAngst\n_rlnOriginYAngst\n"
    rows = "".join(f"{x + 100 / size} {y} 100 0\n" for y, x in zip(truth.y, truth.x, strict=True))
    (data / "refined" / "m1.star").write_text(head + rows)
    micrograph = paths[0].micrograph
    with mrcfile.open(micrograph, "r+") as mrc:
        mrc.voxel_size = size
    (scored,) = score_micrographs([find_pick_files("peer", data / "refined", "down", paths)], paths)
    np.testing.assert_allclose(scored.picks.x, truth.x, atol=1e-3)


def test_micrographs_without_a_file_are_left_out_and_named(data):
    paths = paths_of(data, a=("m1", "m2"))
    write_box(data / "picks" / "m2.box", truth_of(paths[1]))
    row = row_of(find_pick_files("p", data / "picks", "down", paths), paths)
    assert ([one.name for one in row.micrographs], row.missing, row.particles) == (["m2"], ("m1",), 12)


def test_set_without_any_picks_has_no_row(data):
    paths = paths_of(data, a=("m2",), b=("m3",))
    write_box(data / "picks" / "m3.box", truth_of(paths[1]))
    assert row_of(find_pick_files("p", data / "picks", "down", paths), paths).folder == "b"


@pytest.mark.parametrize("name", ["m2.box", "m2.star"])
def test_file_without_picks_is_a_picker_that_found_none(data, name):
    paths = paths_of(data, a=("m2",))
    (data / "picks").mkdir()
    if name == "m2.star":
        write_star(data / "picks" / name, truth_of(paths[0]).select(np.zeros(0, np.intp)))
    else:
        (data / "picks" / name).write_text("")
    row = row_of(find_pick_files("p", data / "picks", "down", paths), paths)
    assert (row.picks, row.particles, row.half.micro.recall, row.half.micro.average_precision) == (0, 12, 0, 0)


def test_picks_without_scores_have_no_average_precision_and_no_curve(data):
    paths = paths_of(data, a=("m1", "m2"))
    for one in paths:
        write_box(data / "picks" / f"{one.micrograph.stem}.box", truth_of(one), scores=False)
    files = find_pick_files("p", data / "picks", "down", paths)
    scored = score_micrographs([files], paths)
    (row,) = score_rows(scored, [files], paths)
    assert row.half.micro.f1 == 1
    assert row.half.micro.average_precision is row.half.macro.average_precision is row.half.best_threshold is None
    assert row_curves(scored, [files]) == []


def test_micrographs_of_the_same_name_in_two_sets_need_folders_of_their_own(data):
    paths = paths_of(data, a=("m1",), b=("m1",))
    write_box(data / "picks" / "m1.box", truth_of(paths[0]))
    with pytest.raises(FrazilError, match=r"found a m1 in a and one in b; give them folders of their own"):
        find_pick_files("p", data / "picks", "down", paths)
    for one in paths:
        write_box(data / "picks" / one.source.folder / "m1.box", truth_of(one))
    files = find_pick_files("p", data / "picks", "down", paths)
    rows = score_rows(score_micrographs([files], paths), [files], paths)
    assert [(row.folder, row.half.micro.f1) for row in rows] == [("a", 1), ("b", 1)]


def test_two_kinds_of_picks_in_one_folder_are_refused(data):
    paths = paths_of(data, a=("m1",))
    for name in ("m1.box", "m1.star"):
        write_box(data / "picks" / name, truth_of(paths[0]))
    with pytest.raises(FrazilError, match=r"found files ending in \.box and \.star"):
        find_pick_files("p", data / "picks", "down", paths)


def test_picks_named_exactly_go_before_those_of_a_longer_name(data):
    paths = paths_of(data, a=("m1",))
    write_box(data / "picks" / "m1.box", truth_of(paths[0]))
    write_box(data / "picks" / "m1_other_micrograph.box", truth_of(paths[0]).select(np.arange(2)))
    assert row_of(find_pick_files("p", data / "picks", "down", paths), paths).picks == 12


def test_folder_with_picks_of_other_micrographs_is_refused(data):
    paths = paths_of(data, a=("m1",))
    with pytest.raises(FrazilError, match=r"picks: expected a folder with picks, found none"):
        find_pick_files("p", data / "picks", "down", paths)
    write_box(data / "picks" / "x.box", truth_of(paths[0]))
    with pytest.raises(FrazilError, match=r"named after validation micrographs, such as m1\.star, found none"):
        find_pick_files("p", data / "picks", "down", paths)


# --- as the command line names them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "folders", "axes", "threshold", "message"),
    [
        ((), (), (), None, "found none; give --model or --picks"),
        ((), ("picks",), (), 0.5, "threshold: expected a model"),
        ((), ("picks",), ("sideways",), None, "picks-y-axis: expected down or up"),
        ((), ("picks",), ("up", "down"), None, "once for each of 1 --picks, found up down"),
        ((), ("picks", "p=picks", "p=picks"), (), None, "found p twice; give NAME=PATH"),
    ],
)
def test_options_that_make_no_sense_are_refused(data, monkeypatch, models, folders, axes, threshold, message):
    paths = paths_of(data, a=("m1",))
    write_box(data / "picks" / "m1.box", truth_of(paths[0]))
    monkeypatch.chdir(data)
    with pytest.raises(SettingsError, match=message):
        open_sources(models, folders, axes, threshold, paths)


def test_recipe_without_validation_micrographs_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="expected a recipe with validation micrographs"):
        open_sources((), (str(tmp_path),), (), None, [])


def test_pickers_are_called_by_the_name_given_or_that_of_their_folder(data, blob_model):
    paths = paths_of(data, a=("m1",))
    for name in ("picks", "k=v"):
        write_box(data / name / "m1.box", truth_of(paths[0]))
    models, folders = [str(blob_model), f"mine={blob_model}"], [f"{data}/picks", f"x={data}/picks", f"{data}/k=v"]
    sources = open_sources(models, folders, ["down"], None, paths)
    assert [source.name for source in sources] == ["blob", "mine", "picks", "x", "k=v"]
    assert [source.threshold for source in sources] == [0.5, 0.5, None, None, None]


def test_each_folder_may_have_a_y_axis_of_its_own(data):
    paths = paths_of(data, a=("m1",))
    write_box(data / "down" / "m1.box", truth_of(paths[0]))
    write_box(data / "up" / "m1.box", truth_of(paths[0]), up=True)
    sources = open_sources((), [f"{data}/up", f"{data}/down"], ["up", "down"], None, paths)
    rows = score_rows(score_micrographs(sources, paths), sources, paths)
    assert [(row.picker, row.half.micro.f1) for row in rows] == [("up", 1), ("down", 1)]


def test_each_folder_may_have_a_binning_of_its_own(data):
    paths = paths_of(data, a=("m1",))
    whole = truth_of(paths[0])
    binned = Picks(y=whole.y / 8, x=whole.x / 8, score=whole.score)
    for name, picks in (("whole", whole), ("binned", binned)):
        (data / name).mkdir()
        write_topaz(data / name / "m1.txt", picks, "m1.mrc")
    folders = [f"{data}/whole", f"{data}/binned"]
    for binnings, f1 in (([1.0, 8.0], [1, 1]), ([], [1, 0]), ([8.0], [0, 1])):
        sources = open_sources((), folders, ["down"], None, paths, binnings)
        assert [row.half.micro.f1 for row in score_rows(score_micrographs(sources, paths), sources, paths)] == f1
    with pytest.raises(SettingsError, match=r"picks-binning: expected a number above 0, .* 2 --picks, found 0"):
        open_sources((), folders, ["down"], None, paths, [0.0])
    with pytest.raises(SettingsError, match=r"picks-binning: .* each of 2 --picks, found 8 8 8"):
        open_sources((), folders, ["down"], None, paths, [8.0] * 3)


def test_cryosparcs_two_files_of_picks_are_found_together(data):
    paths = paths_of(data, a=("m1", "m2"))
    truths = {one.micrograph.stem: truth_of(one) for one in paths}
    places = [(stem, x / SHAPE[1], y / SHAPE[0]) for stem, truth in truths.items() for x, y, _ in truth.rows()]
    (data / "picks").mkdir()
    parts = {
        "particles": (
            [("uid", "<u8"), ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")],
            [(i, x, y) for i, (_, x, y) in enumerate(places)],
        ),
        "passthrough": (
            [("uid", "<u8"), ("location/micrograph_path", "S30")],
            [(i, f"J1/{stem}.mrc") for i, (stem, _, _) in enumerate(places)][::-1],
        ),
    }
    for name, (types, rows) in parts.items():
        with (data / "picks" / f"{name}.cs").open("wb") as file:
            np.save(file, np.array(rows, types), allow_pickle=False)
    row = row_of(find_pick_files("cryosparc", data / "picks", "down", paths), paths)
    assert (len(row.micrographs), row.half.micro.f1) == (2, 1)


# --- published picks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers(real_micrographs: Path, shared_data: Path) -> dict[tuple[str, str], float]:
    """F1 within half a diameter of published picks on the seven micrographs that have some, by picker and labels."""
    source = TrainingSet(
        folder="beta-galactosidase",
        diameter_angstrom=191,
        border_px=80,
        other_labels=("_union",),
        validation=tuple(f"Falcon_2012_06_12-{stem}" for stem in PEER_STEMS),
    )
    paths = validation_paths(real_micrographs, [source])
    folder = shared_data / "beta-galactosidase" / "peer-picks"
    sources = [find_pick_files(name, folder / name, "up", paths) for name in ("cryolo", "topaz", "deeppicker")]
    rows = score_rows(score_micrographs(sources, paths), sources, paths)
    assert all(len(row.micrographs) == 7 and row.half.intervals for row in rows)
    return {(row.picker, row.labels): row.half.micro.f1 for row in rows}


@pytest.mark.parametrize(
    ("picker", "labels", "f1"),
    [
        ("cryolo", ".star", 0.893),
        ("cryolo", "_union.star", 0.965),
        ("topaz", ".star", 0.819),
        ("topaz", "_union.star", 0.890),
        ("deeppicker", ".star", 0.348),
        ("deeppicker", "_union.star", 0.372),
    ],
)
def test_published_picks_reach_their_known_figures(peers, picker, labels, f1):
    assert peers[picker, labels] == pytest.approx(f1, abs=0.001)
