"""A model is adapted to a few labelled micrographs: read back, checked, taught, and taught further after a kill."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace
from rich.console import Console

from frazil.errors import FrazilError, SettingsError
from frazil.model import load_model, read_card
from frazil.picking import Picks, read_star, write_star
from frazil_trainer.adapt.adaptation import AdaptationSettings, adapt_model
from frazil_trainer.adapt.examples import AdaptationSource
from frazil_trainer.adapt.labels import load_labels
from frazil_trainer.adapt.outcome import estimate_labelled_fraction, threshold_for_labels
from frazil_trainer.adapt.parent import read_parent
from frazil_trainer.cli import main
from frazil_trainer.data.labelled import LabelledMicrograph, describe_set
from frazil_trainer.evaluation import ScoredMicrograph
from frazil_trainer.recipe import Patches, Recipe, TrainingSet
from frazil_trainer.simulate import density_model
from frazil_trainer.training.run_folder import CHECKPOINT_NAME

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(600)]

DIAMETER_ANGSTROM = density_model("galactosidase").diameter_angstrom
QUICK = AdaptationSettings(minutes=0.2, device="cpu", threads=1, replay_micrographs=2)


@pytest.fixture
def recipe(fcn_recipe: Recipe) -> Recipe:
    return fcn_recipe


@pytest.fixture
def parent(fcn_parent: Path) -> Path:
    return fcn_parent


@pytest.fixture
def own(simulated_data: Path, tmp_path: Path) -> Path:
    """A folder with two micrographs of another particle."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in (1, 2):
        for ending in (".mrc", ".star"):
            shutil.copy(simulated_data / "small" / f"simulated_000{number}{ending}", folder)
    return folder


def describe(folder: Path, **changes: object) -> TrainingSet:
    described: dict[str, object] = {
        "name": folder.name,
        "diameter_angstrom": DIAMETER_ANGSTROM,
        "labels": None,
        "y_axis": "down",
        "pixel_size_angstrom": None,
    }
    return describe_set(folder, **described | changes)  # type: ignore[arg-type]


def adapt(parent: Path, own: Path, out: Path, settings: AdaptationSettings = QUICK, **changes: object) -> Path:
    return adapt_model(
        parent, own, describe(own, **changes), out, Console(quiet=True), run=out.parent / "runs", settings=settings
    )


def change_labels(folder: Path, change: Callable[[Picks], Picks]) -> None:
    for file in folder.glob("*.star"):
        write_star(file, change(read_star(file)))


# --- the model is read back --------------------------------------------------------------------------------------


def test_the_network_of_an_exported_model_is_read_back(parent: Path, recipe: Recipe) -> None:
    read = read_parent(parent, 1)
    assert read.network.settings == recipe.network
    tiles = read_card(parent / "card.json").reference.tiles()
    with torch.no_grad():
        scores = torch.sigmoid(read.network(torch.from_numpy(tiles)))[:, 6:-6, 6:-6].numpy()
    np.testing.assert_allclose(scores, read.model.score(tiles), atol=1e-5)


def test_the_models_that_frazil_ships_can_be_adapted_or_say_why_not(repository: Path) -> None:
    shipped = repository / "exported_models"
    assert read_parent(shipped / "fcn", 1).contract.architecture == "fcn"
    with pytest.raises(FrazilError, match=r"expected a fully convolutional model \(fcn\) to adapt, found mlp"):
        read_parent(shipped / "mlp", 1)


def test_a_network_of_another_make_is_refused(parent: Path, tmp_path: Path) -> None:
    model = onnx.load(parent / "model.onnx")
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Tanh"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(FrazilError, match=r"expected its network to give its scores within 0\.0001, found .* off"):
        read_parent(tmp_path / "other.onnx", 1)


# --- and taught --------------------------------------------------------------------------------------------------


def test_an_adapted_model_is_the_next_version_and_its_card_says_from_what(
    parent: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (parent / "model.onnx").read_bytes()
    options = {
        "--from": parent,
        "--data": own,
        "--diameter": DIAMETER_ANGSTROM,
        "--out": tmp_path / "mine",
        "--minutes": 0.2,
        "--run-folder": tmp_path / "runs",
        "--device": "cpu",
        "--threads": 1,
    }
    command = [str(part) for pair in options.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["frazil-train", "adapt", *command, "--promote"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert f"wrote {tmp_path / 'mine' / '1'}" in said.out
    assert "2 micrographs with" in said.err
    assert "left" in said.err
    assert "on a quarter of the micrographs that was not learnt from" in " ".join(said.err.split())
    card = read_card(tmp_path / "mine" / "1" / "card.json")
    assert card.run["adapted_from"]["name"] == "tiny"
    assert card.run["adapted_from"]["sha256"] == read_card(parent / "card.json").sha256
    assert card.run["micrographs"] == ["simulated_0001.mrc", "simulated_0002.mrc"]
    assert card.run["replay"].startswith("4 simulated micrographs")
    assert card.validation["after"]["best_f1"] >= card.validation["before"]["best_f1"] - 0.01
    model = load_model(tmp_path / "mine", "cpu")  # promoted
    assert model.contract.threshold == card.validation["threshold"]
    assert model.contract.diameter_px == 16.0
    assert (parent / "model.onnx").read_bytes() == before
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_model_that_was_adapted_can_be_adapted_again(parent: Path, own: Path, tmp_path: Path) -> None:
    first = adapt(parent, own, tmp_path / "mine")
    second = adapt(first, own, tmp_path / "mine")
    assert (first.name, second.name) == ("1", "2")
    assert read_card(second / "card.json").run["adapted_from"]["version"] == 1


KILLED = """
import sys
from pathlib import Path
from rich.console import Console
from frazil_trainer.adapt.adaptation import AdaptationSettings, adapt_model
from frazil_trainer.data.labelled import describe_set
import torch
torch.set_num_threads(1)
parent, own, out, diameter = sys.argv[1:]
source = describe_set(Path(own), name="own", diameter_angstrom=float(diameter), labels=None, y_axis="down",
                      pixel_size_angstrom=None)
settings = AdaptationSettings(minutes=0.6, device="cpu", threads=1, replay_micrographs=2, checkpoint_seconds=0.0)
adapt_model(Path(parent), Path(own), source, Path(out), Console(), run=Path(out).parent / "runs", settings=settings)
"""


def test_a_killed_adaptation_goes_on_and_gives_what_an_undisturbed_one_does(
    parent: Path, own: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(parent), str(own), str(tmp_path / "mine"), str(DIAMETER_ANGSTROM)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (found := list((tmp_path / "runs").glob(f"*/{CHECKPOINT_NAME}"))):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -9
    (checkpoint,) = found
    kept = torch.load(checkpoint, weights_only=True)["state"]["done"]
    shutil.copytree(tmp_path / "runs", tmp_path / "undisturbed" / "runs")
    (tmp_path / "undisturbed" / "runs" / checkpoint.parent.name / CHECKPOINT_NAME).unlink()

    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on from update {kept}" in done.stdout
    # The number of updates was decided by the speed of the machine, once.
    command[-2] = str(tmp_path / "undisturbed" / "mine")
    undisturbed = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert "going on" not in undisturbed.stdout
    weights = [
        read_parent(folder / "mine" / "1", 1).network.state_dict() for folder in (tmp_path, tmp_path / "undisturbed")
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: Picks(y=383 - p.y, x=p.x, score=p.score), r"fit much better with y flipped .*: give --y-axis up"),
        (lambda p: p.select(np.arange(2)), "expected at least 10 labelled particles, found 4"),
        (lambda p: Picks(y=p.y + 13, x=p.x, score=p.score), "the labels lie off the particles"),
    ],
)
def test_bad_labels_are_refused_with_the_reason(
    parent: Path, own: Path, tmp_path: Path, change: Callable[[Picks], Picks], complaint: str
) -> None:
    change_labels(own, change)
    with pytest.raises(FrazilError, match=complaint):
        adapt(parent, own, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_micrograph_without_a_pixel_size_asks_for_it(parent: Path, own: Path, tmp_path: Path) -> None:
    for file in own.glob("*.mrc"):
        with mrcfile.open(file, "r+") as mrc:
            mrc.voxel_size = 0
    with pytest.raises(FrazilError, match=r"expected a pixel size in the file, found none; give --pixel-size"):
        adapt(parent, own, tmp_path / "mine")
    assert adapt(parent, own, tmp_path / "mine", pixel_size_angstrom=3.5).name == "1"


def test_labels_are_found_by_their_ending_and_two_kinds_are_asked_about(own: Path) -> None:
    assert describe(own).labels_ending == ".star"
    for file in own.glob("*.star"):
        shutil.copy(file, file.with_name(f"{file.stem}_best.star"))
    assert describe(own).labels_ending == ".star"  # the plain one
    for file in own.glob("*[0-9].star"):
        file.rename(file.with_name(f"{file.stem}_old.star"))
    with pytest.raises(SettingsError, match=r"found files ending in _best\.star and _old\.star; give --labels"):
        describe(own)
    assert describe(own, labels="_old.star").labels_ending == "_old.star"
    with pytest.raises(SettingsError, match=r"labels: expected an ending such as .*, found '\.doc'"):
        describe(own, labels=".doc")
    for file in own.glob("*.star"):
        file.unlink()
    with pytest.raises(FrazilError, match="expected micrographs with labels named after them"):
        describe(own)


# --- its parts ---------------------------------------------------------------------------------------------------


def test_a_strip_of_each_micrograph_is_held_out(own: Path, recipe: Recipe) -> None:
    labels = load_labels(own, describe(own), recipe, Console(quiet=True), force=False)
    for whole, training, strip in zip(labels.whole, labels.training, labels.held_out, strict=True):
        assert strip is not None
        rescaling = whole.picture.rescaling
        y, x = (rescaling.to_micrograph(whole.centres[:, axis], axis) for axis in (0, 1))
        inside = strip.holds(Picks(y=y, x=x, score=np.ones(len(y))))
        assert 0.1 < inside.mean() < 0.4
        # Those on the edge of the strip are in one part or in the other, but for rounding.
        assert abs(len(training.centres) - (~inside).sum()) <= 2
        assert not training.holds_data(whole.centres[inside, 0], whole.centres[inside, 1]).sum() > 2
        assert training.blank is not None
        assert training.blank.mean() == pytest.approx(0.25, abs=0.02)


def test_few_labels_are_all_learnt_from(own: Path, recipe: Recipe) -> None:
    change_labels(own, lambda picks: picks.select(np.arange(15)))
    labels = load_labels(own, describe(own), recipe, Console(quiet=True), force=True)
    assert labels.count == 30
    assert labels.held_out == [None, None]
    assert labels.training[0] is labels.whole[0]


def test_a_network_that_has_not_changed_loses_nothing_on_the_replay_set(
    parent: Path, recipe: Recipe, disc_micrographs: list[LabelledMicrograph]
) -> None:
    network = read_parent(parent, 1).network
    patches = Patches(patch_px=64, per_epoch=8)
    own, replay = disc_micrographs
    source = AdaptationSource(replace(recipe, batch=4), patches, [own], [replay], network)
    batch = source.draw(3, range(4))
    assert batch[-1].tolist() == [False, False, True, True]
    assert all(torch.equal(one, other) for one, other in zip(batch, source.draw(3, range(4)), strict=True))
    with torch.no_grad():
        logits = network(batch[0]).clamp(min=-5)
        kept = source.sums(logits, batch).loss
        raised, lowered = logits.clone(), logits.clone()
        raised[2:] += 1
        lowered[2:] -= 1
        assert source.sums(raised, batch).loss > kept
        assert source.sums(lowered, batch).loss > kept


def scored(found: float, labelled: float, *, particles: int = 2000, false: int = 1000) -> list[ScoredMicrograph]:
    """Picks at some of the particles, which score high, and false ones, which score low; some have labels."""
    rng = np.random.default_rng(5)
    at = 100.0 * np.arange(particles + false)
    has_pick, has_label = rng.random(particles) < found, rng.random(particles) < labelled
    is_pick = np.concatenate([has_pick, np.ones(false, np.bool_)])
    score = np.concatenate([rng.beta(5, 3, particles) * 0.8 + 0.2, rng.beta(2, 5, false)])[is_pick]
    picks = Picks(y=at[is_pick], x=np.zeros(is_pick.sum()), score=score)
    picks = picks.select(np.argsort(-score))
    truth = Picks(y=at[:particles][has_label], x=np.zeros(has_label.sum()), score=np.ones(has_label.sum()))
    return [ScoredMicrograph(name="a", folder="b", picks=picks, truth=truth, diameter_px=20, height_px=10**6)]


@pytest.mark.parametrize("labelled", [0.1, 0.3, 0.5])
def test_the_fraction_of_particles_with_a_label_is_estimated(labelled: float) -> None:
    assert estimate_labelled_fraction(scored(0.9, labelled)) == pytest.approx(labelled, abs=0.05)


def test_labels_that_miss_few_are_taken_for_complete_unless_it_is_said() -> None:
    assert estimate_labelled_fraction(scored(0.9, 0.8)) == 1
    assert estimate_labelled_fraction(scored(0.9, 0.8), incomplete=True) == pytest.approx(0.8, abs=0.05)
    assert estimate_labelled_fraction(scored(0.9, 0.3), incomplete=False) == 1
    nothing = scored(0.0, 1.0, false=0)
    assert estimate_labelled_fraction(nothing) == 1


def test_the_threshold_is_the_same_however_many_particles_have_a_label() -> None:
    complete = threshold_for_labels(scored(0.9, 1.0), 1.0, former=0.5)
    for labelled in (0.5, 0.2):
        few = scored(0.9, labelled)
        assert threshold_for_labels(few, labelled, former=0.5) == pytest.approx(complete, abs=0.06)
        # Taken for complete, they would ask for fewer picks.
        assert threshold_for_labels(few, 1.0, former=0.5) > complete


def test_with_few_labels_the_threshold_stays_near_the_former_one() -> None:
    (few,) = scored(0.9, 0.01)
    assert len(few.truth) < 30
    assert abs(threshold_for_labels([few], 0.01, former=0.9) - 0.9) < 0.35
    none = dataclasses.replace(few, truth=few.truth.select(np.zeros(0, np.intp)))
    assert threshold_for_labels([none], 1.0, former=0.9) == 0.9
