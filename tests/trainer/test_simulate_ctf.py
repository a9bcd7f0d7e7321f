import numpy as np
import pytest

from frazil_trainer.simulate.ctf import (
    ContrastTransfer,
    gaussian_transfer,
    interaction_rad_per_volt_angstrom,
    squared_frequencies,
    wavelength_angstrom,
)


@pytest.mark.parametrize(("voltage_kv", "angstrom"), [(100, 0.03701), (200, 0.02508), (300, 0.01969)])
def test_wavelength_is_that_of_the_textbooks(voltage_kv, angstrom):
    assert wavelength_angstrom(voltage_kv) == pytest.approx(angstrom, abs=1e-5)


@pytest.mark.parametrize(("voltage_kv", "expected"), [(100, 9.244e-4), (200, 7.288e-4), (300, 6.526e-4)])
def test_interaction_is_that_of_the_textbooks(voltage_kv, expected):
    assert interaction_rad_per_volt_angstrom(voltage_kv) == pytest.approx(expected, rel=1e-3)


def microscope(**changes: float) -> ContrastTransfer:
    values = {
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "defocus_u_angstrom": 2e4,
        "defocus_v_angstrom": 2e4,
    }
    return ContrastTransfer(**(values | changes))


@pytest.mark.parametrize("cs_mm", [0.0, 2.7])
def test_zeros_are_where_the_closed_form_has_them(cs_mm):
    length, pixel_size = 8192, 1.5
    row = microscope(cs_mm=cs_mm).evaluate((2, length), pixel_size)[0].astype(np.float64)
    s = np.fft.rfftfreq(length, pixel_size)
    crossings = np.flatnonzero(np.sign(row[1:]) != np.sign(row[:-1]))
    found = s[crossings] + (s[1] - s[0]) * row[crossings] / (row[crossings] - row[crossings + 1])
    # π λ Δf s² − π/2 Cs λ³ s⁴ + asin A = n π is quadratic in s².
    wavelength, n = wavelength_angstrom(300), np.arange(1, 11)
    target = n * np.pi - np.arcsin(0.1)
    a, b = np.pi / 2 * cs_mm * 1e7 * wavelength**3, np.pi * wavelength * 2e4
    expected = np.sqrt(2 * target / (b + np.sqrt(b * b - 4 * a * target)))
    np.testing.assert_allclose(found[:10], expected, rtol=1e-4)


def test_transfer_at_zero_frequency_is_minus_the_amplitude_contrast():
    assert microscope(amplitude_contrast=0.07).evaluate((64, 64), 2.0)[0, 0] == pytest.approx(-0.07, abs=1e-6)


def test_underfocus_makes_the_first_ring_negative_and_overfocus_positive():
    under = microscope().evaluate((2, 512), 2.0)[0, 10:15]
    over = microscope(defocus_u_angstrom=-2e4, defocus_v_angstrom=-2e4, amplitude_contrast=0.0)
    assert under.max() < -0.1
    assert over.evaluate((2, 512), 2.0)[0, 10:15].min() > 0.05


def test_astigmatism_gives_each_axis_its_own_defocus():
    astigmatic = microscope(defocus_u_angstrom=2.2e4, defocus_v_angstrom=1.8e4)
    transfer = astigmatic.evaluate((256, 256), 2.0)
    along_x = microscope(defocus_u_angstrom=2.2e4, defocus_v_angstrom=2.2e4).evaluate((256, 256), 2.0)
    along_y = microscope(defocus_u_angstrom=1.8e4, defocus_v_angstrom=1.8e4).evaluate((256, 256), 2.0)
    np.testing.assert_allclose(transfer[0], along_x[0], atol=1e-4)
    np.testing.assert_allclose(transfer[:, 0], along_y[:, 0], atol=1e-4)
    # Turned by a right angle, the axes change places.
    turned = microscope(defocus_u_angstrom=2.2e4, defocus_v_angstrom=1.8e4, astigmatism_angle_deg=90.0)
    np.testing.assert_allclose(turned.evaluate((256, 256), 2.0)[0], along_y[0], atol=1e-3)


def test_astigmatism_angle_runs_from_x_towards_y():
    transfer = microscope(defocus_u_angstrom=2.4e4, defocus_v_angstrom=1.6e4, astigmatism_angle_deg=45.0).evaluate(
        (256, 256), 2.0
    )
    along = microscope(defocus_u_angstrom=2.4e4, defocus_v_angstrom=2.4e4).evaluate((256, 256), 2.0)
    diagonal = np.arange(1, 100)
    np.testing.assert_allclose(transfer[diagonal, diagonal], along[diagonal, diagonal], atol=1e-3)


def test_envelope_decays_by_the_b_factor():
    plain = microscope().evaluate((2, 512), 2.0)[0]
    damped = microscope(b_factor_a2=100.0).evaluate((2, 512), 2.0)[0]
    s = np.fft.rfftfreq(512, 2.0)
    np.testing.assert_allclose(damped, plain * np.exp(-25 * s**2), atol=1e-5)


def test_gaussian_transfer_is_the_transform_of_a_gaussian():
    length, pixel_size, sigma = 128, 2.0, 7.0
    x = (np.arange(length) - length // 2) * pixel_size
    shape = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
    transform = np.fft.rfft2(np.fft.ifftshift(shape / shape.sum())).real
    transfer = gaussian_transfer(squared_frequencies((length, length), pixel_size), sigma)
    np.testing.assert_allclose(transfer, transform, atol=1e-5)
