from pathlib import Path

import mrcfile
import numpy as np
import pytest
from gemmi import cif

from frazil.errors import SettingsError
from frazil.picking import write_star
from frazil_trainer.simulate import (
    SimulatedMicrograph,
    SimulationSettings,
    series_seed,
    simulate_micrograph,
    write_micrograph,
)
from frazil_trainer.simulate.exposure import count_electrons

CLEAN = {
    "carbon_probability": 0.0,
    "contamination_range": (0, 0),
    "ice_gradient": 0.0,
    "fragments_per_particle_range": (0.0, 0.0),
    "coarse_noise_range_rad_angstrom": (0.3, 0.3),
    "elastic_share_range": (0.8, 0.8),
    "overlap_fraction": 0.0,
}


def clean_settings(**changes: object) -> SimulationSettings:
    return SimulationSettings(**({"shape": (512, 640), "pixel_size_angstrom": 3.0} | CLEAN | changes))


def average_crop(pixels: np.ndarray, y: np.ndarray, x: np.ndarray, reach: int) -> np.ndarray:
    """The mean square of pixels around points, of those that lie far enough from the border."""
    y, x = np.rint(y).astype(int), np.rint(x).astype(int)
    far = (y >= reach) & (x >= reach) & (y < pixels.shape[0] - reach) & (x < pixels.shape[1] - reach)
    assert far.sum() > 20
    return np.mean(
        [pixels[v - reach : v + reach + 1, u - reach : u + reach + 1] for v, u in zip(y[far], x[far], strict=True)],
        axis=0,
    )


@pytest.fixture(scope="module")
def crowded() -> SimulatedMicrograph:
    settings = clean_settings(model="apoferritin", shape=(640, 1024), coverage_range=(0.3, 0.3))
    return simulate_micrograph(settings, 11)


def simulate_all(settings: SimulationSettings, count: int, seed: int) -> list[SimulatedMicrograph]:
    return [simulate_micrograph(settings, series_seed(seed, index)) for index in range(count)]


def test_same_seed_gives_the_same_pixels_and_truth():
    settings = SimulationSettings(shape=(256, 320))
    first, second = (simulate_all(settings, 3, seed=5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.truth.y, b.truth.y)
        np.testing.assert_array_equal(a.truth.x, b.truth.x)
    alone = simulate_micrograph(settings, np.random.SeedSequence(5).spawn(3)[2])
    np.testing.assert_array_equal(alone.pixels, first[2].pixels)


def test_other_indices_and_other_seeds_give_other_micrographs():
    settings = SimulationSettings(shape=(128, 128))
    micrographs = [
        simulate_micrograph(settings, seed) for seed in (series_seed(5, 0), series_seed(5, 1), series_seed(6, 0))
    ]
    assert len({micrograph.pixels.tobytes() for micrograph in micrographs}) == 3


def test_series_seeds_are_those_that_spawning_gives_and_are_left_unchanged():
    spawned = np.random.SeedSequence(9).spawn(4)[3]
    settings = SimulationSettings(shape=(64, 64))
    once = simulate_micrograph(settings, spawned)
    again = simulate_micrograph(settings, spawned)
    np.testing.assert_array_equal(once.pixels, again.pixels)
    np.testing.assert_array_equal(once.pixels, simulate_micrograph(settings, series_seed(9, 3)).pixels)


def test_pixels_have_the_shape_asked_for_and_all_is_told():
    simulated = simulate_micrograph(clean_settings(shape=(301, 457), model="capsid"), 1)
    assert simulated.pixels.shape == (301, 457)
    assert simulated.pixels.dtype == np.float32
    assert simulated.model == "capsid"
    assert 250 < simulated.diameter_angstrom < 320
    assert 1.2 <= simulated.defocus_um <= 2.8
    assert simulated.carbon is None
    assert simulated.contamination == ()


def test_wanted_number_of_particles_is_in_the_micrograph():
    simulated = simulate_micrograph(clean_settings(model="apoferritin", particles_per_micrograph=(40, 40)), seed=2)
    assert len(simulated.truth) == 40
    assert np.all(simulated.truth.score == 1)
    assert simulated.truth.y.min() >= 0
    assert simulated.truth.y.max() <= 511
    assert simulated.truth.x.max() <= 639


def test_molecule_is_drawn_where_none_is_named():
    settings = SimulationSettings(shape=(64, 64))
    assert len({simulated.model for simulated in simulate_all(settings, 12, seed=0)}) >= 3


@pytest.mark.parametrize("name", ["polymerase", "galactosidase", "ribosome"])
def test_particles_are_darker_than_the_background(name):
    settings = clean_settings(model=name, shape=(768, 1024), coverage_range=(0.3, 0.3))
    simulated = simulate_micrograph(settings, 11)
    truth, rng = simulated.truth, np.random.default_rng(0)
    y, x = rng.uniform(0, 768, 4000), rng.uniform(0, 1024, 4000)
    distance = np.hypot(y[:, None] - truth.y, x[:, None] - truth.x).min(1)
    away = distance > 0.75 * simulated.diameter_angstrom / simulated.pixel_size_angstrom
    at_truth = average_crop(simulated.pixels, truth.y, truth.x, 7)
    elsewhere = average_crop(simulated.pixels, y[away], x[away], 7)
    assert at_truth.mean() < 0.985 * elsewhere.mean()


def darkest_shift(simulated: SimulatedMicrograph, y: np.ndarray, x: np.ndarray) -> tuple[int, int]:
    """By how many rows and columns a particle's disc must move from y, x to lie on the darkest place."""
    radius = round(simulated.diameter_angstrom / simulated.pixel_size_angstrom / 2)
    average = average_crop(simulated.pixels, y, x, radius + 8)
    grid_y, grid_x = np.mgrid[-radius - 8 : radius + 9, -radius - 8 : radius + 9]
    shifts = [(v, u) for v in range(-8, 9) for u in range(-8, 9)]
    return min(shifts, key=lambda s: average[np.hypot(grid_y - s[0], grid_x - s[1]) <= radius - 1].mean())


def test_truth_is_the_centre_of_particles_on_a_micrograph_that_is_not_square(crowded):
    shift = darkest_shift(crowded, crowded.truth.y, crowded.truth.x)
    assert np.abs(shift).max() <= 1


def test_truth_that_is_off_by_some_pixels_shows(crowded):
    shift = darkest_shift(crowded, crowded.truth.y + 4, crowded.truth.x - 3)
    assert np.abs(np.subtract(shift, (-4, 3))).max() <= 1


def test_turned_or_flipped_truth_is_wrong(crowded):
    height, width = crowded.pixels.shape
    y, x = crowded.truth.y, crowded.truth.x

    def darkness(y: np.ndarray, x: np.ndarray) -> float:
        average = average_crop(crowded.pixels, y, x, 15)
        return float(crowded.pixels.mean() - average.mean())

    right = darkness(y, x)
    wrong = [darkness(height - 1 - y, x), darkness(y, width - 1 - x), darkness(x, y)]
    assert max(wrong) < 0.4 * right


@pytest.mark.parametrize("dose", [2.0, 40.0])
def test_dose_sets_the_mean_counts(dose):
    simulated = simulate_micrograph(clean_settings(dose_e_per_a2=dose, coverage_range=(0.0, 0.0)), 1)
    assert simulated.pixels.mean() == pytest.approx(dose * 9, rel=0.005)


@pytest.mark.parametrize("mean", [0.5, 30.0])
def test_variance_of_the_shot_noise_is_its_mean(mean):
    counts = count_electrons(np.full((400, 500), mean, np.float32), spread_px=0.0, rng=np.random.default_rng(1))
    assert counts.mean() == pytest.approx(mean, rel=0.01)
    assert counts.var() == pytest.approx(mean, rel=0.02)
    np.testing.assert_array_equal(counts, np.rint(counts))


def test_charge_that_spreads_lowers_the_noise_and_keeps_the_mean():
    expected = np.full((400, 500), 30, np.float32)
    counts = count_electrons(expected, spread_px=0.5, rng=np.random.default_rng(1))
    assert counts.mean() == pytest.approx(30, rel=0.005)
    # The mean over all frequencies of the squared transfer exp(−4π²σ²f²).
    f = np.fft.fftfreq(500)
    kept = np.mean(np.exp(-4 * np.pi**2 * 0.25 * f**2)) ** 2
    assert counts.var() == pytest.approx(30 * kept, rel=0.02)


def test_counts_are_poisson_where_nothing_is_in_the_ice():
    empty = {
        "coverage_range": (0.0, 0.0),
        "ice_noise_rad_angstrom": 0.0,
        "coarse_noise_range_rad_angstrom": (0.0, 0.0),
        "detector_blur_px": 0.0,
    }
    simulated = simulate_micrograph(clean_settings(**empty), 1)
    assert len(simulated.truth) == 0
    assert simulated.pixels.var() == pytest.approx(simulated.pixels.mean(), rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_carbon_is_darker_noisier_and_holds_no_truth(seed):
    settings = clean_settings(
        model="apoferritin", shape=(768, 1024), carbon_probability=1.0, coverage_range=(0.25, 0.25)
    )
    simulated = simulate_micrograph(settings, seed)
    film = simulated.carbon
    assert simulated.carbon is not None
    assert film is not None
    depth = film.depth(np.arange(768, dtype=np.float32)[:, None], np.arange(1024, dtype=np.float32)[None, :])
    on_film, in_hole = depth > 20, depth < -20
    assert on_film.sum() > 1000
    assert simulated.pixels[on_film].mean() < 0.95 * simulated.pixels[in_hole].mean()
    assert np.all(film.depth(simulated.truth.y, simulated.truth.x) < 0)


def test_contamination_is_dark_and_holds_no_truth():
    settings = clean_settings(model="apoferritin", contamination_range=(3, 3), coverage_range=(0.25, 0.25))
    simulated = simulate_micrograph(settings, 3)
    assert len(simulated.contamination) == 3
    y, x = np.arange(512, dtype=np.float32)[:, None], np.arange(640, dtype=np.float32)[None, :]
    covered = np.any([blob.depth(y, x) > 5 for blob in simulated.contamination], axis=0)
    assert covered.any()
    assert simulated.pixels[covered].mean() < 0.9 * simulated.pixels[~covered].mean()
    for blob in simulated.contamination:
        assert 2 * blob.radius > simulated.diameter_angstrom / simulated.pixel_size_angstrom
        assert np.all(blob.depth(simulated.truth.y, simulated.truth.x) < 0)


def test_written_micrograph_has_its_pixels_shape_and_pixel_size(tmp_path: Path):
    simulated = simulate_micrograph(SimulationSettings(shape=(128, 192)), 1)
    path = tmp_path / "m.mrc"
    write_micrograph(path, simulated)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, simulated.pixels)
        assert mrc.header.mode == 2
        assert (mrc.header.nx, mrc.header.ny) == (192, 128)
        assert mrc.voxel_size.x == pytest.approx(1.77)
        assert mrc.voxel_size.y == pytest.approx(1.77)
    assert [file.name for file in tmp_path.iterdir()] == ["m.mrc"]


def test_micrograph_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    simulated = simulate_micrograph(SimulationSettings(shape=(64, 64)), 1)
    taken = tmp_path / "m.mrc"
    taken.mkdir()
    with pytest.raises(OSError, match=r"m\.mrc"):
        write_micrograph(taken, simulated)
    assert list(tmp_path.iterdir()) == [taken]


def test_written_truth_has_x_as_column_and_y_as_row(tmp_path: Path, crowded):
    path = tmp_path / "m.star"
    write_star(path, crowded.truth)
    table = cif.read_file(str(path)).sole_block().find(["_rlnCoordinateX", "_rlnCoordinateY"])
    found = np.array([[float(row[0]), float(row[1])] for row in table])
    np.testing.assert_allclose(found, np.stack([crowded.truth.x, crowded.truth.y], 1), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", (10, 512)),
        ("model", "unicorn"),
        ("pixel_size_angstrom", 0.0),
        ("voltage_kv", float("nan")),
        ("dose_e_per_a2", -1.0),
        ("cs_mm", -2.7),
        ("amplitude_contrast", 1.5),
        ("carbon_probability", -0.1),
        ("defocus_range_um", (2.8, 1.2)),
        ("coverage_range", (-0.1, 0.2)),
        ("particles_per_micrograph", (9, 3)),
        ("contamination_range", (-1, 3)),
        ("noise_blur_share", 2.0),
        ("ice_gradient", 0.9),
    ],
)
def test_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"^{name}: expected .*, found "):
        SimulationSettings(**{name: value})
