"""Junk: outlines that are the mask, a model that finds it, and picks that lie in it, whenever they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from frazil.documents import JunkArea, MicrographDocument, decode_document, encode_document
from frazil.errors import ModelError
from frazil.file_picker import FilePicker
from frazil.junk_area import JunkSearch, flag_picks, outside_junk, sift_picks
from frazil.limits import JunkPicks
from frazil.model import ModelIdentity, load_model
from frazil.picking import JunkFinder, Micrograph, Picker, PickingSettings, Picks, lie_inside, read_micrograph
from frazil.picking import junk as junk_module
from frazil.picking.junk import MOST_CORNERS, MOST_OUTLINES, trace
from frazil.record import Record, record_picks
from frazil.session.correct import AddPick, DeletePick
from frazil.session.correct.applying import correct_document
from frazil.session.retune.repick import repick_with_junk
from frazil.settings import default_junk_model_path

PIXEL_SIZE = 2.0
SETTINGS = PickingSettings(diameter_angstrom=48)
"""Discs of 24 px, as scenes have them."""
DARK = np.s_[40:180, 240:400]
"""A corner of a scene, far darker than the rest, with a disc and its noise."""


def masks(sigma: float) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Noise, smoothed and cut: blobs, holes, islands in holes, and what touches the edges and other blobs' corners."""

    def make(seed: int, h: int, w: int, covered: float) -> NDArray[np.bool_]:
        noise = np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
        return np.asarray(smooth > np.quantile(smooth, 1 - covered), np.bool_)

    sides = st.integers(1, 40)
    return st.builds(make, st.integers(0, 2**32 - 1), sides, sides, st.floats(0, 1))


def filled(outlines: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = (part.ravel().astype(float) for part in np.indices(shape))
    return lie_inside([outline.tolist() for outline in outlines], rows, columns).reshape(shape)


@given(st.one_of(masks(0.3), masks(1.5), masks(4.0)))
def test_every_pixel_of_a_mask_lies_on_its_side_of_the_outlines(mask: NDArray[np.bool_]) -> None:
    outlines = trace(mask)
    if len(outlines) < MOST_OUTLINES and sum(map(len, outlines)) < MOST_CORNERS // 2:
        assert (filled(outlines, mask.shape) == mask).all()


def test_a_hole_is_no_junk_and_an_island_in_it_is() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:28, 3:37] = True
    mask[6:24, 8:30] = False
    mask[12:16, 14:20] = True
    outlines = trace(mask)
    assert len(outlines) == 3
    assert (filled(outlines, mask.shape) == mask).all()


def test_a_micrograph_full_of_specks_has_its_largest_outlines_only() -> None:
    mask = np.zeros((400, 400), bool)
    mask[::4, ::4] = True
    mask[100:140, 100:140] = True
    mask[110:130, 110:130] = False
    outlines = trace(mask)
    assert len(outlines) == MOST_OUTLINES
    assert sum(map(len, outlines)) <= MOST_CORNERS
    assert not filled(outlines, mask.shape)[120, 120]  # the hole is there, as what is around it is
    assert filled(outlines, mask.shape)[105, 105]


def test_outlines_have_a_bounded_number_of_corners() -> None:
    rows, columns = np.indices((600, 600))
    comb = (columns % 4 < 2) | (rows < 4)  # one outline, with thousands of corners
    comb[::3, ::2] ^= True
    assert sum(map(len, trace(comb))) <= MOST_CORNERS


def test_junk_with_very_many_corners_keeps_its_area() -> None:
    noise = np.random.default_rng(3).normal(size=(1000, 1000)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 8.0)
    mask = np.asarray(smooth > np.quantile(smooth, 0.35), np.bool_)
    outlines = trace(mask)
    assert 0 < sum(map(len, outlines)) <= MOST_CORNERS
    assert (filled(outlines, mask.shape) == mask).mean() > 0.98


@given(
    st.lists(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), max_size=8), max_size=4),
    st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), max_size=8),
)
def test_a_place_is_inside_if_a_ray_from_it_crosses_an_odd_number_of_sides(
    outlines: list[list[tuple[float, float]]], places: list[tuple[float, float]]
) -> None:
    y, x = np.array(places, np.float64).reshape(-1, 2).T

    def is_inside(row: float, column: float) -> bool:
        crossed = 0
        for outline in outlines:
            for (y0, x0), (y1, x1) in zip(outline, [*outline[1:], *outline[:1]], strict=True):
                if (y0 > row) != (y1 > row):
                    crossed += column < (x1 - x0) * (row - y0) / (y1 - y0) + x0
        return crossed % 2 == 1

    with np.errstate(over="ignore"):  # of sides that are all but level
        assert lie_inside(outlines, y, x).tolist() == [is_inside(*place) for place in zip(y, x, strict=True)]


# --- the finder -----------------------------------------------------------------------------------------------------


def scene_with_junk(make_scene: Callable[..., object], dark: float = -120.0) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = make_scene(seed=3, count=16).pixels.copy()  # type: ignore[attr-defined]
    pixels[DARK] += dark
    return pixels


def as_micrograph(pixels: NDArray[np.generic]) -> Micrograph:
    return Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=PIXEL_SIZE)


def finder_of(folder: Path) -> JunkFinder:
    return JunkFinder(load_model(folder, "cpu", 1, finds="junk"), "dark")


@pytest.fixture(scope="module")
def picker(blob_model: Path) -> Picker:
    return Picker(load_model(blob_model, "cpu", 1), SETTINGS)


@pytest.fixture(scope="module")
def record_of(picker: Picker, dark_model: Path) -> Callable[..., Record]:
    finder = finder_of(dark_model)

    def record(pixels: NDArray[np.generic], picks: JunkPicks = "drop") -> Record:
        search = JunkSearch(finder=finder, picks=picks)
        return record_picks(picker, as_micrograph(pixels), read_seconds=0, since=0, find_junk=search.find)

    return record


def junk_of(document: MicrographDocument) -> JunkArea:
    assert isinstance(document.junk, JunkArea)
    return document.junk


def test_junk_is_found_where_it_is(picker: Picker, dark_model: Path, make_scene: Callable[..., object]) -> None:
    pixels = scene_with_junk(make_scene)
    micrograph = as_micrograph(pixels)
    found = finder_of(dark_model).find(micrograph, picker.prepare(micrograph))
    true = np.zeros(pixels.shape, bool)
    true[DARK] = True
    rows, columns = (part.ravel().astype(float) for part in np.indices(pixels.shape))
    said = lie_inside(found.outlines, rows, columns).reshape(pixels.shape)
    assert (said & true).sum() / (said | true).sum() > 0.85
    assert found.fraction == pytest.approx(said.mean(), abs=0.01)
    assert finder_of(dark_model).find(as_micrograph(pixels), picker.prepare(micrograph)) == found


def test_a_clean_micrograph_has_none(record_of: Callable[..., Record], make_scene: Callable[..., object]) -> None:
    junk = junk_of(record_of(make_scene().pixels).document)  # type: ignore[attr-defined]
    assert (junk.fraction, junk.outlines, junk.dropped, junk.flagged) == (0.0, [], 0, [])


def test_junk_is_the_same_however_the_micrograph_was_read(
    picker: Picker,
    dark_model: Path,
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
) -> None:
    file = write_mrc(tmp_path / "a.mrc", scene_with_junk(make_scene), PIXEL_SIZE)
    ahead, plain = read_micrograph(file, rescaling=picker.rescaling), read_micrograph(file)
    assert ahead.rescaled is not None
    found = [finder_of(dark_model).find(one, picker.prepare(one)) for one in (ahead, plain)]
    assert found[0] == found[1]
    assert found[0].outlines


def test_where_there_is_no_data_there_is_no_junk(
    picker: Picker, dark_model: Path, make_scene: Callable[..., object]
) -> None:
    pixels = scene_with_junk(make_scene)
    pixels[DARK] = -20.0  # no noise
    micrograph = as_micrograph(pixels)
    picture = picker.prepare(micrograph)
    assert picture.blank_fraction > 0.1
    assert finder_of(dark_model).find(micrograph, picture).fraction < 0.01


def test_bright_particles_see_junk_the_other_way_round(
    picker: Picker, dark_model: Path, make_scene: Callable[..., object]
) -> None:
    pixels = 200 - scene_with_junk(make_scene)
    micrograph = as_micrograph(pixels)
    bright = Picker(picker.model, msgspec.structs.replace(SETTINGS, contrast="bright"))
    finder = JunkFinder(load_model(dark_model, "cpu", 1, finds="junk"), "bright")
    assert finder.find(micrograph, bright.prepare(micrograph)).fraction > 0.1


def test_models_are_refused_where_the_other_kind_is_needed(
    blob_model: Path, dark_model: Path, make_junk_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="expected a model that finds junk, found one that finds particles"):
        load_model(blob_model, "cpu", 1, finds="junk")
    with pytest.raises(ModelError, match="expected a model that finds particles, found one that finds junk"):
        load_model(dark_model, "cpu", 1)
    with pytest.raises(ModelError, match="finds junk"):
        JunkFinder(load_model(blob_model, "cpu", 1), "dark")
    fine = make_junk_model(tmp_path / "fine", diameter_px=48.0)
    with pytest.raises(ModelError, match="at most 24 px, found 48 px"):
        finder_of(fine)


def test_the_shipped_model_is_one(picker: Picker, make_scene: Callable[..., object]) -> None:
    micrograph = as_micrograph(make_scene((1024, 1024)).pixels)  # type: ignore[attr-defined]
    found = finder_of(default_junk_model_path()).find(micrograph, picker.prepare(micrograph))
    assert 0 <= found.fraction <= 1


def test_specks_and_small_holes_do_not_count(
    picker: Picker, dark_model: Path, make_scene: Callable[..., object]
) -> None:
    pixels = scene_with_junk(make_scene)
    pixels[100:110, 300:310] += 120  # a hole of a fifth of a particle
    pixels[250:256, 60:66] -= 400
    micrograph = as_micrograph(pixels)
    assert len(finder_of(dark_model).find(micrograph, picker.prepare(micrograph)).outlines) == 1


# --- picks in it ----------------------------------------------------------------------------------------------------


def test_picks_in_junk_are_left_out_and_counted(
    record_of: Callable[..., Record], picker: Picker, make_scene: Callable[..., object]
) -> None:
    pixels = scene_with_junk(make_scene)
    everything = picker.pick(as_micrograph(pixels))
    record = record_of(pixels)
    junk, (y, x, _) = junk_of(record.document), record.document.picks.arrays()
    assert junk.dropped > 0
    assert len(everything) == len(y) + junk.dropped
    assert not lie_inside(junk.outlines, y, x).any()
    assert len(record.picks) == len(y)
    assert decode_document(encode_document(record.document)) == record.document


def test_flagged_picks_stay(
    record_of: Callable[..., Record], picker: Picker, make_scene: Callable[..., object]
) -> None:
    pixels = scene_with_junk(make_scene)
    dropped, flagged = junk_of(record_of(pixels).document), record_of(pixels, "flag").document
    assert len(flagged.picks.y) == len(picker.pick(as_micrograph(pixels)))
    assert len(junk_of(flagged).flagged) == dropped.dropped
    y, x, _ = flagged.picks.arrays()
    assert np.flatnonzero(lie_inside(dropped.outlines, y, x)).tolist() == junk_of(flagged).flagged


@pytest.mark.parametrize("picks", ["drop", "flag"])
def test_picks_made_again_from_scores_heed_the_same_junk(
    record_of: Callable[..., Record], make_scene: Callable[..., object], picks: JunkPicks
) -> None:
    record = record_of(scene_with_junk(make_scene), picks)
    same, junk = repick_with_junk(record.document, record.score_map, record.document.limits)
    assert (same.y.tolist(), same.x.tolist()) == (record.picks.y.tolist(), record.picks.x.tolist())
    assert junk == record.document.junk
    farther = msgspec.structs.replace(record.document.limits, min_distance_angstrom=100.0)
    fewer, junk = repick_with_junk(record.document, record.score_map, farther)
    assert isinstance(junk, JunkArea)
    inside = lie_inside(junk.outlines, fewer.y, fewer.x)
    if picks == "drop":
        assert not inside.any()
        assert 0 < junk.dropped < junk_of(record.document).dropped
    else:
        assert junk.flagged == np.flatnonzero(inside).tolist()
        assert 0 < len(junk.flagged) < len(junk_of(record.document).flagged)


def test_a_person_may_add_a_pick_in_junk_and_it_is_flagged(
    record_of: Callable[..., Record], make_scene: Callable[..., object]
) -> None:
    document = record_of(scene_with_junk(make_scene)).document
    add = AddPick(id="a" * 32, path="a.mrc", at=1.0, y=100.0, x=320.0)
    best = document.picks.y[0], document.picks.x[0]
    delete = DeletePick(id="b" * 32, path="a.mrc", at=2.0, y=best[0], x=best[1])
    corrected = correct_document(document, [add, delete])
    junk = junk_of(corrected)
    assert [(corrected.picks.y[i], corrected.picks.x[i]) for i in junk.flagged] == [(100.0, 320.0)]
    assert junk.dropped == junk_of(document).dropped
    undone = correct_document(msgspec.structs.replace(corrected, picks=document.picks), [])
    assert undone == document


def area(picks: JunkPicks = "drop") -> JunkArea:
    square = [(10.0, 10.0), (10.0, 30.0), (30.0, 30.0), (30.0, 10.0)]
    hole = [(15.0, 15.0), (15.0, 25.0), (25.0, 25.0), (25.0, 15.0)]
    return JunkArea(
        fraction=0.1,
        outlines=[square, hole],
        picks=picks,
        model=ModelIdentity(name="junk", version=1, sha256="0" * 64),
    )


def test_where_junk_was_not_looked_for_nothing_changes() -> None:
    picks = Picks(y=np.array([12.0, 20.0, 50.0]), x=np.array([12.0, 20.0, 50.0]), score=np.ones(3))
    assert sift_picks(msgspec.UNSET, picks) == (picks, msgspec.UNSET)
    assert outside_junk(msgspec.UNSET, picks).y.tolist() == [12, 20, 50]
    sifted, junk = sift_picks(area(), picks)
    assert (sifted.y.tolist(), isinstance(junk, JunkArea) and junk.dropped) == ([20, 50], 1)


def test_a_document_without_junk_is_not_flagged(make_document: Callable[..., MicrographDocument]) -> None:
    document = make_document("a.mrc")
    assert flag_picks(document) is document
    assert b'"junk"' not in encode_document(document).replace(b'"junk":0', b"")


# --- frazil pick ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, None])
def test_picked_files_heed_junk(
    blob_model: Path,
    dark_model: Path,
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
    threshold: float | None,
) -> None:
    from frazil.micrograph_names import Named

    file = write_mrc(tmp_path / "a.mrc", scene_with_junk(make_scene), PIXEL_SIZE)
    settings = msgspec.structs.replace(SETTINGS, threshold=threshold)

    def pick(out: str, **changes: object) -> tuple[MicrographDocument, str]:
        picker = FilePicker(
            settings,
            out=tmp_path / out,
            model=blob_model,
            junk_model=dark_model,
            device="cpu",
            threads=1,
            **changes,  # type: ignore[arg-type]
        )
        named = Named(file, "a.mrc")
        if not picker.chooses:
            done = picker.pick(named, with_picture=True)
        else:
            scored = picker.score(named)
            picker.choose()
            done = picker.write(scored, with_picture=True)
        return done.document, done.as_line()

    dropped, said = pick("dropped")
    flagged, _ = pick("flagged", junk_picks="flag")
    without, plain = pick("without", find_junk=False)
    assert isinstance(without.junk, msgspec.UnsetType)
    assert junk_of(dropped).dropped == len(junk_of(flagged).flagged) > 0
    assert len(without.picks.y) >= len(dropped.picks.y) + 1
    assert "of it junk" in said
    assert "of it junk" not in plain
    drawn = cv2.imread(str(tmp_path / "dropped" / "a_picks.png"))
    bare = cv2.imread(str(tmp_path / "without" / "a_picks.png"))
    assert math.isclose(drawn.shape[0], bare.shape[0])
    red = (drawn[..., 2].astype(int) - drawn[..., 1] > 80).sum()
    assert red > 100 > (bare[..., 2].astype(int) - bare[..., 1] > 80).sum()


def test_sides_are_taken_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    circle = [list(zip((50 + 40 * np.sin(angles)).tolist(), (50 + 40 * np.cos(angles)).tolist(), strict=True))]
    y, x = np.random.default_rng(0).uniform(0, 100, (2, 500))
    at_once = lie_inside(circle, y, x)
    monkeypatch.setattr(junk_module, "_SIDES_AT_ONCE", 7)
    assert (lie_inside(circle, y, x) == at_once).all()
    assert (at_once == (np.hypot(y - 50, x - 50) < 40)).mean() > 0.99
