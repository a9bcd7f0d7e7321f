"""The fit of the CTF, on simulated micrographs whose defocus is known."""

import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pytest

from frazil.picking import read_micrograph
from frazil.quality.ctf import draw_spectrum, fit_ctf, measure_drift
from frazil.quality.spectrum import measure_spectrum
from frazil_trainer.simulate.ctf import ContrastTransfer
from frazil_trainer.simulate.exposure import count_electrons, form_contrast
from frazil_trainer.simulate.micrograph import simulate_micrograph
from frazil_trainer.simulate.settings import SimulationSettings

OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


@cache
def ice(*, u=15000.0, v=13500.0, angle=30.0, pixel=1.4, shape=(1024, 1280), drift=(0.0, 0.0), strength=0.15):
    """A micrograph of ice alone, (h, w) float32: cheap, and with rings."""
    rng = np.random.default_rng(7)
    transfer = ContrastTransfer(
        **OPTICS,
        defocus_u_angstrom=u,
        defocus_v_angstrom=v,
        astigmatism_angle_deg=angle,
        b_factor_a2=60.0,
    )
    contrast = form_contrast(
        np.zeros(shape, np.float32),
        rng.standard_normal(shape, dtype=np.float32) / np.float32(pixel),
        transfer,
        pixel_size_angstrom=pixel,
        atom_sigma_angstrom=1.0,
        ice_noise_rad_angstrom=strength,
        ice_sigma_angstrom=0.8,
        coarse_noise_rad_angstrom=0.3,
        blur_px=0.3,
        drift_angstrom=drift,
    )
    return count_electrons((1 + contrast) * np.float32(40 * pixel**2), spread_px=0.0, rng=rng)


def fit(pixels, pixel=1.4, **more):
    spectrum = measure_spectrum(pixels, pixel)
    assert spectrum is not None
    return fit_ctf(spectrum, **OPTICS | more)


@pytest.mark.parametrize("angle", [10.0, 30.0, 75.0, 120.0, 165.0])
def test_astigmatism_has_its_size_and_its_handedness(angle):
    found = fit(ice(angle=angle))
    assert found.is_reliable
    assert found.defocus_u_angstrom == pytest.approx(15000, rel=0.02)
    assert found.defocus_v_angstrom == pytest.approx(13500, rel=0.02)
    assert abs((found.defocus_angle_deg - angle + 90) % 180 - 90) < 6


def test_a_micrograph_turned_upside_down_has_the_angle_mirrored():
    found = fit(ice(angle=30.0)[::-1])
    assert abs((found.defocus_angle_deg - 150 + 90) % 180 - 90) < 6


@pytest.mark.parametrize("mean", [6000.0, 10000.0, 20000.0, 30000.0])
def test_defocus_is_found(mean):
    found = fit(ice(u=mean + 200, v=mean - 200))
    assert found.is_reliable
    assert (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2 == pytest.approx(mean, rel=0.02)
    assert found.resolution_angstrom < 8
    assert found.correlation > 0.5


def test_the_pixel_size_scales_nothing_away():
    """Fine pixels are averaged in blocks first."""
    found = fit(ice(pixel=0.7, shape=(2048, 1536), strength=0.2), 0.7)
    assert (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2 == pytest.approx(14250, rel=0.02)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float64])
def test_any_kind_of_pixels_gives_the_same_fit(kind):
    pixels = np.rint(ice())
    pixels = (pixels - pixels.min()) * (200 / np.ptp(pixels))
    found = fit(pixels.astype(kind))
    assert (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2 == pytest.approx(14250, rel=0.02)


def test_a_smooth_filter_changes_nothing():
    plain, filtered = fit(ice()), fit(cv2.GaussianBlur(ice(), (0, 0), 0.8))
    assert filtered.defocus_u_angstrom == pytest.approx(plain.defocus_u_angstrom, rel=0.01)
    assert filtered.is_reliable


def test_masked_parts_do_not_matter():
    pixels = ice().copy()
    masked = np.zeros(pixels.shape, bool)
    masked[:, 900:] = True
    pixels[:, 900:] = 1e6 * np.random.default_rng(1).random((1024, 380))
    spectrum = measure_spectrum(pixels, 1.4, masked)
    alone = measure_spectrum(pixels[:, :900], 1.4)
    assert spectrum.tiles < measure_spectrum(pixels, 1.4).tiles
    for one in (spectrum, alone):
        assert fit_ctf(one, **OPTICS).defocus_u_angstrom == pytest.approx(15000, rel=0.02)


def test_a_small_mask_means_the_same_as_a_large_one():
    masked = np.zeros((1024, 1280), bool)
    masked[:, 640:] = True
    large = measure_spectrum(ice(), 1.4, masked)
    small = measure_spectrum(ice(), 1.4, masked[::8, ::8])
    np.testing.assert_array_equal(large.power, small.power)


def test_without_data_there_is_no_spectrum():
    assert measure_spectrum(np.zeros((512, 512), np.float32), 1.0) is None
    assert measure_spectrum(np.ones((40, 2000), np.float32), 1.0) is None
    assert measure_spectrum(ice(), 1.4, np.ones((1024, 1280), bool)) is None


def test_pixels_too_coarse_or_too_few_give_no_spectrum():
    noise = np.random.default_rng(0).random((512, 512), np.float32)
    assert measure_spectrum(noise, 12.0) is None
    assert measure_spectrum(noise[:64, :64], 1.0) is None
    assert measure_spectrum(noise, 0.02) is None
    assert fit(noise, 5.0).doubt


def test_values_that_are_too_large_for_a_sum_are_left_out():
    pixels = ice().copy()
    pixels[5, 5] = 3e38
    assert (found := fit(pixels)).is_reliable
    assert found.defocus_u_angstrom == pytest.approx(15000, rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_noise_has_no_reliable_fit(seed):
    noise = np.random.default_rng(seed).poisson(60, (1024, 1024)).astype(np.float32)
    found = fit(noise)
    assert not found.is_reliable
    assert found.doubt


def test_blurred_and_equalised_pictures_have_no_reliable_fit():
    blurred = cv2.GaussianBlur(ice(strength=0.03), (0, 0), 4)
    low, high = np.percentile(blurred, [0.5, 99.5])
    eight = (np.clip((blurred - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    assert not fit(cv2.createCLAHE(4.0, (8, 8)).apply(eight)).is_reliable


def test_a_phase_shift_is_fitted_where_there_is_a_phase_plate():
    """A phase shift φ is an amplitude contrast of sin φ more."""
    rng = np.random.default_rng(3)
    shape = (1280, 1280)
    transfer = ContrastTransfer(
        voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=1.0, defocus_u_angstrom=9000, defocus_v_angstrom=8500
    )
    contrast = form_contrast(
        np.zeros(shape, np.float32),
        rng.standard_normal(shape, dtype=np.float32),
        transfer,
        pixel_size_angstrom=1.4,
        atom_sigma_angstrom=1.0,
        ice_noise_rad_angstrom=0.15,
        ice_sigma_angstrom=0.8,
        coarse_noise_rad_angstrom=0.3,
        blur_px=0.3,
    )
    pixels = count_electrons((1 + contrast) * np.float32(80), spread_px=0.0, rng=rng)
    found = fit(pixels, phase_plate=True)
    assert found.phase_shift_deg == pytest.approx(90 - np.degrees(np.arcsin(0.1)), abs=12)
    assert (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2 == pytest.approx(8750, rel=0.04)
    assert fit(pixels).phase_shift_deg == 0


def test_drift_is_larger_where_the_specimen_moved():
    still, moved = (measure_spectrum(ice(drift=drift), 1.4) for drift in ((0.0, 0.0), (3.0, 4.0)))
    of_still, of_moved = (measure_drift(one, fit_ctf(one, **OPTICS)) for one in (still, moved))
    assert of_still < 0.25
    assert of_moved > of_still + 0.2


def test_an_unreliable_fit_says_nothing_of_drift():
    spectrum = measure_spectrum(np.random.default_rng(0).poisson(60, (768, 768)), 1.4)
    assert measure_drift(spectrum, fit_ctf(spectrum, **OPTICS)) is None


def test_the_picture_shows_the_rings_on_both_sides():
    spectrum = measure_spectrum(ice(u=20000.0, v=20000.0), 1.4)
    found = fit_ctf(spectrum, **OPTICS)
    picture = draw_spectrum(spectrum, found)
    k = spectrum.power.shape[1] - 1
    assert picture.shape == (2 * k + 1, 2 * k + 1, 3)
    assert picture.dtype == np.uint8
    # Along a ring of the fit's first maximum and of its first zero behind that, the measured half agrees.
    grey = picture.mean(axis=2)
    left, right = grey[:, k - 1 :: -1], grey[:, k + 1 :]
    radius = spectrum.radii()[:, 1:]
    inside = (radius > 10) & (radius < 1 / (found.resolution_angstrom * spectrum.step_per_angstrom) - 3)
    assert np.corrcoef(left[inside], right[inside])[0, 1] > 0.3


def test_particles_do_not_mislead_it():
    settings = SimulationSettings(
        shape=(1536, 1536), pixel_size_angstrom=1.2, model="ribosome", defocus_range_um=(1.5, 1.5),
        astigmatism_range_um=(0.05, 0.05), ice_noise_rad_angstrom=0.1, ice_sigma_angstrom=1.0,
        b_factor_range_a2=(60, 60), carbon_probability=0.0,
    )  # fmt: skip
    found = fit(simulate_micrograph(settings, 1).pixels, 1.2)
    assert found.is_reliable
    assert (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2 == pytest.approx(15000, rel=0.02)


def test_real_micrographs_with_rings_fit_alike_in_both_halves(real_micrographs):
    for file in sorted((real_micrographs / "apoferritin").glob("*.mrc")):
        pixels = read_micrograph(file).pixels
        half = pixels.shape[1] // 2
        whole, *parts = (fit(part, 1.5) for part in (pixels, pixels[:, :half], pixels[:, half:]))
        assert whole.is_reliable
        assert 3 < whole.resolution_angstrom < 6
        for part in parts:
            mean = (whole.defocus_u_angstrom + whole.defocus_v_angstrom) / 2
            assert (part.defocus_u_angstrom + part.defocus_v_angstrom) / 2 == pytest.approx(mean, rel=0.02)


def test_real_pictures_that_were_equalised_have_no_reliable_fit(real_micrographs):
    files = sorted((real_micrographs / "beta-galactosidase").glob("*.mrc"))[::3]
    assert files
    for file in files:
        assert not fit(read_micrograph(file).pixels[80:-80, 80:-80], 1.77).is_reliable


def test_the_page_is_what_its_figures_give(repository):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ctf", "--check"], cwd=repository, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
