import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from frazil.errors import FrazilError
from frazil.model import Model, ModelContract, load_model
from frazil.picking import Picker, PickingSettings, Picks, read_micrograph, read_star, write_star
from frazil_trainer.data.labelled import LabelledPaths, find_labelled
from frazil_trainer.evaluation import (
    ModelSource,
    ScoredMicrograph,
    best_threshold,
    flip_warnings,
    markdown_table,
    score_micrographs,
    score_table,
    show_table,
    validation_paths,
)
from frazil_trainer.evaluation.ranking import Ranking, Tally
from frazil_trainer.evaluation.scores import score_rows
from frazil_trainer.recipe import Recipe, TrainingSet

DIAMETER_PX = 30
PIXEL_SIZE_ANGSTROM = 4.0
SHAPE = (260, 420)
DISCS = [(40.0 + 60 * i, 45.0 + 65 * j) for i in range(4) for j in range(6)]


def scored(
    picks: list[tuple[float, float, float]], truth: list[tuple[float, float]], folder: str = "a"
) -> ScoredMicrograph:
    p, t = np.array(picks, np.float64).reshape(-1, 3), np.array(truth, np.float64).reshape(-1, 2)
    return ScoredMicrograph(
        name="m",
        folder=folder,
        picks=Picks(y=p[:, 0], x=p[:, 1], score=p[:, 2]),
        truth=Picks(y=t[:, 0], x=t[:, 1], score=np.ones(len(t))),
        diameter_px=10.0,
        height_px=1000,
    )


def line(scores: list[float], right: int, missed: int = 0, folder: str = "a") -> ScoredMicrograph:
    """Picks in a row with these scores, of which the first `right` are particles; some more particles are missed."""
    picks = [(0.0, 100.0 * i, score) for i, score in enumerate(scores)]
    truth = [(0.0, 100.0 * i) for i in range(right)] + [(500.0, 100.0 * i) for i in range(missed)]
    return scored(picks, truth, folder)


def tally_at(scored: list[ScoredMicrograph], threshold: float, distance_diameters: float = 0.5) -> Tally:
    return Ranking.pooled(one.rank(distance_diameters) for one in scored).tally(threshold)


def test_tally_at_a_threshold_counts_picks_at_and_above_it():
    one = line([0.9, 0.7, 0.5, 0.3], right=3, missed=2)
    assert tally_at([one], 0.0) == Tally(hits=3, misses=2, false_picks=1)
    assert tally_at([one], 0.5) == Tally(hits=3, misses=2, false_picks=0)
    assert tally_at([one], 0.51) == Tally(hits=2, misses=3, false_picks=0)
    assert tally_at([one], 0.95) == Tally(hits=0, misses=5, false_picks=0)


def test_tally_over_micrographs_is_the_sum_of_theirs():
    first, second = line([0.9, 0.8], right=1), line([0.6, 0.5, 0.2], right=2, missed=1)
    assert tally_at([first, second], 0.4) == tally_at([first], 0.4) + tally_at([second], 0.4)
    assert tally_at([], 0.4) == Tally()


def test_picks_of_one_micrograph_are_not_matched_in_another():
    here, there = scored([(0, 0, 0.9)], []), scored([], [(0, 0)])
    assert tally_at([here, there], 0.5) == Tally(hits=0, misses=1, false_picks=1)


@pytest.mark.parametrize(("offset", "half", "fifth"), [(1.9, 1, 1), (2.1, 1, 0), (4.9, 1, 0), (5.1, 0, 0)])
def test_distance_is_a_share_of_the_diameter(offset, half, fifth):
    one = scored([(0, offset, 0.9)], [(0, 0)])
    assert tally_at([one], 0.5).hits == half
    assert tally_at([one], 0.5, 0.2).hits == fifth


def test_best_threshold_keeps_the_right_picks_and_drops_the_others():
    one = line([0.9, 0.8, 0.62, 0.4, 0.3], right=3)
    assert best_threshold([one], {"a": 1.0}) == 0.52  # the middle of 0.41 to 0.62


def test_weights_decide_between_sets_that_want_different_thresholds():
    low = line([0.9, 0.2, 0.2, 0.2], right=4, folder="low")
    high = line([0.9, 0.3, 0.3, 0.3], right=1, folder="high")
    both = [low, high]
    assert best_threshold(both, {"low": 10.0, "high": 1.0}) <= 0.2
    assert 0.3 < best_threshold(both, {"low": 1.0, "high": 10.0}) <= 0.9


def test_sets_count_by_weight_and_not_by_their_number_of_particles():
    low = line([0.2] * 200, right=200, folder="low")
    high = line([0.9, *[0.3] * 9], right=1, folder="high")
    assert best_threshold([low, high], {"low": 1.0, "high": 3.0}) > 0.3


PLACE = LabelledPaths(
    micrograph=Path("m.mrc"), labels=Path("m.star"), source=TrainingSet(folder="a", diameter_angstrom=10)
)


@dataclass
class Named:
    """A picker of which only name and threshold matter."""

    name: str
    threshold: float | None

    def pick(self, paths, micrograph):
        raise AssertionError


scores = st.lists(st.integers(5, 99).map(lambda n: n / 100), min_size=1, max_size=8)


@given(sets=st.lists(st.tuples(scores, st.integers(1, 8), st.floats(0.1, 10)), min_size=1, max_size=3))
@settings(max_examples=20)
def test_no_threshold_beats_the_best_one(sets):
    members = [line(s, right=min(right, len(s)), missed=1, folder=str(i)) for i, (s, right, _) in enumerate(sets)]
    weights = {str(i): weight for i, (_, _, weight) in enumerate(sets)}

    def mean_f1(threshold: float) -> float:
        f1s = [tally_at([one], threshold).f1 for one in members]
        return sum(f1 * weights[one.folder] for f1, one in zip(f1s, members, strict=True)) / sum(weights.values())

    best = best_threshold(members, weights)
    assert 0.05 <= best <= 0.99
    # The middle one of those within 0.001 of the best is taken.
    assert mean_f1(best) >= max(mean_f1(n / 100) for n in range(5, 100)) - 0.001 - 1e-12


# --- with a model and micrographs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disc_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A real model that scores how much darker a disc is than the ring around it."""
    contract = ModelContract(
        architecture="disc",
        tile_px=24,
        grid=1,
        step_px=2.0,
        offset_px=11.5,
        diameter_px=12.0,
        normalisation="flat-01",
        contrast="dark",
        threshold=0.5,
        training_set_sha256="none",
        validation="{}",
    )
    y, x = np.mgrid[:24, :24] - 11.5
    disc, ring = np.hypot(y, x) <= 6, (np.hypot(y, x) > 6.5) & (np.hypot(y, x) < 11)
    weight = (-30 * (disc / disc.sum() - ring / ring.sum())).astype(np.float32).reshape(1, 1, 24, 24)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["tiles", "w", "b"], ["conv"]),
            helper.make_node("Squeeze", ["conv", "axes"], ["flat"]),
            helper.make_node("Sigmoid", ["flat"], ["scores"]),
        ],
        "disc",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, 24, 24])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1, 1])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-5], np.float32), "b"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, contract.to_metadata())
    path = tmp_path_factory.mktemp("model") / "disc.onnx"
    onnx.save_model(model, path)
    return load_model(path, "cpu", 1)


def write_labels(path: Path, places: list[tuple[float, float]]) -> None:
    array = np.array(places, np.float64).reshape(-1, 2)
    write_star(path, Picks(y=array[:, 0], x=array[:, 1], score=np.ones(len(array))))


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., list[LabelledPaths]]:
    """A training set of one micrograph with dark discs at DISCS, labelled as asked."""

    def make(
        labels: list[tuple[float, float]], folder: str = "set", *, border_px: int = 0, contrast: int = 8
    ) -> list[LabelledPaths]:
        source = TrainingSet(folder=folder, diameter_angstrom=DIAMETER_PX * PIXEL_SIZE_ANGSTROM, border_px=border_px)
        (tmp_path / folder).mkdir()
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        pixels = np.random.default_rng(1).normal(100, 8, SHAPE)
        for i, (cy, cx) in enumerate(DISCS):
            pixels[np.hypot(y - cy, x - cx) <= DIAMETER_PX / 2] -= contrast + i % 4
        with mrcfile.new(tmp_path / folder / "m.mrc") as mrc:
            mrc.set_data(pixels.astype(np.float32))
            mrc.voxel_size = PIXEL_SIZE_ANGSTROM
        write_labels(tmp_path / folder / "m.star", labels)
        return find_labelled(tmp_path, source)

    return make


def test_perfect_labels_give_perfect_scores(disc_model, make_set):
    (row,) = score_table(disc_model, make_set(DISCS))
    assert (row.folder, row.labels, row.picker, len(row.micrographs)) == ("set", ".star", "disc", 1)
    assert (row.particles, row.picks, row.missing) == (24, 24, ())
    for scores in (row.half, row.fifth):
        for figures in (scores.micro, scores.macro):
            assert (figures.precision, figures.recall, figures.f1, figures.average_precision) == (1, 1, 1, 1)
        assert scores.best_f1 == 1
        assert scores.intervals is None


def test_scores_tell_misses_false_picks_and_picks_off_the_centre(disc_model, make_set):
    # 4 discs have no label, 2 labels no disc, and 5 labels lie a third of a diameter off.
    off = [(y, x + DIAMETER_PX / 3) for y, x in DISCS[:5]]
    labels = [*off, *DISCS[5:20], (70.0, 78.0), (130.0, 143.0)]
    (row,) = score_table(disc_model, make_set(labels))
    assert (row.particles, row.picks) == (22, 24)
    assert row.half.micro.precision == pytest.approx(20 / 24, abs=5e-5)
    assert row.half.micro.recall == pytest.approx(20 / 22, abs=5e-5)
    assert row.half.micro.f1 == pytest.approx(40 / 46, abs=5e-5)
    assert row.fifth.micro.f1 == pytest.approx(30 / 46, abs=5e-5)


def test_particles_and_picks_in_the_border_do_not_count(disc_model, make_set):
    (row,) = score_table(disc_model, make_set(DISCS, border_px=60))
    inside = [(y, x) for y, x in DISCS if 60 <= y < SHAPE[0] - 60 and 60 <= x < SHAPE[1] - 60]
    assert 0 < len(inside) < len(DISCS)
    assert (row.particles, row.picks, row.half.micro.f1) == (len(inside), len(inside), 1.0)


def test_table_has_a_row_for_each_training_set_by_name(disc_model, make_set):
    rows = score_table(disc_model, [*make_set(DISCS, "b"), *make_set(DISCS[:12], "a")])
    assert [(row.folder, row.particles, row.half.micro.recall) for row in rows] == [("a", 12, 1.0), ("b", 24, 1.0)]
    assert [row.half.micro.precision for row in rows] == [0.5, 1.0]


def test_threshold_given_overrules_the_models(disc_model, make_set):
    paths = make_set(DISCS)
    (strict,), (own,) = score_table(disc_model, paths, threshold=1.0), score_table(disc_model, paths)
    assert strict.picks == 0
    assert (strict.half.micro.precision, strict.half.micro.recall, strict.half.micro.f1) == (0, 0, 0)
    assert own.picks == 24


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.5])
def test_low_picks_thresholded_later_are_the_daemons_picks_at_that_threshold(disc_model, make_set, threshold):
    paths = make_set(DISCS, contrast=4)
    (one,) = score_micrographs([ModelSource(disc_model)], paths)
    later = one.picks.select(one.picks.score >= threshold)
    at_once = Picker(
        disc_model, PickingSettings(diameter_angstrom=DIAMETER_PX * PIXEL_SIZE_ANGSTROM, threshold=threshold)
    ).pick(read_micrograph(paths[0].micrograph))
    assert 0 < len(at_once) < len(one.picks)
    for name in ("y", "x", "score"):
        np.testing.assert_array_equal(getattr(later, name), getattr(at_once, name))


def test_progress_tells_each_micrograph(disc_model, make_set):
    told: list[str] = []
    (one,) = score_micrographs([ModelSource(disc_model)], make_set(DISCS), told.append)
    assert told == ["m"]
    assert (one.name, one.folder, one.diameter_px) == ("m", "set", DIAMETER_PX)


def test_validation_micrographs_are_those_of_every_set(simulated_data: Path, tiny_recipe: Recipe):
    found = validation_paths(simulated_data, tiny_recipe.data)
    assert [str(paths.micrograph.relative_to(simulated_data)) for paths in found] == [
        "easy/simulated_0001.mrc",
        "small/simulated_0001.mrc",
    ]


def test_missing_validation_micrograph_is_refused(simulated_data: Path, tiny_recipe: Recipe):
    source = msgspec.structs.replace(tiny_recipe.data[0], validation=("simulated_0099",))
    with pytest.raises(FrazilError, match="simulated_0099"):
        validation_paths(simulated_data, [source])


def shown(rows: list, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_table(rows, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_shown_table_has_the_figures(disc_model, make_set):
    off = [(y, x + DIAMETER_PX / 3) for y, x in DISCS[:5]]
    rows = score_table(disc_model, make_set([*off, *DISCS[5:20], (70.0, 78.0), (130.0, 143.0)], "[apo]"))
    printed = shown(rows, 80)
    for text in ("[apo]", "*.star", "22", "24", "0.833", "0.909", "0.870", "0.652"):
        assert text in printed
    assert "…" not in printed


def test_shown_table_names_pickers_where_there_are_several(disc_model, make_set):
    paths = make_set(DISCS)
    sources = [ModelSource(disc_model, name="one"), ModelSource(disc_model, name="two", threshold=1.0)]
    rows = score_rows(score_micrographs(sources, paths), sources, paths)
    assert [(row.picker, row.picks) for row in rows] == [("one", 24), ("two", 0)]
    printed = shown(rows, 90)
    assert "one" in printed
    assert "two" in printed
    assert "set *.star" in printed


def test_markdown_table_has_a_line_for_each_row_and_cannot_be_broken_by_names(disc_model, make_set):
    paths = make_set(DISCS, "a|b")
    source = ModelSource(disc_model, name="pipe | and\nline")
    rows = score_rows(score_micrographs([source], paths), [source], paths)
    head, rule, line = markdown_table(rows).splitlines()
    assert head.count("|") == rule.count("|")
    assert line.replace("\\|", "").count("|") == head.count("|")
    assert line.startswith("| a\\|b | \\*.star | pipe \\| and line | 1 | 24 | 24 | 1.000 | 1.000 | 1.000 | – |")


def test_network_runs_once_on_a_micrograph_with_two_sets_of_labels(disc_model, make_set):
    (paths,) = make_set(DISCS)
    other = msgspec.structs.replace(paths.source, labels_suffix="_few")
    few = paths.labels.with_name("m_few.star")
    write_star(few, read_star(paths.labels).select(np.arange(6)))
    runs: list[str] = []

    class Counting(ModelSource):
        def pick(self, paths, micrograph):
            runs.append(paths.micrograph.stem)
            return super().pick(paths, micrograph)

    scored = score_micrographs(
        [Counting(disc_model)], [paths, LabelledPaths(micrograph=paths.micrograph, labels=few, source=other)]
    )
    assert runs == ["m"]
    assert [(one.labels, len(one.truth)) for one in scored] == [(".star", len(DISCS)), ("_few.star", 6)]


def test_macro_figures_are_means_over_micrographs_and_micro_figures_count_all_together():
    full, poor = line([0.9, 0.8, 0.7, 0.6], right=4), line([0.9], right=0, missed=1)
    members = [dataclasses.replace(one, name=name, picker="p") for one, name in ((full, "full"), (poor, "poor"))]
    (row,) = score_rows(members, [Named("p", None)], [PLACE])
    assert (row.half.micro.precision, row.half.micro.recall) == (0.8, 0.8)
    assert (row.half.macro.precision, row.half.macro.recall, row.half.macro.f1) == (0.5, 0.5, 0.5)
    assert row.half.macro.average_precision == 0.5
    assert row.half.intervals is not None
    assert (row.half.intervals.f1.low, row.half.intervals.f1.high) == (0, 1)


def test_picks_upside_down_tell_what_chance_gives():
    one = dataclasses.replace(scored([(10, 50, 1), (20, 90, 1)], [(989, 50), (979, 90)]), picker="p")
    (row,) = score_rows([one], [Named("p", None)], [PLACE])
    assert (row.half.micro.f1, row.half.f1_flipped) == (0, 1)
    assert row.half.micro.average_precision is None
    assert row.half.best_threshold is None
    (warning,) = flip_warnings([row])
    assert "--picks-y-axis" in warning
    assert flip_warnings([msgspec.structs.replace(row, half=row.fifth)]) == [warning]


def test_validation_is_scored_against_every_set_of_labels(disc_model, make_set):
    (paths,) = make_set(DISCS)
    folder = paths.micrograph.parent
    write_star(folder / f"{paths.micrograph.stem}_few.star", read_star(paths.labels).select(np.arange(6)))
    source = msgspec.structs.replace(
        paths.source, folder=folder.name, validation=(paths.micrograph.stem,), other_labels=("_few",)
    )
    rows = score_table(disc_model, validation_paths(folder.parent, [source]))
    assert [(row.labels, row.particles) for row in rows] == [(".star", len(DISCS)), ("_few.star", 6)]
