"""Blank parts: what lies beside the picture, whatever and wherever it is, changes no pick and holds none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.errors import MicrographError
from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH
from frazil.model import load_model
from frazil.picking import BlankArea, Micrograph, Picker, PickingSettings, Picks, Rescaling, find_blank, read_micrograph
from frazil.picking.picture import normalise
from frazil.record import record_picks
from frazil.session.retune.repick import pack_score_map, unpack_score_map
from frazil.settings import default_model_path

DIAMETER_PX = 24.0
FILLS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "zeros": lambda p, _: np.zeros(p.shape),
    "mean": lambda p, _: np.full(p.shape, p.mean()),
    "far away": lambda p, _: np.full(p.shape, p.mean() - 1e4 * p.std()),
    "dark": lambda p, rng: rng.normal(p.min(), 0.1 * p.std(), p.shape),
    "film": lambda p, rng: rng.normal(p.mean(), 0.3 * p.std(), p.shape),
}
"""Name → (h, w) picture → (h, w) what a blank part of it holds."""


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def blank(pixels: np.ndarray, diameter_px: float = DIAMETER_PX) -> np.ndarray:
    """(h, w) which pixels are blank."""
    area = find_blank(pixels, diameter_px)
    if area is None:
        return np.zeros(pixels.shape, np.bool_)
    h, w = pixels.shape
    return np.kron(area.samples, np.ones((area.step, area.step), np.bool_))[:h, :w]


def grown(mask: np.ndarray, by_px: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by_px + 1,) * 2, np.uint8)).astype(bool)


def opened(mask: np.ndarray, side_px: int) -> np.ndarray:
    """What of a mask squares of a side fit into."""
    framed = np.pad(mask, side_px).astype(np.uint8)
    inside = np.s_[side_px:-side_px, side_px:-side_px]
    return cv2.morphologyEx(framed, cv2.MORPH_OPEN, np.ones((side_px,) * 2, np.uint8))[inside].astype(bool)


# --- where ------------------------------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, int] = (240, 330)) -> np.ndarray:
    """Some rectangles, ellipses and polygons of at most half a picture; perhaps its edges or its corners."""
    h, w = shape
    mask = np.zeros(shape, np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        y, x = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
        kind = draw(st.sampled_from(["rectangle", "ellipse", "polygon", "rows", "outside"]))
        tall, wide = draw(st.integers(30, 120)), draw(st.integers(30, 120))
        if kind == "rectangle":
            mask[y : y + tall, x : x + wide] = 1
        elif kind == "ellipse":
            cv2.ellipse(mask, (x, y), (wide // 2, tall // 2), draw(st.integers(0, 179)), 0, 360, 1, cv2.FILLED)
        elif kind == "polygon":
            corners = draw(st.lists(st.tuples(st.integers(0, w), st.integers(0, h)), min_size=3, max_size=5))
            cv2.fillPoly(mask, [np.array(corners, np.int32)], 1)
        elif kind == "rows":
            mask[y : y + tall] = 1
        else:
            inside = np.zeros(shape, np.uint8)
            cv2.ellipse(inside, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 1, cv2.FILLED)
            mask |= 1 - inside
    return mask.astype(bool)


@settings(max_examples=40, deadline=None)
@given(masks(), st.sampled_from(["zeros", "mean", "far away", "dark"]), st.sampled_from([np.float32, np.int16]))
def test_blank_parts_of_any_shape_are_found_to_their_edge(mask: np.ndarray, fill: str, dtype: type[np.generic]) -> None:
    if mask.mean() > 0.5:
        mask = ~mask
    picture = noise(mask.shape)
    pixels = np.where(mask, FILLS[fill](picture, np.random.default_rng(1)), picture).astype(dtype)
    found = blank(pixels)
    deep = ~grown(~opened(mask, int(DIAMETER_PX)), 3)
    assert not (found & ~grown(mask, int(DIAMETER_PX / 2))).any()
    assert (found & ~grown(mask, int(DIAMETER_PX / 4))).mean() < 0.01
    assert not (deep & ~found).any()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_film_that_stops_most_electrons_is_blank_and_ice_of_half_the_noise_is_not(share: float) -> None:
    mask = np.zeros((600, 400), bool)
    mask[: round(share * 600)] = True
    picture = noise(mask.shape)
    film, thick_ice = (np.where(mask, 100 + (picture - 100) * scale, picture) for scale in (0.3, 0.7))
    assert blank(film).mean() == pytest.approx(share, abs=0.02)
    assert not blank(thick_ice).any()


def test_most_of_a_picture_may_be_padding_or_noisy_shadow() -> None:
    pixels = np.zeros((900, 900), np.float32)
    pixels[100:400, 200:500] = noise((300, 300))
    assert blank(pixels).mean() == pytest.approx(8 / 9, abs=0.01)
    shadow = np.random.default_rng(1).normal(10, 1, (1000, 400)).astype(np.float32)
    shadow[600:] = noise((400, 400))
    assert blank(shadow).mean() == pytest.approx(0.6, abs=0.01)


def test_hot_pixels_in_a_blank_part_do_not_hide_it() -> None:
    pixels = noise((400, 500))
    pixels[:, :200] = 0
    pixels[50::90, 40::90] = 3e9
    found = blank(pixels)
    assert found[:, :200].mean() > 0.85
    assert found[:, 210:].mean() < 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda p, _: p,
        lambda p, _: p * 1e-6 + 1,
        lambda p, _: p + 1e6,
        lambda p, _: p + np.linspace(0, 3000, p.shape[1]),
        lambda p, _: np.where(np.arange(p.size).reshape(p.shape) % 997 == 0, 3e9, p),
        lambda p, rng: np.where(np.arange(p.shape[1]) < 0.3 * p.shape[1], rng.normal(150, 40, p.shape), p),
        lambda p, rng: rng.poisson(0.6, p.shape),
        lambda p, _: cv2.GaussianBlur(p.astype(np.float32), (0, 0), 2),
    ],
    ids=["noise", "faint", "offset", "gradient", "hot pixels", "a third is noisier", "few electrons", "blurred"],
)
@pytest.mark.parametrize("diameter_px", [8.0, 24.0, 100.0])
def test_a_picture_that_holds_data_all_over_has_no_blank_part(
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray], diameter_px: float
) -> None:
    pixels = np.asarray(change(noise((500, 700)), np.random.default_rng(2)), np.float32)
    assert find_blank(pixels, diameter_px) is None


def test_pictures_smaller_than_a_window_hold_data() -> None:
    assert find_blank(noise((30, 400)), 200.0) is None


def test_real_micrographs_lose_nothing_but_their_replicated_border(real_micrographs: Path) -> None:
    for folder, diameter_px in (("beta-galactosidase", 108), ("apoferritin", 78), ("ribosome-80s", 56), ("trpv1", 36)):
        for file in sorted((real_micrographs / folder).glob("*.mrc"))[:3]:
            area = find_blank(read_micrograph(file, as_stored=True).pixels, float(diameter_px))
            assert area is None or (folder == "beta-galactosidase" and area.is_negligible)


# --- what comes of it ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(masks(), st.booleans(), st.integers(0, 9))
def test_what_a_blank_part_holds_changes_nothing(mask: np.ndarray, invert: bool, seed: int) -> None:
    picture = noise(mask.shape)
    rng = np.random.default_rng(seed)
    one, other = (
        normalise(np.where(mask, fill, picture).astype(np.float32), "flat-01", 20.0, invert=invert, blank=mask)
        for fill in (rng.normal(0, 1e5, mask.shape), np.full(mask.shape, -7.0))
    )
    np.testing.assert_array_equal(one, other)
    assert (one[mask] == 0.5).all()
    if (~mask).sum() > 0.3 * mask.size:
        assert one[~mask].std() == pytest.approx(1 / 8, rel=0.1)


@pytest.fixture(scope="module")
def picker() -> Picker:
    settings = PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM)
    return Picker(load_model(default_model_path(), "cpu", 2), settings)


@pytest.fixture(scope="module")
def known(picker: Picker) -> tuple[Micrograph, Picks]:
    micrograph = read_micrograph(KNOWN_MICROGRAPH)
    return micrograph, picker.pick(micrograph)


def with_pixels(pixels: np.ndarray) -> Micrograph:
    pixel_size = read_micrograph(KNOWN_MICROGRAPH).pixel_size_angstrom
    return Micrograph(path=Path("a.mrc"), pixels=pixels.astype(np.float32), pixel_size_angstrom=pixel_size)


def found_again(picks: Picks, expected: Picks) -> int:
    """How many of the expected picks are there, to within a sixth of a particle."""
    distances = np.hypot(expected.y[:, None] - picks.y, expected.x[:, None] - picks.x)
    return int((distances.min(axis=1) < DIAMETER_PX / 6).sum())


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("share", "side"), [(0.1, "below"), (0.29, "above"), (0.5, "left"), (0.5, "right")])
def test_the_same_is_picked_whatever_lies_beside_the_picture(
    picker: Picker, known: tuple[Micrograph, Picks], fill: str, share: float, side: str
) -> None:
    micrograph, expected = known
    h, w = micrograph.pixels.shape
    extra = round((w if side in ("left", "right") else h) * share / (1 - share))
    pads = {"below": ((0, extra), (0, 0)), "above": ((extra, 0), (0, 0)), "left": ((0, 0), (extra, 0))}
    pad = pads.get(side, ((0, 0), (0, extra)))
    inside = np.pad(np.ones((h, w), bool), pad)
    picture = np.pad(micrograph.pixels, pad, mode="wrap").astype(np.float32)
    pixels = np.where(inside, picture, FILLS[fill](picture, np.random.default_rng(3)))
    record = record_picks(picker, with_pixels(pixels), read_seconds=0, since=0)
    picks, (top, left) = record.picks, (pad[0][0], pad[1][0])
    moved = Picks(y=picks.y - top, x=picks.x - left, score=picks.score)
    assert len(expected) > 300
    assert found_again(moved, expected) >= 0.97 * len(expected)
    assert len(picks) <= 1.04 * len(expected)
    assert inside[np.rint(picks.y).astype(int), np.rint(picks.x).astype(int)].all()
    assert record.document.blank_fraction == pytest.approx(share, abs=0.01)


def test_nothing_is_picked_behind_a_beam_stop_or_outside_a_circular_mask(
    picker: Picker, known: tuple[Micrograph, Picks]
) -> None:
    micrograph, expected = known
    h, w = micrograph.pixels.shape
    mask = np.ones((h, w), np.uint8)
    cv2.circle(mask, (w // 2, h // 2), 280, 0, cv2.FILLED)
    cv2.line(mask, (w // 2, 0), (w // 2, h // 2), 1, 50)
    pixels = np.where(mask > 0, -40.0, micrograph.pixels)
    picks = picker.pick(with_pixels(pixels))
    assert not mask[np.rint(picks.y).astype(int), np.rint(picks.x).astype(int)].any()
    far = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) > DIAMETER_PX / 2
    safe = expected.select(far[np.rint(expected.y).astype(int), np.rint(expected.x).astype(int)])
    assert found_again(picks, safe) >= 0.95 * len(safe) > 100


def test_no_threshold_and_no_margin_has_picks_where_there_is_no_data(
    blob_model: Path, make_scene: Callable[..., object]
) -> None:
    scene = make_scene((320, 448))
    pixels = scene.pixels.copy()
    pixels[:, 200:] = 0
    given = PickingSettings(
        diameter_angstrom=24.0, pixel_size_angstrom=1.0, threshold=0.0, min_distance_angstrom=0, edge_margin_angstrom=0
    )
    picker = Picker(load_model(blob_model, "cpu", 1), given)
    micrograph = Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=1.0)
    record = record_picks(picker, micrograph, read_seconds=0, since=0)
    assert len(record.picks) > 20
    assert record.picks.x.max() < 200
    # What is kept of it gives the same picks.
    kept = unpack_score_map(pack_score_map(record.score_map))
    again = picker.find(kept, record.picture)
    np.testing.assert_array_equal(again.x, record.picks.x)


def test_specks_change_no_bit_of_the_picture_unless_they_are_far_from_it(blob_model: Path) -> None:
    picker = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=24.0))
    whole = noise((600, 800))
    for level, is_left_out in ((100.0, False), (-1e4, True)):
        specked = whole.copy()
        specked[300:330, 400:430] = level
        picture = picker.prepare(Micrograph(path=Path("a.mrc"), pixels=specked, pixel_size_angstrom=1.0))
        assert picture.blank is not None
        assert picture.blank.is_negligible is not is_left_out
        plain = normalise(
            cv2.resize(specked, picture.pixels.shape[::-1], interpolation=cv2.INTER_AREA),
            "flat-01",
            picker.model.contract.diameter_px,
            invert=False,
        )
        assert np.allclose(picture.pixels, plain, atol=1e-4) is not is_left_out


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_a_picture_of_next_to_nothing_is_refused_in_so_many_words(blob_model: Path, level: float) -> None:
    pixels = np.full((800, 800), level, np.float32)
    pixels[:100, :100] = noise((100, 100))
    picker = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=24.0))
    with pytest.raises(MicrographError, match=r"expected a picture, found no data .* in 9\d\.\d% of it") as refused:
        picker.pick(Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=1.0))
    assert refused.value.reason == "blank"


def test_one_odd_pixel_does_not_make_a_picture(blob_model: Path) -> None:
    pixels = np.zeros((300, 300), np.float32)
    pixels[7, 11] = 1
    picker = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=24.0))
    with pytest.raises(MicrographError, match=r"no data .* in 100\.0% of it"):
        picker.pick(Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=1.0))


def test_the_rescaled_area_takes_in_every_pixel_that_averages_over_some_of_it() -> None:
    samples = np.zeros((40, 60), bool)
    samples[10:20, 30:] = True
    area = BlankArea(samples=samples, step=5, is_negligible=False)
    rescaling = Rescaling(shape=(200, 300), rescaled_shape=(70, 105))
    touched = np.zeros((200, 300), bool)
    touched[50:96, 150:] = True  # from the first blank sample to the last
    share = cv2.resize(touched.astype(np.float32), (105, 70), interpolation=cv2.INTER_AREA)
    rescaled = area.rescaled(rescaling)
    assert not ((share > 0) & ~rescaled).any()
    assert rescaled.sum() < 1.5 * (share > 0).sum()
