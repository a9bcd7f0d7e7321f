"""Preparation on the device gives what the CPU's gives. The graphs run here on the CPU, by the same code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.errors import ModelError
from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH, compare_picks
from frazil.model import Contrast, Model, ModelContract, load_model
from frazil.model.runtime import ort
from frazil.model.tiling import plan_tiling
from frazil.picking import Micrograph, Picker, PickingSettings, Picks, read_micrograph, weigh_contrast
from frazil.picking.device import Accelerator, PictureOnDevice, PreparationOnDevice, accelerator, graphs
from frazil.picking.device.graphs import blur_matrix, mirror, percentile_ranks, resampling_matrices
from frazil.picking.device.onnx_graph import ELEMENT_TYPES
from frazil.picking.picture import NORMALISERS, normalise
from frazil.picking.rescale import Rescaling, rescale
from frazil.settings import default_model_path


class Device(NamedTuple):
    """A model, and what prepares its pictures."""

    model: Model
    contract: ModelContract
    preparation: PreparationOnDevice

    def prepare(self, pixels: np.ndarray, rescaling: Rescaling, *, invert: bool) -> np.ndarray:
        prepared = self.preparation.prepare(pixels, rescaling, invert)
        assert prepared is not None
        return prepared[0]


DTYPES = ["float32", "int16", "uint16", "uint8", "int8", "float16", ">i2", ">f4"]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, make_blob_model: Callable[..., Path]) -> Device:
    return accelerated(make_blob_model(tmp_path_factory.mktemp("window") / "blob"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, make_blob_model: Callable[..., Path]) -> Device:
    folder = tmp_path_factory.mktemp("dense") / "blob"
    return accelerated(make_blob_model(folder, tile_px=63, grid=16, step_px=2.0, offset_px=16.0))


@pytest.fixture(scope="module")
def open_sided(tmp_path_factory: pytest.TempPathFactory, make_blob_model: Callable[..., Path]) -> Device:
    folder = tmp_path_factory.mktemp("open") / "blob"
    return accelerated(make_blob_model(folder, tile_px=63, grid=16, step_px=2.0, offset_px=16.0, open_sides=True))


def accelerated(path: Path) -> Device:
    made = prepare_on_device(path)
    assert made.preparation.accelerator is not None, made.preparation.describe()
    return made


def prepare_on_device(path: Path) -> Device:
    model = load_model(path, "cpu", 1)
    return Device(model, model.contract, PreparationOnDevice(model, "device"))


def micrograph_of(pixels: np.ndarray) -> Micrograph:
    return Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=2.0)


def noise(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1000, 30, shape).astype(np.float32)


# --- the operators ----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    factor=st.floats(0.05, 3.0),
    seed=st.integers(0, 99),
)
def test_matrices_rescale_as_opencv_does(shape: tuple[int, int], factor: float, seed: int) -> None:
    rescaling = Rescaling.for_diameter(shape, 1.0, factor)
    pixels = np.random.default_rng(seed).random(shape, np.float32)
    along_y, along_x = resampling_matrices(rescaling)
    assert (along_y.shape, along_x.shape) == (
        (rescaling.rescaled_shape[0], shape[0]),
        (shape[1], rescaling.rescaled_shape[1]),
    )
    np.testing.assert_allclose(along_y @ pixels @ along_x, rescale(pixels, rescaling), atol=5e-6)


def test_matrices_of_a_large_micrograph_are_made_in_parts() -> None:
    rescaling = Rescaling(shape=(1100, 1300), rescaled_shape=(401, 473))
    pixels = noise(rescaling.shape)
    along_y, along_x = resampling_matrices(rescaling)
    np.testing.assert_allclose(along_y @ pixels @ along_x, rescale(pixels, rescaling), rtol=2e-6)


@settings(max_examples=40)
@given(size=st.integers(1, 60), side=st.integers(0, 90).map(lambda half: 2 * half + 1))
def test_blur_takes_means_with_the_mirror_of_opencv(size: int, side: int) -> None:
    pixels = np.random.default_rng(size).random((size, 70), np.float32)
    blurred = blur_matrix(size, side) @ pixels @ blur_matrix(70, side).T
    expected = cv2.blur(pixels, (side, side), borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


@settings(max_examples=40)
@given(size=st.integers(1, 40), origin=st.integers(-100, 100), tile=st.integers(1, 50))
def test_mirror_is_that_of_opencv(size: int, origin: int, tile: int) -> None:
    found = mirror(np.array([origin]), tile, size)[0]
    assert found.tolist() == [cv2.borderInterpolate(p, size, cv2.BORDER_REFLECT) for p in range(origin, origin + tile)]


@settings(max_examples=40)
@given(count=st.integers(1, 400))
def test_percentiles_are_those_of_numpy(count: int) -> None:
    values = np.sort(np.random.default_rng(count).random(count))
    below, above, share = percentile_ranks(count, graphs.PERCENTS)
    found = values[below] + (values[above] - values[below]) * share
    np.testing.assert_allclose(found, np.percentile(values, graphs.PERCENTS), atol=1e-6)


# --- the graphs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(set(ELEMENT_TYPES) - {"int64"}))
def test_graphs_are_what_onnx_calls_valid_and_of_its_own_operators(dtype: str) -> None:
    for content in (graphs.preparation_graph(dtype), graphs.tiles_graph()):
        loaded = onnx.load_model_from_string(content)
        onnx.checker.check_model(loaded, full_check=True)
        assert {node.domain for node in loaded.graph.node} == {""}


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(40, 300), st.integers(40, 300)),
    diameter_px=st.floats(8.0, 40.0),
    invert=st.booleans(),
    outliers=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_the_picture_is_that_of_the_cpu(
    device: Device, shape: tuple[int, int], diameter_px: float, invert: bool, outliers: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pixels = noise(shape, seed)
    pixels.ravel()[random.integers(0, pixels.size, outliers)] = random.choice([-1e6, 1e6], outliers)
    pixels += np.linspace(0, 500, shape[1], dtype=np.float32)
    rescaling = Rescaling.for_diameter(shape, diameter_px, device.contract.diameter_px)
    expected = normalise(rescale(pixels, rescaling), "flat-01", device.contract.diameter_px, invert=invert)
    np.testing.assert_allclose(device.prepare(pixels, rescaling, invert=invert), expected, atol=5e-5)


def test_a_constant_picture_stays_in_the_middle(device: Device) -> None:
    pixels = np.full((60, 80), 7.0, np.float32)
    found = device.prepare(pixels, Rescaling(shape=(60, 80), rescaled_shape=(30, 40)), invert=False)
    np.testing.assert_array_equal(found, 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_go_to_the_device_as_they_are_stored(device: Device, dtype: str) -> None:
    stored = (np.random.default_rng(3).random((90, 140)) * 100).astype(dtype)
    rescaling = Rescaling.for_diameter(stored.shape, 20.0, device.contract.diameter_px)
    found = device.prepare(stored, rescaling, invert=False)
    of_float32 = rescale(stored.astype(np.float32), rescaling)
    expected = normalise(of_float32, "flat-01", device.contract.diameter_px, invert=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_normalisation_on_the_device_is_one_of_the_cpus() -> None:
    assert set(NORMALISERS) >= graphs.NORMALISATIONS_ON_DEVICE


@pytest.mark.parametrize("largest", [1, 7, 1000])
@pytest.mark.parametrize("largest_tile_pixels", [0, 63**2, 90**2, 1000**2])
def test_tiles_are_those_of_the_cpu_in_full_batches(dense: Device, largest: int, largest_tile_pixels: int) -> None:
    class Echo:
        """In the place of the model's session: keeps the tiles that it is given."""

        def __init__(self) -> None:
            self.tiles: list[np.ndarray] = []

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

        def io_binding(self) -> Echo:
            return self

        def bind_ortvalue_input(self, name: str, value: ort.OrtValue) -> None:
            self.value = value

        def bind_output(self, *_: object) -> None: ...
        def synchronize_inputs(self) -> None: ...
        def synchronize_outputs(self) -> None: ...
        def run_with_iobinding(self, _: object) -> None:
            self.tiles.append(np.array(self.value.numpy()))

    picture = np.random.default_rng(2).random((83, 131), np.float32)
    tiling = plan_tiling(picture.shape, dense.contract, (3.0, 5.0), largest_tile_pixels=largest_tile_pixels)
    assert tiling is not None
    echo = Echo()
    held = PictureOnDevice(ort.OrtValue.ortvalue_from_numpy(picture), picture.shape)
    Accelerator(echo, dense.contract, 1).score(held, tiling, largest)
    assert len({tiles.shape for tiles in echo.tiles}) == 1
    expected = np.concatenate([tiles.copy() for tiles in tiling.batches(picture, largest)])
    np.testing.assert_array_equal(np.concatenate(echo.tiles)[: tiling.count], expected)


# --- the picker -------------------------------------------------------------------------------------------------


def picks_of(
    model: Model,
    pixels: np.ndarray,
    diameter_px: float,
    contrast: Contrast = "dark",
    device: PreparationOnDevice | None = None,
) -> Picks:
    settings = PickingSettings(diameter_angstrom=2 * diameter_px, contrast=contrast)
    return Picker(model, settings, device=device).pick(micrograph_of(pixels))


@pytest.mark.parametrize("kind", ["device", "dense", "open_sided"])
@pytest.mark.parametrize("contrast", ["dark", "bright"])
def test_picks_are_those_of_the_cpu_on_a_micrograph_that_is_not_square(
    request: pytest.FixtureRequest, make_scene: Callable[..., object], kind: str, contrast: Contrast
) -> None:
    loaded: Device = request.getfixturevalue(kind)
    scene = make_scene((480, 744), 24.0, count=15)
    pixels = scene.pixels if contrast == "dark" else -scene.pixels
    device = picks_of(loaded.model, pixels, 24.0, contrast, loaded.preparation)
    host = picks_of(loaded.model, pixels, 24.0, contrast)
    assert len(host) == 15
    np.testing.assert_allclose(device.y, host.y, atol=2e-3)
    np.testing.assert_allclose(device.x, host.x, atol=2e-3)
    np.testing.assert_allclose(device.score, host.score, atol=1e-4)


def test_a_micrograph_with_blank_parts_is_prepared_by_the_cpu_and_only_that_one(
    device: Device, make_scene: Callable[..., object]
) -> None:
    scene = make_scene((480, 744), 24.0, count=15)
    picker = Picker(device.model, PickingSettings(diameter_angstrom=48.0), device=device.preparation)
    padded = np.pad(scene.pixels, ((0, 300), (0, 0)))
    for pixels, is_on_device in ((scene.pixels, True), (padded, False), (scene.pixels, True)):
        picture = picker.prepare(micrograph_of(pixels))
        assert (picture.on_device is not None) is is_on_device
        assert len(picker.find(picker.score(picture), picture)) == 15
    assert device.preparation.accelerator is not None


def test_the_default_model_picks_the_known_micrograph_as_on_the_cpu() -> None:
    micrograph = read_micrograph(KNOWN_MICROGRAPH)
    settings = PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM)
    loaded = load_model(default_model_path(), "cpu", 2)
    host = Picker(loaded, settings)
    expected = host.score(host.prepare(micrograph))
    picker = Picker(loaded, settings, device=PreparationOnDevice(loaded, "device"))
    picture = picker.prepare(micrograph)
    assert picture.on_device is not None
    found = picker.score(picture)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    agreement = compare_picks(picker.find(found, picture), host.find(expected, picture))
    agreement.check()
    assert agreement.matched == agreement.picks == agreement.cpu_picks > 300


def test_contrast_is_weighed_as_on_the_cpu(device: Device, make_scene: Callable[..., object]) -> None:
    scene, settings = make_scene((480, 744), 24.0, count=15), PickingSettings(diameter_angstrom=48.0)
    weighed = []
    for preparation in (None, device.preparation):
        picker = Picker(device.model, settings, device=preparation)
        picture = picker.prepare(micrograph_of(scene.pixels))
        weighed.append(weigh_contrast(picker, picture, picker.score(picture)))
    host, found = weighed
    assert (found.picks, found.other_picks) == (host.picks, host.other_picks)
    assert found.other == pytest.approx(host.other, abs=1e-2)


def test_the_cpu_prepares_pictures_unless_the_device_is_wanted(blob_model: Path) -> None:
    preparation = PreparationOnDevice(load_model(blob_model, "cpu", 1))
    assert preparation.accelerator is None
    assert preparation.describe() == "pictures prepared on the CPU"


def test_buffers_of_few_shapes_are_kept(device: Device) -> None:
    made = Accelerator(device.model.session, device.contract, 1)
    for side in (40, 50, 60, 50, 70):
        rescaling = Rescaling(shape=(side, side + 9), rescaled_shape=(side // 2, side // 2))
        made.prepare(noise(rescaling.shape), rescaling, invert=False)
    assert [rescaling.shape[0] for rescaling, _ in made._shapes] == [50, 70]
    assert len(made._shapes) == accelerator._SHAPES_KEPT


# --- when it is not the same ------------------------------------------------------------------------------------


def test_a_device_that_gives_other_pictures_is_not_used(
    blob_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accelerator, "BACKGROUND_DIAMETERS", 5.0)
    with caplog.at_level(logging.WARNING):
        preparation = prepare_on_device(blob_model).preparation
    assert preparation.accelerator is None
    assert preparation.describe().startswith(
        "pictures prepared on the CPU: expected the picture of the CPU within 0.0001"
    )
    assert [record.message for record in caplog.records] == [
        f"model blob/1: pictures are prepared on the CPU: {preparation.problem}"
    ]


def test_a_device_that_gives_other_scores_is_not_used(
    blob_model: Path, monkeypatch: pytest.MonkeyPatch, make_contract: Callable[..., ModelContract]
) -> None:
    right = Accelerator.score
    monkeypatch.setattr(Accelerator, "score", lambda *args: right(*args) + np.float32(0.01))
    found = prepare_on_device(blob_model).preparation
    assert found.accelerator is None
    assert "expected the scores of the CPU's picture within 0.005, found a difference of 0.01" in found.describe()
    monkeypatch.setattr(Accelerator, "score", lambda *args: right(*args) * np.float32(np.nan))
    assert "a difference of inf" in prepare_on_device(blob_model).preparation.describe()


def test_a_device_that_fails_while_it_is_proved_is_not_used(blob_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 2:\n out of memory")

    monkeypatch.setattr(Accelerator, "prepare", fail)
    found = prepare_on_device(blob_model).preparation.describe()
    assert found == "pictures prepared on the CPU: CUDA failure 2: out of memory"


@pytest.mark.parametrize("step", ["prepare", "score"])
def test_a_device_that_fails_later_loses_no_micrograph(
    blob_model: Path,
    make_scene: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    scene = make_scene()
    loaded = accelerated(blob_model)
    given = loaded.model, scene.pixels, scene.diameter_px
    expected = picks_of(*given)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(Accelerator, step, fail)
    with caplog.at_level(logging.WARNING):
        first, second = (picks_of(*given, device=loaded.preparation) for _ in range(2))
    assert len([record for record in caplog.records if "prepared on the CPU" in record.message]) == 1
    for found in (first, second):
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
        np.testing.assert_allclose(found.y, expected.y, atol=2e-3)


def test_scores_that_are_no_numbers_are_the_models_fault_on_the_device_too(
    blob_model: Path, make_scene: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = accelerated(blob_model)
    right = Accelerator.score
    monkeypatch.setattr(Accelerator, "score", lambda *args: right(*args) * np.float32(np.nan))
    scene = make_scene()
    with pytest.raises(ModelError, match="expected finite scores"):
        picks_of(loaded.model, scene.pixels, scene.diameter_px, device=loaded.preparation)
    assert loaded.preparation.accelerator is not None


def test_a_normalisation_that_the_device_does_not_know_is_left_to_the_cpu(
    blob_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.picking.device.preparation.NORMALISATIONS_ON_DEVICE", frozenset())
    found = prepare_on_device(blob_model).preparation.describe()
    assert found == "pictures prepared on the CPU: the normalisation flat-01 is not known there"
