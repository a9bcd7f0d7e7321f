"""Labels of any format are read as training reads them; those that cannot be right are noticed before training."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import mrcfile
import msgspec
import numpy as np
import pytest

from frazil.errors import FrazilError, MicrographError, SettingsError
from frazil.picking import Picks, match_picks, read_coordinates, read_micrograph, read_star, write_star
from frazil_trainer.cli import main
from frazil_trainer.data.check import SetInspection, inspect_set
from frazil_trainer.data.labelled import find_labelled, load_labelled, read_labelled, training_set_sha256
from frazil_trainer.evaluation.ranking import tally_matches
from frazil_trainer.recipe import Recipe, TrainingSet, read_recipe

STEMS = [f"simulated_000{n}" for n in (1, 2, 3, 4)]
SHAPE = (384, 512)


@pytest.fixture
def easy(simulated_data: Path, tmp_path: Path) -> Path:
    """A copy of the easy simulated set, in data/easy, that a test may spoil."""
    shutil.copytree(simulated_data / "easy", tmp_path / "data" / "easy")
    return tmp_path / "data" / "easy"


@pytest.fixture
def inspect(easy: Path, tmp_path: Path, tiny_recipe: Recipe) -> Callable[..., SetInspection]:
    """Inspect the easy set as told."""

    def run(**changes: object) -> SetInspection:
        source = msgspec.structs.replace(tiny_recipe.data[0], **changes)
        return inspect_set(easy.parent, source, tiny_recipe, tmp_path / "out", 1, lambda _: None)

    return run


def truth(easy: Path, stem: str) -> Picks:
    return read_star(easy / f"{stem}.star")


def rewrite(easy: Path, change: Callable[[Picks], Picks]) -> None:
    for stem in STEMS:
        write_star(easy / f"{stem}.star", change(truth(easy, stem)))


def flip(picks: Picks) -> Picks:
    return Picks(y=SHAPE[0] - 1 - picks.y, x=picks.x, score=picks.score)


# --- what a recipe says of its labels ----------------------------------------------------------------------------


SMALLEST = """seed = 1
epochs = 2
batch = 4
[network]
architecture = "mlp"
[examples]
kind = "drawn"
[optimiser]
kind = "sgd"
[[data]]
folder = "a"
diameter_angstrom = 120
"""


def test_recipe_says_how_labels_are_to_be_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST)
    (source,) = read_recipe(path).data
    assert (source.labels, source.y_axis, source.pixel_size_angstrom) == (".star", "down", msgspec.UNSET)
    assert source.labels_binning is msgspec.UNSET
    path.write_text(SMALLEST + 'labels = ".cs"\ny_axis = "up"\npixel_size_angstrom = 1.77\nlabels_binning = 8\n')
    (source,) = read_recipe(path).data
    assert (source.labels, source.y_axis, source.pixel_size_angstrom) == (".cs", "up", 1.77)
    assert source.labels_binning == 8


@pytest.mark.parametrize(
    "line",
    ['labels = ".json"', 'y_axis = "left"', "pixel_size_angstrom = 0", "labels_binning = 0", "labels_binning = inf"],
)
def test_what_no_reader_knows_is_refused_by_key(tmp_path, line):
    path = tmp_path / "recipe.toml"
    path.write_text(f"{SMALLEST}{line}\n")
    with pytest.raises(SettingsError, match=line.split()[0]):
        read_recipe(path)


# --- labels beside micrographs -----------------------------------------------------------------------------------


def test_one_topaz_table_serves_all_micrographs_that_it_names(easy, tiny_recipe):
    lines = ["image_name\tx_coord\ty_coord\tscore"]
    for stem in STEMS[:3]:
        picks = truth(easy, stem)
        lines += [f"{stem}\t{x:.3f}\t{y:.3f}\t1" for y, x in zip(picks.y, picks.x, strict=True)]
    (easy / "particles.txt").write_text("\n".join(lines))
    source = msgspec.structs.replace(tiny_recipe.data[0], labels=".txt")
    found = find_labelled(easy.parent, source)
    assert [(paths.micrograph.stem, paths.labels.name) for paths in found] == [(s, "particles.txt") for s in STEMS[:3]]
    by_star = find_labelled(easy.parent, tiny_recipe.data[0])
    for topaz, star in zip(found, by_star, strict=False):
        np.testing.assert_allclose(
            load_labelled(topaz, tiny_recipe).centres, load_labelled(star, tiny_recipe).centres, atol=0.01
        )
    (easy / "more.txt").write_text("\n".join(lines))
    with pytest.raises(FrazilError, match=r"or one table, found 2 \(more\.txt, particles\.txt\)"):
        find_labelled(easy.parent, source)


def test_a_relion_table_of_all_particles_serves_its_micrographs(easy, tiny_recipe):
    lines = ["data_particles", "", "loop_", "_rlnCoordinateX #1", "_rlnCoordinateY #2", "_rlnMicrographName #3"]
    for stem in STEMS:
        picks = truth(easy, stem)
        lines += [f"{x:.3f} {y:.3f} Job/{stem}.mrc" for y, x in zip(picks.y, picks.x, strict=True)]
    expected = [len(truth(easy, stem)) for stem in STEMS]
    for stem in STEMS:
        (easy / f"{stem}.star").unlink()
    (easy / "particles.star").write_text("\n".join(lines) + "\n")
    found = find_labelled(easy.parent, tiny_recipe.data[0])
    assert [len(read_labelled(paths)[1]) for paths in found] == expected


def save_records(path: Path, types: dict[str, object], *records: tuple[object, ...]) -> None:
    """Write an array of records, as a job of cryoSPARC's does."""
    with path.open("wb") as file:
        np.save(file, np.array(list(records), list(types.items())), allow_pickle=False)


def test_cryosparcs_particles_and_what_passed_through_label_together(easy, tiny_recipe):
    """After a 2D classification: shifts in one file; places, micrographs and their size in the other."""
    places = [(stem, y, x) for stem in STEMS[:3] for x, y, _ in truth(easy, stem).rows()]
    location = {"uid": "<u8", "location/micrograph_path": "S99", "location/micrograph_shape": ("<u4", (2,))}
    save_records(
        easy / "J7_passthrough_particles_selected.cs",
        location | {"location/center_x_frac": "<f4", "location/center_y_frac": "<f4"},
        *(
            (i, f"J2/imported/{9**20 + i:021d}_{stem}.mrc", SHAPE, (x + 2) / SHAPE[1], (y - 4) / SHAPE[0])
            for i, (stem, y, x) in enumerate(places)
        ),
    )
    save_records(
        easy / "J7_particles_selected.cs",
        {"uid": "<u8", "alignments2D/shift": ("<f4", (2,)), "alignments2D/psize_A": "<f4"},
        *((i, (1, -2), 7.0) for i in reversed(range(len(places)))),
    )
    source = msgspec.structs.replace(tiny_recipe.data[0], labels=".cs")
    with pytest.raises(FrazilError, match=r"stands for J2/imported/\d{21}_simulated_0001\.mrc and"):
        load_labelled(find_labelled(easy.parent, source)[0], tiny_recipe)
    save_records(
        easy / "J7_passthrough_particles_selected.cs",
        location | {"location/center_x_frac": "<f4", "location/center_y_frac": "<f4"},
        *(
            (i, f"J2/imported/{9**20 + int(stem[-1]):021d}_{stem}.mrc", SHAPE, (x + 2) / SHAPE[1], (y - 4) / SHAPE[0])
            for i, (stem, y, x) in enumerate(places)
        ),
    )
    found = find_labelled(easy.parent, source)
    assert [paths.micrograph.stem for paths in found] == STEMS[:3]
    before = training_set_sha256(found)
    for by_cs, by_star in zip(found, find_labelled(easy.parent, tiny_recipe.data[0]), strict=False):
        np.testing.assert_allclose(
            load_labelled(by_cs, tiny_recipe).centres, load_labelled(by_star, tiny_recipe).centres, atol=0.01
        )
    (easy / "J7_particles_selected.cs").unlink()
    assert training_set_sha256(find_labelled(easy.parent, source)) != before


def test_picks_of_binned_micrographs_label_the_whole_ones(easy, tiny_recipe, inspect):
    """Topaz picks micrographs that were made smaller, and writes where in these."""
    lines = ["image_name\tx_coord\ty_coord\tscore"]
    for stem in STEMS:
        lines += [f"{stem}\t{x / 4:.3f}\t{y / 4:.3f}\t1" for x, y, _ in truth(easy, stem).rows()]
    (easy / "picks_s4.txt").write_text("\n".join(lines))
    right, left_out = inspect(labels=".txt", labels_binning=4.0), inspect(labels=".txt")
    assert right.fit.doubts(right.source) == []
    assert right.fit.contrast == pytest.approx(inspect().fit.contrast, rel=0.01)
    assert right.outside == 0
    (*_, doubt) = left_out.fit.doubts(left_out.source)
    said = re.fullmatch(
        r"no label lies beyond (\d+)% of the width: .* binned by ([\d.]+) or so\? set labels_binning", doubt
    )
    assert said is not None
    assert 15 < int(said[1]) <= 25
    assert 4 <= float(said[2]) < 5


def test_table_of_other_micrographs_is_refused_by_name(easy, tiny_recipe):
    (easy / "particles.txt").write_text("image_name\tx_coord\ty_coord\nfoil_17\t1\t2\n")
    source = msgspec.structs.replace(tiny_recipe.data[0], labels=".txt", validation=(), selection=())
    with pytest.raises(FrazilError, match=r"particles\.txt: expected .* such as simulated_0001, found .* foil_17"):
        find_labelled(easy.parent, source)


@pytest.mark.parametrize(("ending", "dtype"), [(".png", np.uint8), (".jpg", np.uint8), (".tif", np.float32)])
def test_pictures_train_as_their_mrc_does_once_they_have_a_pixel_size(easy, tiny_recipe, ending, dtype):
    (before, *_) = find_labelled(easy.parent, tiny_recipe.data[0])
    expected = load_labelled(before, tiny_recipe)
    pixels = read_micrograph(before.micrograph).pixels
    stretched = np.clip((pixels - pixels.min()) * (255 / np.ptp(pixels)), 0, 255).astype(dtype)
    before.micrograph.unlink()
    stored = stretched[::-1] if ending == ".tif" else stretched  # a TIFF's rows count from its last
    assert cv2.imwrite(str(before.micrograph.with_suffix(ending)), stored)
    (after, *_) = find_labelled(easy.parent, tiny_recipe.data[0])
    with pytest.raises(MicrographError, match=f"0001\\{ending}: expected a pixel size .* give easy pixel_size_angst"):
        load_labelled(after, tiny_recipe)
    source = msgspec.structs.replace(tiny_recipe.data[0], pixel_size_angstrom=3.5)
    (after, *_) = find_labelled(easy.parent, source)
    labelled = load_labelled(after, tiny_recipe)
    np.testing.assert_array_equal(labelled.centres, expected.centres)
    difference = labelled.picture.pixels - expected.picture.pixels
    assert np.abs(difference).mean() < 0.2 * expected.picture.pixels.std()


def test_pixel_size_of_the_recipe_overrules_the_headers(easy, tiny_recipe):
    source = msgspec.structs.replace(tiny_recipe.data[0], pixel_size_angstrom=3.0)
    labelled = load_labelled(find_labelled(easy.parent, source)[0], tiny_recipe)
    assert labelled.picture.pixel_size_angstrom == 3.0
    assert labelled.picture.diameter_px == pytest.approx(source.diameter_angstrom / 3.0)


# --- bad labels --------------------------------------------------------------------------------------------------


def test_particles_of_a_larger_micrograph_are_refused_with_their_share_and_what_to_look_at(easy, tiny_recipe):
    before = len(truth(easy, STEMS[0]))
    rewrite(easy, lambda p: Picks(y=4 * p.y, x=4 * p.x, score=p.score))
    with pytest.raises(FrazilError, match=r"0001\.star: expected particles inside .*pixel size.* y_axis") as refused:
        load_labelled(find_labelled(easy.parent, tiny_recipe.data[0])[0], tiny_recipe)
    assert f" of {before} (" in str(refused.value)
    assert "%) outside (512 x 384 px)" in str(refused.value)


def test_a_few_particles_past_the_edge_are_left_out_and_counted(easy, tiny_recipe, inspect):
    def push(picks: Picks) -> Picks:
        return Picks(
            y=np.append(picks.y, [-3.0, 384.5]), x=np.append(picks.x, [5.0, 6.0]), score=np.ones(len(picks) + 2)
        )

    before = [len(truth(easy, stem)) for stem in STEMS]
    rewrite(easy, push)
    paths = find_labelled(easy.parent, tiny_recipe.data[0])
    assert [len(load_labelled(one, tiny_recipe).centres) for one in paths] == before
    inspected = inspect()
    assert (inspected.particles, inspected.outside, inspected.refusals) == (sum(before) + 8, 8, ())


# --- what inspection sees ----------------------------------------------------------------------------------------


def test_right_labels_raise_no_doubt(easy, tmp_path, inspect):
    (easy / f"{STEMS[3]}.star").unlink()
    inspected = inspect()
    assert (inspected.micrographs, inspected.without_labels) == (3, 1)
    assert inspected.particles == sum(len(truth(easy, stem)) for stem in STEMS[:3])
    assert (inspected.shapes, inspected.pixel_sizes_angstrom) == ((SHAPE,), (3.5,))
    assert inspected.diameters_px == pytest.approx((inspected.source.diameter_angstrom / 3.5,))
    assert inspected.fit.contrast > 0.5
    assert abs(inspected.fit.contrast_flipped) < 0.5 * inspected.fit.contrast
    assert inspected.fit.doubts(inspected.source) == []


def test_flipped_labels_are_noticed_and_the_other_y_axis_puts_them_right(easy, inspect):
    straight = inspect()
    rewrite(easy, flip)
    flipped = inspect()
    (doubt,) = flipped.fit.doubts(flipped.source)
    assert "fit much better with y flipped" in doubt
    assert doubt.endswith('set y_axis = "up"')
    assert flipped.fit.contrast_flipped == pytest.approx(straight.fit.contrast, rel=0.05)
    right = inspect(y_axis="up")
    assert right.fit.contrast == pytest.approx(straight.fit.contrast, rel=0.05)
    assert right.fit.doubts(right.source) == []


def test_bright_particles_are_noticed(easy, inspect):
    for stem in STEMS:
        with mrcfile.open(easy / f"{stem}.mrc", "r+") as mrc:
            mrc.set_data(-mrc.data)
    inspected = inspect()
    (doubt,) = inspected.fit.doubts(inspected.source)
    assert "particles are brighter than what is around them" in doubt


@pytest.mark.parametrize("y_axis", ["down", "up"])
def test_labels_off_to_one_side_are_noticed_with_the_way_to_the_particles(easy, inspect, y_axis):
    rewrite(easy, lambda p: Picks(y=p.y - 3, x=p.x + 6, score=p.score))  # of 3.5 Å
    if y_axis == "up":
        rewrite(easy, flip)
    inspected = inspect(y_axis=y_axis)
    (doubt,) = inspected.fit.doubts(inspected.source)
    way = re.search(r"the labels lie off the particles, whose middle is (\S+) Å in x and (\S+) Å in y from them", doubt)
    assert way is not None
    assert float(way[1]) == pytest.approx(-21, abs=4)
    assert float(way[2]) == pytest.approx(10.5 if y_axis == "down" else -10.5, abs=4)


def test_the_origins_of_refined_particles_are_applied(easy, tiny_recipe, inspect):
    """Off by 25 Å in the file, and on the particles once rlnOriginXAngst is taken from the coordinates."""
    straight = inspect()
    rng = np.random.default_rng(1)
    for stem in STEMS:
        picks = truth(easy, stem)
        x, y = rng.normal((25.0, -10.0), 10.0, (len(picks), 2)).T
        rows = zip(picks.x + x / 3.5, picks.y + y / 3.5, x, y, strict=True)
        labels = "".join(f"_rln{name}\n" for name in ("CoordinateX", "CoordinateY", "OriginXAngst", "OriginYAngst"))
        text = "".join(" ".join(f"{value:.4f}" for value in row) + "\n" for row in rows)
        (easy / f"{stem}.star").write_text(f"data_particles\n\nloop_\n{labels}{text}")
    inspected = inspect()
    assert inspected.fit.doubts(inspected.source) == []
    assert inspected.fit.contrast == pytest.approx(straight.fit.contrast, rel=1e-2)
    assert np.hypot(*inspected.fit.offset_diameters) == pytest.approx(
        np.hypot(*straight.fit.offset_diameters), abs=0.01
    )


def test_labels_of_two_folders_joined_in_one_table_are_refused_with_both_names(easy, tiny_recipe):
    for folder in ("GridSquare_1", "GridSquare_2"):
        lines = [f"{x:.3f} {y:.3f} Job/{folder}/{stem}.mrc" for stem in STEMS for y, x in [(60, 70), (90, 50)]]
        rows = "\n".join([*lines, ""])
        with (easy / "particles.star").open("a") as table:
            head = "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n"
            table.write(rows if folder.endswith("2") else head + rows)
    for stem in STEMS:
        (easy / f"{stem}.star").unlink()
    (paths, *_) = find_labelled(easy.parent, tiny_recipe.data[0])
    with pytest.raises(
        FrazilError, match=r"0001 stands for Job/GridSquare_1/\S+0001\.mrc and Job/GridSquare_2/\S+; keep"
    ):
        read_labelled(paths)


@pytest.mark.parametrize("ending", ["mrcs", "mrc.gz", "eer", "MRC"])
def test_a_table_may_name_micrographs_with_the_endings_of_other_files(easy, tiny_recipe, ending):
    (easy / "particles.txt").write_text(f"image_name\tx_coord\ty_coord\nJob/{STEMS[0]}.{ending}\t60\t70\n")
    source = msgspec.structs.replace(tiny_recipe.data[0], labels=".txt", validation=(), selection=())
    (paths,) = find_labelled(easy.parent, source)
    assert read_labelled(paths)[1].x.tolist() == [60]


def test_labels_of_other_micrographs_are_noticed(easy, inspect):
    labels = [truth(easy, stem) for stem in STEMS]
    for stem, other in zip(STEMS, labels[1:] + labels[:1], strict=True):
        write_star(easy / f"{stem}.star", other)
    inspected = inspect()
    (doubt,) = inspected.fit.doubts(inspected.source)
    assert "the labels lie on nothing that stands out" in doubt


# --- the command -------------------------------------------------------------------------------------------------


def check_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str]:
    """Run ``frazil-train check-data`` in this process; its exit status and what it said."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["frazil-train", "check-data", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_check_data_shows_every_set_and_draws_its_labels(
    monkeypatch, capsys, tmp_path, simulated_data, tiny_recipe_text
):
    (tmp_path / "recipe.toml").write_text(tiny_recipe_text)
    arguments = (
        "--recipe",
        tmp_path / "recipe.toml",
        "--data",
        simulated_data,
        "--out",
        tmp_path / "out",
        "--count",
        2,
    )
    status, shown = check_data(monkeypatch, capsys, *arguments)
    assert status == 0
    assert "warning" not in shown
    for text in ("easy", "small", "contrast with y flipped", "512 x 384 px", "3.5 Å"):
        assert text in shown
    pictures = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert pictures == [f"{name}/simulated_000{n}_labels.png" for name in ("easy", "small") for n in (1, 2)]
    picture = cv2.imread(str(tmp_path / "out" / pictures[0]))
    assert picture.shape == (*SHAPE, 3)
    # Yellow circles around each particle that lies whole inside the micrograph, and nowhere else in that colour.
    yellow = (picture[..., 2].astype(int) - picture[..., 0]) > 80
    picks, radius = read_star(simulated_data / "easy" / "simulated_0001.star"), 129 / 3.5 / 2
    nearest = np.hypot(*(np.argwhere(yellow)[:, None, :] - np.stack([picks.y, picks.x], axis=1)).transpose(2, 0, 1))
    assert np.abs(nearest - radius).min(axis=1).max() < 3


def test_check_data_warns_of_flipped_labels_by_set(monkeypatch, capsys, tmp_path, easy, tiny_recipe_text):
    rewrite(easy, flip)
    text = tiny_recipe_text[: tiny_recipe_text.rindex("[[data]]")]
    (tmp_path / "recipe.toml").write_text(text)
    arguments = ("--recipe", tmp_path / "recipe.toml", "--data", easy.parent, "--out", tmp_path / "out", "--count", 0)
    status, shown = check_data(monkeypatch, capsys, *arguments)
    assert status == 0
    (warning,) = [line for line in shown.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: easy: the labels fit much better with y flipped")
    assert not (tmp_path / "out").exists()


def test_check_data_shows_what_training_would_refuse(monkeypatch, capsys, tmp_path, easy, tiny_recipe_text):
    rewrite(easy, lambda p: Picks(y=4 * p.y, x=4 * p.x, score=p.score))
    (tmp_path / "recipe.toml").write_text(tiny_recipe_text[: tiny_recipe_text.rindex("[[data]]")])
    arguments = ("--recipe", tmp_path / "recipe.toml", "--data", easy.parent, "--out", tmp_path / "out", "--count", 1)
    status, shown = check_data(monkeypatch, capsys, *arguments)
    assert status == 1
    assert "training would refuse" in shown
    assert "(and 3 more)" in shown
    assert "Traceback" not in shown
    assert shown.splitlines()[-1].endswith("found 4 micrographs that would be refused")
    assert (tmp_path / "out" / "easy" / "simulated_0001_labels.png").exists()


# --- real labels of other programs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer_picks(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """crYOLO's published boxes beside two real micrographs, as they came: JPEG."""
    folder = tmp_path_factory.mktemp("peers") / "cryolo"
    folder.mkdir()
    real = shared_data / "beta-galactosidase"
    for labels in sorted((real / "peer-picks" / "cryolo").glob("*.box"))[:2]:
        shutil.copy(labels, folder)
        shutil.copy(real / "micrographs" / f"{labels.stem}.jpg", folder)
    return folder


def peer_set(y_axis: str) -> TrainingSet:
    return TrainingSet(
        folder="cryolo",
        diameter_angstrom=191,
        labels=".box",
        y_axis=y_axis,
        pixel_size_angstrom=1.77,
        border_px=80,
    )


def test_cryolos_boxes_lie_on_labelled_particles_with_y_up_and_not_with_y_down(shared_data, peer_picks):
    precision = {}
    for y_axis in ("up", "down"):
        paths = find_labelled(peer_picks.parent, peer_set(y_axis))[0]
        _, picks = read_labelled(paths)
        labels = read_coordinates(shared_data / "beta-galactosidase" / "labels" / f"{paths.micrograph.stem}.csv")
        precision[y_axis] = tally_matches(match_picks(picks, labels, 108 / 5), len(labels)).precision
    assert precision["up"] > 0.7
    assert precision["down"] < 0.2


@pytest.mark.parametrize("y_axis", ["up", "down"])
def test_y_of_cryolos_boxes_is_told_from_the_micrographs(tmp_path, peer_picks, tiny_recipe, y_axis):
    source = peer_set(y_axis)
    recipe = msgspec.structs.replace(tiny_recipe, diameter_px=38.4, data=(source,))
    inspected = inspect_set(peer_picks.parent, source, recipe, tmp_path, 0, lambda _: None)
    assert inspected.refusals == ()
    contrasts = sorted((abs(inspected.fit.contrast), abs(inspected.fit.contrast_flipped)))
    assert contrasts[0] < 0.15
    assert contrasts[1] > 0.4
    assert [doubt.endswith('set y_axis = "up"') for doubt in inspected.fit.doubts(inspected.source)] == (
        [] if y_axis == "up" else [True]
    )


def blank_half(file: Path) -> None:
    with mrcfile.open(file, "r+") as mrc:
        mrc.data[:, SHAPE[1] // 2 :] = 0


def test_labels_where_there_is_no_data_are_told_and_not_learnt_from(
    easy: Path, inspect: Callable[..., SetInspection], tiny_recipe: Recipe
) -> None:
    plain = inspect()
    assert (plain.blank_fraction, plain.blank_labels) == (0.0, 0)
    for file in easy.glob("*.mrc"):
        blank_half(file)
    inspection = inspect()
    behind = sum(int((truth(easy, stem).x >= SHAPE[1] / 2).sum()) for stem in STEMS)
    assert inspection.blank_fraction == pytest.approx(0.5, abs=0.02)
    assert inspection.blank_labels == pytest.approx(behind, abs=2)
    for paths in find_labelled(easy.parent, tiny_recipe.data[0]):
        labelled = load_labelled(paths, tiny_recipe)
        half = labelled.picture.pixels.shape[1] / 2
        assert 0 < len(labelled.centres) < len(truth(easy, paths.micrograph.stem))
        assert labelled.centres[:, 1].max() < half


def test_check_data_warns_of_labels_where_there_is_no_data(
    monkeypatch, capsys, tmp_path, easy, simulated_data, tiny_recipe_text
):
    blank_half(easy / "simulated_0001.mrc")
    shutil.copytree(simulated_data / "small", easy.parent / "small")
    (tmp_path / "recipe.toml").write_text(tiny_recipe_text)
    arguments = ("--recipe", tmp_path / "recipe.toml", "--data", easy.parent, "--out", tmp_path / "out")
    _, shown = check_data(monkeypatch, capsys, *arguments)
    assert "up to 50%" in shown
    assert "labels lie where there is no data: left out" in shown


def test_a_micrograph_whose_labels_all_lie_where_there_is_no_data_is_refused(easy: Path, tiny_recipe: Recipe) -> None:
    blank_half(easy / "simulated_0001.mrc")
    picks = truth(easy, "simulated_0001")
    write_star(easy / "simulated_0001.star", picks.select(picks.x > SHAPE[1] / 2 + 50))
    paths = next(p for p in find_labelled(easy.parent, tiny_recipe.data[0]) if p.micrograph.stem == "simulated_0001")
    with pytest.raises(FrazilError, match=r"simulated_0001\.star: expected particles where the micrograph holds data"):
        load_labelled(paths, tiny_recipe)
