"""Worlds: simulated micrographs that have nothing in common, to train on."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from frazil.errors import FrazilError, SettingsError
from frazil.picking import read_coordinates, read_micrograph
from frazil_trainer.cli import app
from frazil_trainer.simulate import density_model, imagine_molecule
from frazil_trainer.simulate.handling import draw_handling
from frazil_trainer.simulate.library import read_molecules
from frazil_trainer.simulate.micrograph import series_seed
from frazil_trainer.simulate.variety import bend, embed, preferred_rotations
from frazil_trainer.simulate.worlds import World, simulate_world, write_worlds

MOLECULES = [density_model(name) for name in ("apoferritin", "capsid")]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with one molecule of two electrons-heavy points."""
    folder = tmp_path / "molecules"
    folder.mkdir()
    positions = np.array([[-40, 0, 0], [40, 0, 0], [0, 30, 0]], np.float32)
    np.savez(folder / "three.npz", positions=positions, weights=np.array([100, 100, 50], np.float32))
    (folder / "index.csv").write_text(
        "file,name,median_bead_spacing_A,nucleic_mass_fraction\nthree.npz,three,4.0,0.5\n", "utf-8"
    )
    return folder


def test_a_seed_makes_the_same_world_again() -> None:
    one, again = (simulate_world(series_seed(3, 2), MOLECULES) for _ in range(2))

    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert one.diameter_angstrom == again.diameter_angstrom


def _stands_out(world: World) -> float:
    """How much darker its particles are than the rest, in standard deviations of the micrograph smoothed over them."""
    radius = world.diameter_angstrom / world.pixel_size_angstrom / 2
    smooth = cv2.GaussianBlur(world.pixels, (0, 0), 0.4 * radius)
    smooth -= cv2.GaussianBlur(world.pixels, (0, 0), 3 * radius)
    rows, columns = np.rint(world.truth.y).astype(int), np.rint(world.truth.x).astype(int)
    return float((smooth.mean() - smooth[rows, columns].mean()) / smooth.std())


def test_most_worlds_have_particles_darker_than_what_lies_around_them() -> None:
    worlds = (simulate_world(series_seed(1, i), MOLECULES) for i in range(14))
    stand_out = [_stands_out(world) for world in worlds if len(world.truth) > 20]

    assert len(stand_out) >= 6
    assert np.median(stand_out) > 0.1


def test_some_worlds_are_empty() -> None:
    counts = [len(simulate_world(series_seed(8, i), MOLECULES).truth) for i in range(20)]

    assert 0 < counts.count(0) < 10


def test_worlds_on_disk_are_read_as_a_training_set_reads_them(tmp_path: Path) -> None:
    paths = list(write_worlds(tmp_path / "worlds", MOLECULES, count=3, seed=4))

    with (tmp_path / "worlds" / "diameters.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["micrograph"] for row in rows] == [path.stem for path in paths]
    for path, row in zip(paths, rows, strict=True):
        micrograph = read_micrograph(path)
        truth = read_coordinates(path.with_suffix(".star"), may_be_empty=True)
        assert len(truth) == int(row["particles"])
        assert np.all((truth.y > -1) & (truth.y < micrograph.pixels.shape[0]))
        assert 40 < float(row["diameter_angstrom"]) < 700


def test_written_worlds_are_kept_and_completed(tmp_path: Path) -> None:
    (first,) = write_worlds(tmp_path, MOLECULES, count=1, seed=4)
    before = first.stat().st_mtime_ns

    assert len(list(write_worlds(tmp_path, MOLECULES, count=2, seed=4))) == 2
    assert first.stat().st_mtime_ns == before


def test_worlds_of_another_seed_need_another_folder(tmp_path: Path) -> None:
    list(write_worlds(tmp_path, MOLECULES, count=1, seed=4))

    with pytest.raises(SettingsError, match="a folder of their own"):
        list(write_worlds(tmp_path, MOLECULES, count=1, seed=5))


def test_molecules_are_read_from_a_folder(library: Path) -> None:
    (molecule,) = read_molecules(library)

    assert molecule.name == "three"
    # 250 electrons at 5.2 for protein and 7.2 for nucleic acid, V Å³ each.
    assert molecule.weights.sum() == pytest.approx(250 * 6.2)
    assert 80 < molecule.diameter_angstrom < 100


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"positions": np.zeros((3, 2)), "weights": np.ones(3)}, r"\(n, 3\) positions"),
        ({"positions": np.zeros((3, 3))}, "arrays positions and weights"),
        ({"positions": np.full((3, 3), np.nan), "weights": np.ones(3)}, "finite positions"),
        ({"positions": np.zeros((3, 3)), "weights": np.array([None] * 3)}, "arrays positions and weights"),
    ],
    ids=["two axes", "no weights", "not finite", "pickled objects"],
)
def test_a_file_that_is_no_molecule_is_refused(library: Path, arrays: dict[str, np.ndarray], found: str) -> None:
    np.savez(library / "three.npz", **arrays)

    with pytest.raises(FrazilError, match=found):
        read_molecules(library)


def test_an_index_without_its_columns_is_refused(library: Path) -> None:
    (library / "index.csv").write_text("file\nthree.npz\n", "utf-8")

    with pytest.raises(FrazilError, match="expected the columns file, name"):
        read_molecules(library)


def test_a_belt_makes_a_molecule_wider_but_not_heavier_than_protein_alone_would() -> None:
    molecule = density_model("channel")
    embedded = embed(molecule, np.random.default_rng(1))

    assert len(embedded.positions) > len(molecule.positions)
    np.testing.assert_array_equal(embedded.weights[: len(molecule.weights)], molecule.weights)
    assert embedded.diameter_angstrom >= molecule.diameter_angstrom


def test_a_bent_molecule_keeps_its_mass_and_its_centre() -> None:
    molecule = imagine_molecule(150, np.random.default_rng(2))
    bent = bend(molecule, np.random.default_rng(3))

    assert bent.weights.sum() == pytest.approx(molecule.weights.sum())
    assert not np.allclose(bent.positions, molecule.positions)
    np.testing.assert_allclose(np.average(bent.positions, axis=0, weights=bent.weights), 0, atol=1e-6)


def test_preferred_views_lie_about_one_axis() -> None:
    rotations = preferred_rotations(200, 10, np.random.default_rng(4))
    # The axis of the molecule that points to the viewer.
    axes = rotations.transpose(0, 2, 1) @ np.array([0, 0, 1.0])
    mean = axes.mean(axis=0) / np.linalg.norm(axes.mean(axis=0))

    assert np.degrees(np.arccos(np.clip(axes @ mean, -1, 1))).mean() < 25


def test_handled_pixels_stay_finite_and_in_proportion() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        pixels = rng.poisson(40, (200, 240)).astype(np.float32)
        handled, factor = draw_handling(pixels, 40, rng)
        assert np.isfinite(handled).all()
        assert handled.shape == (round(200 * factor), round(240 * factor))


def test_the_command_writes_worlds_without_some_molecules(tmp_path: Path, library: Path) -> None:
    result = CliRunner().invoke(
        app, ["worlds", "--out", str(tmp_path / "w"), "--count", "1", "--seed", "1", "--molecules", str(library)]
    )

    assert result.exit_code == 0, result.output
    assert (tmp_path / "w" / "world_0001.mrc").exists()
    assert '"three"' in (tmp_path / "w" / "worlds.json").read_text("utf-8")
