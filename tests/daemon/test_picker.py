"""The picker: real models on pictures whose truth is known."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.errors import MICROGRAPH_REASONS, MicrographError, SettingsError
from frazil.model import load_model
from frazil.picking import Micrograph, Picker, PickingSettings, Picks, read_micrograph

PIXEL_SIZE = 2.0


def pick(model: Path, pixels: np.ndarray, diameter_px: float, **settings: object) -> Picks:
    micrograph = Micrograph(path=Path("a.mrc"), pixels=pixels.astype(np.float32), pixel_size_angstrom=PIXEL_SIZE)
    given = PickingSettings(diameter_angstrom=diameter_px * PIXEL_SIZE, **settings)  # type: ignore[arg-type]
    return Picker(load_model(model, "cpu", 1), given).pick(micrograph)


def noise(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(6).normal(100, 10, (h, w)).astype(np.float32)


WORDS = st.one_of(
    st.sampled_from([0.0, 1e-45, 1e-10, 1.0, 1e6, 3e38, -1.5, np.inf, np.nan]).map(
        lambda value: struct.pack("<f", value)
    ),
    st.sampled_from([0, 1, 2, 6, 12, 63, 2**31 - 1, 2**32 - 1]).map(lambda value: struct.pack("<I", value)),
    st.binary(min_size=4, max_size=4),
)


@pytest.fixture(scope="module")
def blob_picker(blob_model: Path) -> Picker:
    return Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=24.0))


@pytest.fixture(scope="module")
def small_mrc(write_mrc: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mrc(tmp_path_factory.mktemp("header") / "a.mrc", noise(64, 96), PIXEL_SIZE)


@settings(max_examples=150, deadline=None)
@given(changed=st.dictionaries(st.integers(0, 55), WORDS, min_size=1, max_size=4))
def test_whatever_an_mrc_header_says_picking_ends_in_picks_or_a_typed_error(
    blob_picker: Picker, small_mrc: Path, changed: dict[int, bytes]
) -> None:
    content = bytearray(small_mrc.read_bytes())
    for word, value in changed.items():
        content[4 * word : 4 * word + 4] = value
    path = small_mrc.with_name("changed.mrc")
    path.write_bytes(content)
    reason = ""
    try:
        blob_picker.pick(read_micrograph(path, as_stored=True, largest_bytes=1 << 20, rescaling=blob_picker.rescaling))
    except MicrographError as error:
        reason = error.reason
    assert reason in {"", *MICROGRAPH_REASONS} - {"internal"}


def errors_px(picks: Picks, truth: Picks) -> np.ndarray:
    """Distance from each true particle to the nearest pick."""
    return np.hypot(truth.y[:, None] - picks.y, truth.x[:, None] - picks.x).min(axis=1)


@pytest.mark.parametrize(
    "contract",
    [
        pytest.param({}, id="window"),
        pytest.param({"step_px": 2.5}, id="window-fractional-stride"),
        pytest.param({"tile_px": 63, "grid": 16, "step_px": 2.0, "offset_px": 16.0}, id="dense"),
        pytest.param(
            {"tile_px": 63, "grid": 16, "step_px": 2.0, "offset_px": 16.0, "open_sides": True}, id="dense-open"
        ),
    ],
)
@pytest.mark.parametrize("diameter_px", [12.0, 24.0, 40.0])
def test_particles_are_found_where_they_are_on_a_micrograph_that_is_not_square(
    tmp_path: Path,
    make_blob_model: Callable[..., Path],
    make_scene: Callable[..., object],
    contract: dict[str, object],
    diameter_px: float,
) -> None:
    scene = make_scene((round(20 * diameter_px), round(31 * diameter_px)), diameter_px, count=15)
    model = make_blob_model(tmp_path / "blob", **contract)
    picks = pick(model, scene.pixels, diameter_px, threshold=0.9)
    assert len(picks) == 15
    assert errors_px(picks, scene.truth).max() < 0.2 * diameter_px
    # Flipped or transposed they would not be there.
    h = scene.pixels.shape[0]
    flipped = Picks(y=h - 1 - picks.y, x=picks.x, score=picks.score)
    transposed = Picks(y=picks.x, x=picks.y, score=picks.score)
    assert errors_px(flipped, scene.truth).max() > diameter_px
    assert errors_px(transposed, scene.truth).max() > diameter_px


def test_window_and_dense_models_agree(
    tmp_path: Path, make_blob_model: Callable[..., Path], make_scene: Callable[..., object]
) -> None:
    scene = make_scene()
    window = make_blob_model(tmp_path / "window", tile_px=33, offset_px=16.0, step_px=2.0)
    dense = {"tile_px": 63, "grid": 16, "offset_px": 16.0, "step_px": 2.0}
    fixed = make_blob_model(tmp_path / "dense", **dense)
    open_sided = make_blob_model(tmp_path / "open", open_sides=True, **dense)
    a = pick(window, scene.pixels, scene.diameter_px, threshold=0.9)
    for other in (fixed, open_sided):
        b = pick(other, scene.pixels, scene.diameter_px, threshold=0.9)
        np.testing.assert_allclose(a.y, b.y, atol=1e-3)
        np.testing.assert_allclose(a.x, b.x, atol=1e-3)
        np.testing.assert_allclose(a.score, b.score, atol=1e-5)


def test_tiles_of_any_side_fit_the_picture(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    dense = {"tile_px": 63, "grid": 16, "offset_px": 16.0, "step_px": 2.0}
    micrograph = Micrograph(path=Path("a.mrc"), pixels=noise(300, 501), pixel_size_angstrom=PIXEL_SIZE)
    settings = PickingSettings(diameter_angstrom=16 * PIXEL_SIZE, edge_margin_angstrom=0)
    tilings = []
    for open_sides in (False, True):
        model = load_model(make_blob_model(tmp_path / str(open_sides), open_sides=open_sides, **dense), "cpu", 1)
        picker = Picker(model, settings)
        picture = picker.prepare(micrograph)
        tilings.append(tiling := picker.plan(picture))
        assert tiling is not None
        assert model.batch_shape(picker.size_of((300, 501), PIXEL_SIZE))[1:] == tiling.tile_shape
        assert len(picker.score(picture).y_px) == tiling.y.centres.size
    fixed, fitting = tilings
    assert fixed.tile_shape == (63, 63)
    assert fitting.count == 1
    assert fitting.tile_shape == (2 * 150 + 33, 2 * 251 + 33)  # 151 and 252 places, two pixels apart, and a halo
    assert fitting.count * np.prod(fitting.tile_shape) < 0.5 * fixed.count * np.prod(fixed.tile_shape)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda pixels: pixels * 1000, {}),
        (lambda pixels: pixels + 1e5, {}),
        (lambda pixels: pixels.astype(np.int16), {}),
        (lambda pixels: -pixels, {"contrast": "bright"}),
        (lambda pixels: pixels + np.linspace(0, 300, pixels.shape[1]), {}),
    ],
    ids=["scaled", "offset", "int16", "inverted", "gradient"],
)
def test_picks_do_not_depend_on_how_the_micrograph_is_stored(
    blob_model: Path,
    make_scene: Callable[..., object],
    change: Callable[[np.ndarray], np.ndarray],
    settings: dict[str, object],
) -> None:
    scene = make_scene()
    plain = pick(blob_model, scene.pixels, scene.diameter_px, threshold=0.9)
    changed = pick(blob_model, change(scene.pixels), scene.diameter_px, threshold=0.9, **settings)
    assert len(changed) == len(plain) == len(scene.truth)
    assert errors_px(changed, plain).max() < 0.05 * scene.diameter_px


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
@pytest.mark.parametrize("diameter_px", [24.0, 12.0])  # made smaller, and larger
def test_whole_numbers_as_stored_give_the_picks_of_the_same_numbers_in_float32(
    blob_model: Path, make_scene: Callable[..., object], dtype: str, diameter_px: float
) -> None:
    scene = make_scene((300, 420), diameter_px, count=12)
    whole = np.clip(np.round(scene.pixels), 0, 250)
    stored = Micrograph(path=Path("a.mrc"), pixels=whole.astype(dtype), pixel_size_angstrom=PIXEL_SIZE)
    settings = PickingSettings(diameter_angstrom=diameter_px * PIXEL_SIZE, threshold=0.5)
    found = Picker(load_model(blob_model, "cpu", 1), settings).pick(stored)
    expected = pick(blob_model, whole, diameter_px, threshold=0.5)
    assert len(found) == len(expected) == 12
    np.testing.assert_array_equal(found.y, expected.y)
    np.testing.assert_array_equal(found.score, expected.score)


@pytest.mark.parametrize("pixel_size_angstrom", [None, 2 * PIXEL_SIZE])
def test_a_micrograph_rescaled_while_it_was_read_gives_the_same_picks_each_time(
    tmp_path: Path,
    blob_model: Path,
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    pixel_size_angstrom: float | None,
) -> None:
    scene = make_scene((300, 420), 30.0, count=12)
    path = write_mrc(tmp_path / "a.mrc", scene.pixels, PIXEL_SIZE)
    size = pixel_size_angstrom or PIXEL_SIZE
    settings = PickingSettings(diameter_angstrom=30.0 * size, pixel_size_angstrom=pixel_size_angstrom, threshold=0.5)
    picker = Picker(load_model(blob_model, "cpu", 1), settings)
    expected = picker.pick(read_micrograph(path))
    micrograph = read_micrograph(path, rescaling=picker.rescaling)
    assert micrograph.rescaled is not None
    assert len(expected) == 12
    for _ in range(2):
        found = picker.pick(micrograph)
        np.testing.assert_allclose(found.y, expected.y, atol=1e-3)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
    # Another particle wants another picture.
    other = Picker(picker.model, PickingSettings(diameter_angstrom=45.0 * size, threshold=0.1))
    np.testing.assert_array_equal(other.pick(micrograph).y, other.pick(read_micrograph(path)).y)


def test_the_same_micrograph_gives_the_same_picks(blob_model: Path, make_scene: Callable[..., object]) -> None:
    scene = make_scene(seed=4)
    first, second = (pick(blob_model, scene.pixels, scene.diameter_px, threshold=0.3) for _ in range(2))
    np.testing.assert_array_equal(first.y, second.y)
    np.testing.assert_array_equal(first.score, second.score)


def test_edge_margin_and_minimum_distance_are_in_angstrom(blob_model: Path, make_scene: Callable[..., object]) -> None:
    scene = make_scene()
    h, w = scene.pixels.shape
    picks = pick(
        blob_model, scene.pixels, 24.0, threshold=0.01, edge_margin_angstrom=120.0, min_distance_angstrom=160.0
    )
    assert len(picks) > 0
    assert picks.y.min() >= 59.5
    assert picks.y.max() <= h - 60.5
    assert picks.x.max() <= w - 60.5
    distances = np.hypot(picks.y[:, None] - picks.y, picks.x[:, None] - picks.x)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() >= 80


def test_default_threshold_is_the_models(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    model = load_model(make_blob_model(tmp_path / "blob", threshold=0.73), "cpu")
    assert Picker(model, PickingSettings(diameter_angstrom=10)).threshold == 0.73
    assert Picker(model, PickingSettings(diameter_angstrom=10, threshold=0.0)).threshold == 0.0


@pytest.mark.parametrize("diameter_px", [2.0, 500.0])
def test_an_impossible_diameter_is_refused_with_the_pixel_size(blob_model: Path, diameter_px: float) -> None:
    with pytest.raises(MicrographError, match="Å a pixel") as refused:
        pick(blob_model, np.random.default_rng(0).random((300, 400)), diameter_px)
    assert refused.value.reason == "diameter"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"diameter_angstrom": 0}, "diameter"),
        ({"diameter_angstrom": float("nan")}, "diameter"),
        ({"diameter_angstrom": 10, "pixel_size_angstrom": -1}, "pixel-size"),
        ({"diameter_angstrom": 10, "threshold": 1.2}, "threshold"),
        ({"diameter_angstrom": 10, "edge_margin_angstrom": -3}, "edge-margin"),
        ({"diameter_angstrom": 10, "min_distance_angstrom": float("inf")}, "min-distance"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, float], named: str) -> None:
    with pytest.raises(SettingsError, match=f"^{named}: expected"):
        PickingSettings(**settings)  # type: ignore[arg-type]


def test_margins_that_leave_nothing_give_no_picks(blob_model: Path, make_scene: Callable[..., object]) -> None:
    scene = make_scene()
    assert len(pick(blob_model, scene.pixels, 24.0, edge_margin_angstrom=1000.0)) == 0
