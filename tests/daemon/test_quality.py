"""What is measured of a micrograph and its picks, and the grade that follows; pure arrays and records."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.documents import CtfFit, JunkArea, MicrographDocument, ModelStamp, PickColumns, QualityDocument
from frazil.quality.assessment import Optics, PixelMeasures, assess, measure
from frazil.quality.grade import QualityRules, Usual, find_faults, grade, junk_category
from frazil.quality.ice import ice_ring, mean_counts, relative_ice_thickness
from frazil.quality.usable import clumping, find_usable, perimeter_px

FIT = CtfFit(
    defocus_u_angstrom=15500.0,
    defocus_v_angstrom=14500.0,
    defocus_angle_deg=31.0,
    resolution_angstrom=4.2,
    voltage_kv=300.0,
    cs_mm=2.7,
    amplitude_contrast=0.1,
)
SQUARE = [(100.0, 200.0), (100.0, 299.0), (199.0, 299.0), (199.0, 200.0)]
MODEL = ModelStamp(name="junk", version=1, sha256="")


def of_picks(y: np.ndarray, x: np.ndarray) -> PickColumns:
    return PickColumns(y=y.tolist(), x=x.tolist(), score=[0.9] * y.size)


def scattered(count: int, shape: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, shape[0], count), rng.uniform(0, shape[1], count)


def measured(**changes: object) -> QualityDocument:
    document = QualityDocument(
        epoch="",
        seq=0,
        micrograph="a.mrc",
        path="/w/a.mrc",
        of=1,
        grade="good",
        picks=100,
        usable_fraction=0.95,
        pixel_size_angstrom=1.0,
        ctf=FIT,
    )
    return msgspec.structs.replace(document, **changes)


def usual_of(picks: int = 100, *, reliable: bool = True) -> Usual:
    usual = Usual()
    for number in range(20):
        usual.note(f"{number}.mrc", particles=picks, mean_counts=50.0, is_reliable=reliable)
    return usual


def graded(
    rules: QualityRules | None = None, usual: Usual | None = None, picks: int = 100, **changes: object
) -> tuple[str, str]:
    faults = find_faults(measured(picks=picks, **changes), picks, usual or usual_of(), rules or QualityRules())
    found, category, reasons = grade(list(faults))
    assert (found == "good") == (reasons == [])
    return found, category


# --- the usable area -------------------------------------------------------------------------------------------------


def test_junk_covers_what_lies_within_its_outlines_and_a_hole_in_it_does_not() -> None:
    pixels = np.random.default_rng(0).normal(100, 10, (400, 500)).astype(np.float32)
    area = find_usable(pixels, 16.0, [SQUARE])
    assert area.junk.mean() == pytest.approx(100 * 100 / (400 * 500), rel=0.03)
    y, x = np.nonzero(area.junk)
    step = 400 / area.junk.shape[0]
    assert (y * step).mean() == pytest.approx(150, abs=step)
    assert (x * step).mean() == pytest.approx(250, abs=step)
    hole = [(130.0, 230.0), (130.0, 269.0), (169.0, 269.0), (169.0, 230.0)]
    with_hole = find_usable(pixels, 16.0, [SQUARE, hole])
    assert with_hole.junk.mean() == pytest.approx((100 * 100 - 40 * 40) / (400 * 500), rel=0.05)
    assert with_hole.fraction == pytest.approx(1 - with_hole.junk.mean())


def test_parts_without_data_are_not_usable() -> None:
    pixels = np.random.default_rng(0).normal(100, 10, (512, 512)).astype(np.float32)
    pixels[:, :128] = 0
    assert find_usable(pixels, 40.0).fraction == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_pictures_of_any_type_and_size_have_a_usable_area(dtype: type) -> None:
    pixels = np.random.default_rng(0).normal(100, 10, (333, 71)).astype(dtype)
    assert find_usable(pixels, 9.0).fraction == 1.0


# --- how picks lie ---------------------------------------------------------------------------------------------------


def test_scattered_picks_do_not_clump_and_those_in_heaps_do() -> None:
    shape = (1000, 1400)
    free = {"area_px": float(math.prod(shape)), "perimeter_px": perimeter_px(shape, [])}
    values = [clumping(*scattered(100, shape, seed), **free) for seed in range(50)]
    assert np.mean([value for value in values if value is not None]) == pytest.approx(1.0, abs=0.03)
    y, x = scattered(100, shape)
    heaps = clumping(np.tile(y[:10], 10) + y * 0.02, np.tile(x[:10], 10) + x * 0.02, **free)
    assert heaps is not None
    assert heaps < 0.5


def test_picks_that_are_scattered_on_what_is_usable_do_not_clump() -> None:
    """Three quarters are junk: beside the whole area, the picks in the rest would lie close together."""
    shape, outline = (1000, 1000), [(-0.5, 249.5), (-0.5, 999.5), (999.5, 999.5), (999.5, 249.5)]
    values, naive = [], []
    for seed in range(30):
        y, x = scattered(100, (1000, 250), seed)
        values.append(clumping(y, x, area_px=250_000.0, perimeter_px=perimeter_px((1000, 250), [])))
        naive.append(clumping(y, x, area_px=1e6, perimeter_px=perimeter_px(shape, [outline])))
    assert np.mean([value for value in values if value is not None]) == pytest.approx(1.0, abs=0.05)
    assert np.mean([value for value in naive if value is not None]) < 0.6


def test_too_few_picks_and_no_area_say_nothing() -> None:
    y, x = scattered(7, (100, 100))
    assert clumping(y, x, area_px=1e4, perimeter_px=400.0) is None
    y, x = scattered(50, (100, 100))
    assert clumping(y, x, area_px=0.0, perimeter_px=400.0) is None


# --- ice -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [2.0, 30.0, 900.0])
def test_counts_of_electrons_have_a_mean(mean: float) -> None:
    rng, usable = np.random.default_rng(0), np.ones((8, 8), bool)
    pixels = rng.poisson(mean, (300, 400)).astype(np.float32)
    pixels = 0.5 * (pixels + np.roll(pixels, 1, axis=1))  # interpolated, as after motion correction
    assert mean_counts(pixels, usable) == pytest.approx(mean, rel=0.02)


def test_pictures_that_were_filtered_normalised_or_stretched_have_no_counts() -> None:
    rng, usable = np.random.default_rng(0), np.ones((8, 8), bool)
    counts = rng.poisson(30, (300, 400)).astype(np.float32)
    normalised = (counts - counts.mean()) / counts.std()
    stretched = np.clip(np.rint(128 + 40 * normalised), 0, 255)
    smooth = np.full((300, 400), 1000.0, np.float32) + rng.normal(0, 0.5, (300, 400)).astype(np.float32)
    for pixels in (normalised, counts - counts.mean(), stretched, stretched.astype(np.uint8), smooth):
        assert mean_counts(pixels, usable) is None


def test_only_what_is_usable_is_counted() -> None:
    pixels = np.random.default_rng(0).poisson(40, (320, 320)).astype(np.int16) + 300
    pixels[:, 160:] = 2
    usable = np.zeros((10, 10), bool)
    usable[:, :5] = True
    assert mean_counts(pixels, usable) == pytest.approx(340, rel=0.01)
    assert mean_counts(pixels, np.zeros((10, 10), bool)) is None


def test_thicker_ice_lets_fewer_electrons_through() -> None:
    assert relative_ice_thickness(50.0, 50.0) == 0.0
    assert relative_ice_thickness(60.0, 50.0) == 0.0
    assert relative_ice_thickness(50.0 * math.exp(-0.3), 50.0) == pytest.approx(0.3)


def test_a_ring_at_the_spacing_of_ice_is_told_from_a_slope() -> None:
    frequency = np.linspace(0, 0.4, 400)
    slope = np.exp(-6 * frequency) + 0.2
    flat = ice_ring(slope, frequency)
    assert flat is not None
    assert flat < 1.1
    ring = ice_ring(slope * (1 + 2 * np.exp(-(((frequency - 1 / 3.7) / 0.004) ** 2))), frequency)
    assert ring is not None
    assert ring > 2.5
    assert ice_ring(slope[:250], frequency[:250]) is None  # coarse pixels do not reach it


# --- the grade -------------------------------------------------------------------------------------------------------


def test_nothing_speaks_against_a_good_micrograph() -> None:
    assert graded() == ("good", "")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"usable_fraction": 0.4, "junk_fraction": 0.5}, ("bad", "contamination")),
        ({"usable_fraction": 0.3, "junk_fraction": 0.0}, ("bad", "carbon")),
        ({"usable_fraction": 0.7, "junk_fraction": 0.3}, ("doubtful", "contamination")),
        ({"ice_ring": 3.0}, ("bad", "crystalline ice")),
        ({"ice_ring": 1.1}, ("good", "")),
        ({"ctf": msgspec.structs.replace(FIT, resolution_angstrom=12.0)}, ("doubtful", "out of focus")),
        ({"ctf": msgspec.structs.replace(FIT, resolution_angstrom=25.0)}, ("bad", "out of focus")),
        ({"ctf": msgspec.structs.replace(FIT, is_reliable=False, doubt="no rings")}, ("doubtful", "out of focus")),
        ({"ctf": msgspec.UNSET}, ("good", "")),
        ({"relative_ice_thickness": 0.6}, ("doubtful", "")),
        ({"relative_ice_thickness": 1.2}, ("bad", "")),
        ({"drift": 0.7}, ("doubtful", "")),
        ({"estimated_precision": 0.3}, ("doubtful", "")),
        ({"clumping": 0.4}, ("doubtful", "")),
        ({"picks": 29}, ("doubtful", "empty")),
        ({"picks": 7}, ("bad", "empty")),
        ({"picks": 31, "estimated_precision": 0.9}, ("doubtful", "empty")),
        ({"picks": 40, "estimated_precision": 0.9}, ("good", "")),
    ],
)
def test_each_rule_gives_its_grade_and_category(changes: dict[str, object], expected: tuple[str, str]) -> None:
    assert graded(**changes) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("defocus_um", "expected"), [(0.3, "bad"), (0.8, "doubtful"), (1.5, "good"), (2.5, "doubtful"), (5.0, "bad")]
)
def test_the_defocus_that_was_asked_for(defocus_um: float, expected: str) -> None:
    fit = msgspec.structs.replace(
        FIT, defocus_u_angstrom=1e4 * defocus_um + 100, defocus_v_angstrom=1e4 * defocus_um - 100
    )
    assert graded(QualityRules(least_defocus_um=1.0, most_defocus_um=2.0), ctf=fit)[0] == expected
    assert graded(ctf=fit) == ("good", "")


def test_no_rings_are_no_fault_where_the_session_shows_none() -> None:
    unreliable = msgspec.structs.replace(FIT, is_reliable=False, doubt="no rings")
    assert graded(usual=usual_of(reliable=False), ctf=unreliable) == ("good", "")


def test_the_category_that_explains_the_rest_is_named_and_all_reasons_are_given() -> None:
    faults = find_faults(
        measured(usable_fraction=0.2, junk_fraction=0.8, ice_ring=4.0), 1, usual_of(), QualityRules(), junk="carbon"
    )
    found, category, reasons = grade(list(faults))
    assert (found, category) == ("bad", "crystalline ice")
    assert reasons == [
        "crystalline ice: a ring at 3.7 to 3.9 Å, 4.0 times the spectrum beside it",
        "20% of the area is usable (at least 50%)",
        "1 picks, 1 of them particles, where the session's median is 100 (at least 30)",
    ]


def test_what_is_usual_is_unknown_at_first_and_follows_the_last_micrographs() -> None:
    usual = Usual()
    assert usual.median_particles is None
    assert graded(usual=Usual(), picks=0) == ("doubtful", "empty")
    for number in range(2000):
        usual.note(f"{number}.mrc", particles=number, mean_counts=float(number), is_reliable=None)
    assert usual.median_particles == pytest.approx(1750, abs=2)
    assert len(usual.counts) == 500
    usual.note("1999.mrc", particles=5, mean_counts=None, is_reliable=None)  # assessed again
    assert usual.particles["1999.mrc"] == 5
    assert "1999.mrc" not in usual.counts


def test_one_bright_micrograph_is_not_what_ice_is_compared_with() -> None:
    usual = Usual()
    for number in range(40):
        usual.note(f"{number}.mrc", particles=1, mean_counts=500.0 if number == 7 else 50.0, is_reliable=None)
    assert usual.thinnest_counts(50.0) == 50.0


def test_junk_is_a_crack_where_it_is_thin_or_long_film_where_it_reaches_in_and_else_dirt() -> None:
    shape = (1000, 1000)
    inside = [(300.0, 300.0), (300.0, 600.0), (600.0, 600.0), (600.0, 300.0)]
    film = [(0.0, 0.0), (0.0, 300.0), (999.0, 200.0), (999.0, 0.0)]
    small_at_edge = [(0.0, 0.0), (0.0, 50.0), (50.0, 50.0), (50.0, 0.0)]
    long = [(0.0, 450.0), (0.0, 510.0), (999.0, 540.0), (999.0, 480.0)]
    assert junk_category([inside], shape, -2.0) == "contamination"
    assert junk_category([film, small_at_edge], shape, -2.0) == "carbon"
    assert junk_category([inside, film], shape, -2.0) == "contamination"
    assert junk_category([small_at_edge], shape, None) == "contamination"
    assert junk_category([], shape, None) == "contamination"
    assert junk_category([long, small_at_edge], shape, -2.0) == "cracked"
    assert junk_category([film], shape, 4.0) == "cracked"


# --- all of it -------------------------------------------------------------------------------------------------------


def test_an_assessment_of_a_micrograph_and_the_same_again_from_what_was_measured(
    make_document: Callable[..., MicrographDocument],
) -> None:
    shape = (600, 800)
    rng = np.random.default_rng(0)
    pixels = rng.poisson(40, shape).astype(np.float32) + rng.normal(0, 0.1, shape).astype(np.float32)
    pixels[:, :200] -= 15
    film = [(-0.5, -0.5), (-0.5, 199.5), (599.5, 199.5), (599.5, -0.5)]
    y, x = scattered(60, (600, 600))
    document = msgspec.structs.replace(
        make_document("/w/a.mrc", seq=7),
        shape=shape,
        diameter_px=30.0,
        pixel_size_angstrom=1.5,
        picks=of_picks(y, x + 200),
        junk=JunkArea(fraction=0.25, outlines=[film], model=MODEL),
    )
    found = measure(pixels, document, Optics())
    assert found.usable_fraction == pytest.approx(0.75, abs=0.01)
    assert found.junk_fraction == pytest.approx(0.25, abs=0.01)
    assert found.mean_counts == pytest.approx(40, rel=0.02)
    assert found.junk_brightness is not None
    assert found.junk_brightness < -3
    quality = assess(document, document.picks, found, usual_of(60), QualityRules(), estimated_precision=0.9)
    assert (quality.of, quality.grade, quality.category) == (7, "doubtful", "carbon")
    assert quality.reasons[0] == "25% of the area is junk (at most 20%)"
    assert quality.relative_ice_thickness == pytest.approx(math.log(50 / 40), abs=0.03)
    assert quality.pick_density == pytest.approx(60 * 30**2 / (0.75 * 600 * 800), rel=0.02)
    assert quality.clumping == pytest.approx(1.0, abs=0.25)
    again = assess(
        document, document.picks, PixelMeasures.of(quality), usual_of(60), QualityRules(), estimated_precision=0.9
    )
    assert again == quality


def test_cracks_are_told_by_light_whichever_way_the_picture_is(
    make_document: Callable[..., MicrographDocument],
) -> None:
    pixels = np.random.default_rng(0).normal(100, 10, (400, 500)).astype(np.float32)
    pixels[100:200, 200:300] += 60
    document = msgspec.structs.replace(
        make_document("/w/a.mrc"),
        shape=(400, 500),
        diameter_px=20.0,
        junk=JunkArea(fraction=0.05, outlines=[SQUARE], model=MODEL),
    )
    dark = measure(pixels, document, Optics()).junk_brightness
    bright = measure(pixels, document, Optics(), thinner_is_brighter=False).junk_brightness
    assert dark is not None
    assert bright is not None
    assert dark > 5
    assert bright == -dark


@given(
    usable=st.floats(0, 1),
    junk=st.floats(0, 1),
    picks=st.integers(0, 10_000),
    ice=st.none() | st.floats(0, 20),
    resolution=st.none() | st.floats(2, 100),
)
def test_whatever_is_measured_has_a_grade_and_a_reason_unless_it_is_good(
    usable: float, junk: float, picks: int, ice: float | None, resolution: float | None
) -> None:
    fit = msgspec.structs.replace(FIT, resolution_angstrom=resolution)
    graded(picks=picks, usable_fraction=usable, junk_fraction=junk, relative_ice_thickness=ice, ctf=fit)
