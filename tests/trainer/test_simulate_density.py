import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from frazil.errors import SettingsError
from frazil_trainer.simulate import (
    IMAGINARY,
    MODEL_NAMES,
    DensityModel,
    SimulationSettings,
    density_model,
    imagine_molecule,
    simulate_micrograph,
)
from frazil_trainer.simulate.density import project, random_rotations

PIXEL_SIZE = 3.0
SIZE = 129


def projection(model: DensityModel, rotation: np.ndarray) -> np.ndarray:
    middle = (SIZE - 1) / 2
    return project(model, rotation, pixel_size_angstrom=PIXEL_SIZE, size_px=SIZE, centre_px=(middle, middle)).astype(
        np.float64
    )


def smoothed(square: np.ndarray) -> np.ndarray:
    f = np.fft.fftfreq(SIZE)
    blur = np.exp(-2 * np.pi**2 * (f[:, None] ** 2 + f[None] ** 2) * 2.0**2)
    return np.fft.ifft2(np.fft.fft2(square) * blur).real


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_projection_is_the_same_from_every_symmetric_direction(name):
    model = density_model(name)
    view = random_rotations(1, np.random.default_rng(3))[0]
    reference = smoothed(projection(model, view))
    group = Rotation.create_group(model.symmetry).as_matrix()
    for element in group[:: max(1, len(group) // 6)]:
        np.testing.assert_allclose(smoothed(projection(model, view @ element)), reference, atol=1e-3 * reference.max())


@pytest.mark.parametrize(("name", "order"), [("galactosidase", 2), ("apoferritin", 4), ("channel", 4)])
def test_projection_along_the_main_axis_is_invariant_under_a_turn_in_the_plane(name, order):
    reference = smoothed(projection(density_model(name), np.eye(3)))
    turned = np.rot90(reference, 4 // order)
    np.testing.assert_allclose(turned, reference, atol=1e-3 * reference.max())


def test_a_molecule_of_lower_symmetry_changes_under_a_turn_that_it_does_not_have():
    reference = smoothed(projection(density_model("galactosidase"), np.eye(3)))
    assert np.abs(np.rot90(reference) - reference).max() > 0.2 * reference.max()


def test_models_cover_several_symmetries_and_sizes():
    models = [density_model(name) for name in MODEL_NAMES]
    assert {"C1", "C4", "D2", "O", "I"} <= {model.symmetry for model in models}
    diameters = [model.diameter_angstrom for model in models]
    assert min(diameters) < 135
    assert max(diameters) > 250


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_centre_of_mass_is_the_origin_and_the_diameter_holds_every_atom(name):
    model = density_model(name)
    np.testing.assert_allclose(np.average(model.positions, axis=0, weights=model.weights), 0, atol=1e-9)
    reach = np.linalg.norm(model.positions, axis=1).max()
    assert reach <= model.diameter_angstrom / 2 <= reach + 2 * model.sigma_angstrom


def test_projection_keeps_sum_and_centre_of_mass():
    model = density_model("polymerase")
    rotation = random_rotations(1, np.random.default_rng(0))[0]
    square = project(model, rotation, pixel_size_angstrom=PIXEL_SIZE, size_px=SIZE, centre_px=(61.3, 66.8))
    y, x = np.mgrid[:SIZE, :SIZE]
    assert square.sum() * PIXEL_SIZE**2 == pytest.approx(model.weights.sum(), rel=1e-4)
    assert (square * y).sum() / square.sum() == pytest.approx(61.3, abs=1e-2)
    assert (square * x).sum() / square.sum() == pytest.approx(66.8, abs=1e-2)


def test_projection_over_the_border_is_refused():
    with pytest.raises(ValueError, match="apoferritin"):
        project(density_model("apoferritin"), np.eye(3), pixel_size_angstrom=1.0, size_px=64, centre_px=(32, 32))


def test_random_rotations_are_rotations_and_favour_no_direction():
    rotations = random_rotations(4000, np.random.default_rng(1))
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    # The axis of view is uniform on the sphere: each component has mean 0 and variance 1/3.
    views = rotations[:, 2]
    np.testing.assert_allclose(views.mean(0), 0, atol=0.04)
    np.testing.assert_allclose((views**2).mean(0), 1 / 3, atol=0.02)


def test_unknown_model_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"model: expected one of .*apoferritin.*found 'unicorn'"):
        density_model("unicorn")


@pytest.mark.parametrize("diameter", [100.0, 260.0])
def test_imaginary_molecules_fill_most_of_the_diameter_asked_for_and_no_two_are_alike(diameter):
    rng = np.random.default_rng(5)
    models = [imagine_molecule(diameter, rng) for _ in range(12)]
    assert len({len(model.positions) for model in models}) == len(models)
    assert len({model.symmetry for model in models}) >= 4
    for model in models:
        np.testing.assert_allclose(np.average(model.positions, axis=0, weights=model.weights), 0, atol=1e-9)
        reach = np.linalg.norm(model.positions, axis=1).max() + model.sigma_angstrom
        assert 0.5 * diameter < 2 * reach < 1.1 * diameter, model.symmetry
        assert 2 * reach <= model.diameter_angstrom + 0.1


def test_each_micrograph_of_imaginary_molecules_shows_another():
    settings = SimulationSettings(
        shape=(256, 256), model=IMAGINARY, imaginary_diameter_angstrom=120, particles_per_micrograph=(3, 3)
    )
    one, again, other = (simulate_micrograph(settings, seed) for seed in (1, 1, 2))
    assert one.diameter_angstrom == 120
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert np.abs(one.pixels - other.pixels).max() > 0
