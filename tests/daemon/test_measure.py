"""The diameter that some micrographs show."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from frazil.errors import FrazilError, MicrographError
from frazil.model import Model, load_model
from frazil.picking import (
    TRIED_ANGSTROM,
    DiameterEstimate,
    Micrograph,
    TriedDiameter,
    draw_curve,
    estimate_diameter,
    read_micrograph,
    try_diameters,
)
from frazil.settings import default_model_path

BIN = Path(sys.executable).parent
Write = Callable[..., Path]
STATED_ANGSTROM = {"beta-galactosidase": 191, "apoferritin": 117, "ribosome-80s": 300, "trpv1": 161}


@pytest.fixture(scope="module")
def fcn() -> Model:
    return load_model(default_model_path(), "cpu", 1)


def balls(diameter_px: float, shape: tuple[int, int] = (400, 520), *, sign: float = -1.0, seed: int = 1) -> NDArray:
    """(h, w) dark balls in noise, without their coarsest structure, as defocus shows them: with a bright ring."""
    rng = np.random.default_rng(seed)
    h, w = shape
    signal = np.zeros(shape, np.float32)
    rows, columns = np.mgrid[:h, :w]
    step = 1.7 * diameter_px
    for y, x in itertools.product(np.arange(step / 2, h, step), np.arange(step / 2, w, step)):
        r = np.hypot(rows - y - rng.uniform(-0.2, 0.2) * step, columns - x - rng.uniform(-0.2, 0.2) * step)
        signal += np.sqrt(np.clip(1 - (2 * r / diameter_px) ** 2, 0, None)).astype(np.float32)
    signal -= cv2.GaussianBlur(signal, (0, 0), diameter_px / 8)
    return (100 + sign * 25 * signal + rng.normal(0, 8, shape)).astype(np.float32)


def as_micrograph(pixels: NDArray, pixel_size: float | None) -> Micrograph:
    return Micrograph(path=Path("balls.mrc"), pixels=pixels, pixel_size_angstrom=pixel_size)


def around(diameter: float, factor: float = 1.7) -> list[float]:
    """Of the diameters that are tried, those not too far from one: quicker than all."""
    return [tried for tried in TRIED_ANGSTROM if 1 / factor < tried / diameter < factor]


def test_balls_are_measured_at_any_size(fcn: Model) -> None:
    """Solid balls come out a tenth too large, or more: molecules have gaps."""
    ratios = []
    for diameter, diameter_px in ((110, 22), (200, 18), (420, 30)):
        micrograph = as_micrograph(balls(diameter_px), diameter / diameter_px)
        best = estimate_diameter(try_diameters(micrograph, fcn, diameters_angstrom=around(diameter))).best
        assert best.ring_angstrom is not None
        assert best.ring_angstrom == pytest.approx(1.15 * diameter, rel=0.1)
        assert not best.is_at_end
        ratios.append(best.diameter_angstrom / diameter)
    assert all(1.0 < ratio < 1.25 for ratio in ratios), ratios
    assert max(ratios) < 1.15 * min(ratios)


def test_bright_particles_are_measured_as_dark_ones_are(fcn: Model) -> None:
    dark, bright = (as_micrograph(balls(16, sign=sign, seed=3), 11.0) for sign in (-1, 1))
    scales = around(200, 1.3)
    as_dark = estimate_diameter(try_diameters(dark, fcn, diameters_angstrom=scales))
    as_bright = estimate_diameter(try_diameters(bright, fcn, contrast="bright", diameters_angstrom=scales))
    assert as_bright.best.diameter_angstrom == pytest.approx(as_dark.best.diameter_angstrom, rel=0.05)
    wrong = estimate_diameter(try_diameters(bright, fcn, diameters_angstrom=scales))
    assert wrong.best.value < 0.8 * as_bright.best.value


def test_the_pixel_size_that_is_given_beats_the_headers(fcn: Model) -> None:
    pixels = balls(20)
    by_header = try_diameters(as_micrograph(pixels, 8.0), fcn, diameters_angstrom=[160.0])
    given = try_diameters(as_micrograph(pixels, 1.5), fcn, pixel_size_angstrom=8.0, diameters_angstrom=[160.0])
    np.testing.assert_array_equal(by_header[0].scores, given[0].scores)
    with pytest.raises(MicrographError, match=r"balls\.mrc: expected a pixel size .* --pixel-size"):
        try_diameters(as_micrograph(pixels, None), fcn)


def test_diameters_that_a_micrograph_cannot_show_are_left_out(fcn: Model) -> None:
    micrograph = as_micrograph(balls(20, (200, 240)), 8.0)
    calls: list[None] = []
    tried = try_diameters(
        micrograph, fcn, diameters_angstrom=[60.0, 160.0, 2000.0], progress=lambda: calls.append(None)
    )
    assert [one.diameter_angstrom for one in tried] == [160.0]
    assert len(calls) == 3
    with pytest.raises(MicrographError, match=r"expected a particle of 9 to 200 px, found 7\.5 px"):
        try_diameters(micrograph, fcn, diameters_angstrom=[60.0])


# --- from what was tried to the estimate -----------------------------------------------------------------------------


def tried(diameter: float, score: float, ring_px: float = 13.0, room: float = 400.0) -> TriedDiameter:
    """Picks that all have one score, and a ring at one radius (in pixels of a picture with 24 a diameter)."""
    radii = np.arange(20)
    profile = np.where(radii < ring_px, 1 - radii / (ring_px - 3), -0.3 + 0.05 * np.abs(radii - ring_px))
    return TriedDiameter(
        diameter_angstrom=diameter,
        room=room,
        scores=np.full(60, score),
        profiles=np.tile(profile.astype(np.float32), (60, 1)),
        radius_angstrom=diameter / 24,
    )


def hill(*scores: float, **options: float) -> list[TriedDiameter]:
    return [tried(100 * 1.2**i, score, **options) for i, score in enumerate(scores)]


def test_the_estimate_lies_between_the_surest_diameter_and_the_ring() -> None:
    estimate = estimate_diameter(hill(0.3, 0.5, 0.7, 0.5, 0.3))
    best = estimate.best
    assert best.tried_angstrom == pytest.approx(144)
    assert best.surest_angstrom == pytest.approx(144 / 1.1)
    assert best.ring_angstrom == pytest.approx(144 * 26 / 24, rel=0.05)
    assert best.diameter_angstrom**2 == pytest.approx(best.surest_angstrom * best.ring_angstrom)
    assert best.low_angstrom == pytest.approx(best.surest_angstrom / 1.1)
    assert best.high_angstrom == pytest.approx(best.ring_angstrom * 1.1, rel=0.01)
    assert [diameter for diameter, _ in estimate.curve] == pytest.approx([100, 120, 144, 172.8, 207.36])
    assert estimate.doubt is None


def test_a_peak_between_two_tried_diameters_is_found_there() -> None:
    middle = estimate_diameter(hill(0.3, 0.5, 0.6, 0.6, 0.5)).best.surest_angstrom
    assert middle == pytest.approx(144 * 1.2**0.5 / 1.1, rel=1e-3)


def test_several_peaks_come_best_first_and_a_near_rival_is_a_doubt() -> None:
    estimate = estimate_diameter(hill(0.3, 0.68, 0.3, 0.7, 0.3))
    assert [peak.tried_angstrom for peak in estimate.peaks] == pytest.approx([172.8, 120])
    assert estimate.doubt is not None
    assert "nearly as likely" in estimate.doubt


@pytest.mark.parametrize(("scores", "says"), [((0.3, 0.4, 0.5, 0.6), "no peak"), ((0.1, 0.2, 0.3, 0.2), "sure")])
def test_a_curve_without_a_clear_peak_is_a_doubt(scores: tuple[float, ...], says: str) -> None:
    estimate = estimate_diameter(hill(*scores))
    assert estimate.doubt is not None
    assert says in estimate.doubt
    assert estimate.best.is_at_end == (says == "no peak")


def test_without_a_ring_the_scores_alone_are_taken() -> None:
    best = estimate_diameter(hill(0.3, 0.7, 0.3, ring_px=40.0)).best
    assert best.ring_angstrom is None
    assert best.diameter_angstrom == best.surest_angstrom


def test_the_same_is_measured_in_whatever_order_micrographs_come() -> None:
    first, second = hill(0.3, 0.5, 0.7, 0.5), hill(0.2, 0.6, 0.65, 0.5)
    assert estimate_diameter(first + second) == estimate_diameter(second[::-1] + first[::-1])


def test_a_few_large_ice_crystals_do_not_outweigh_many_particles() -> None:
    particles = hill(0.3, 0.5, 0.6, 0.5, 0.4, 0.4, 0.4)
    rng = np.random.default_rng(2)
    crystals = [tried(100 * 1.2**i, 0.0, room=60.0) for i in range(7)]
    few = [
        *particles[:5],
        *(TriedDiameter(**{**_fields(one), "scores": rng.uniform(0.3, 1, 6)}) for one in crystals[5:]),
    ]
    assert estimate_diameter(few).best.tried_angstrom == pytest.approx(144)


def _fields(one: TriedDiameter) -> dict[str, object]:
    return {name: getattr(one, name) for name in TriedDiameter.__dataclass_fields__}


def test_too_little_room_is_said() -> None:
    with pytest.raises(FrazilError, match=r"room for 60 particles .* found room for those of 2; give more micrographs"):
        estimate_diameter([*hill(0.3, 0.5), *hill(0.3, 0.5, 0.4, room=20.0)[2:]])


def test_the_curve_is_drawn_over_its_whole_width() -> None:
    picture = draw_curve([(60, 0.1), (120, 0.9), (240, 0.1)], (100, 150), (200, 300))
    assert picture.shape == (200, 300, 3)
    yellow = (picture[..., 2] > 200) & (picture[..., 0] < 120)
    columns = np.flatnonzero(yellow.any(axis=0))
    assert columns.min() <= 42
    assert columns.max() >= 258
    highest = np.flatnonzero(yellow.any(axis=1)).min()
    assert abs(np.flatnonzero(yellow[highest]).mean() - 150) < 10


# --- the command ------------------------------------------------------------------------------------------------------


def frazil(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "frazil"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def micrograph(tmp_path_factory: pytest.TempPathFactory, write_mrc: Write) -> Path:
    """Balls of 200 Å in a small field."""
    return write_mrc(tmp_path_factory.mktemp("measure") / "balls.mrc", balls(16, (400, 440)), 12.5)


def test_measure_prints_json_writes_a_picture_and_passes_over_what_it_cannot_read(
    micrograph: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(b"no picture " * 200)
    done = frazil("measure", micrograph, bad, "--json", "--threads", 1, "--picture", tmp_path / "curve.png")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("frazil: error: ")]
    assert str(bad) in error
    assert "expected an MRC file" in error
    found = json.loads(done.stdout)
    assert found["low_angstrom"] < found["diameter_angstrom"] < found["high_angstrom"]
    assert found["diameter_angstrom"] == pytest.approx(200, rel=0.25)
    assert found["micrographs"] == 1
    assert all(len(point) == 2 for point in found["curve"])
    assert cv2.imread(str(tmp_path / "curve.png")).shape[1] > 1000


def test_measure_shows_the_curve_and_what_to_type_next(micrograph: Path) -> None:
    done = frazil("measure", micrograph, "--threads", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("█" in line for line in lines) >= 5
    assert sum("← surest" in line for line in lines) == 1
    assert lines[-1].startswith("next: --diameter ")
    assert 160 < float(lines[-1].split()[-1]) < 250


def test_measure_says_what_is_missing(micrograph: Path, tmp_path: Path, write_mrc: Write) -> None:
    unknown = write_mrc(tmp_path / "unknown.mrc", np.random.default_rng(0).random((64, 64)).astype(np.float32), 1.0)
    for arguments, says in (
        ((unknown,), "give it with --pixel-size"),
        ((tmp_path / "none.mrc",), "No such file"),
        ((micrograph, "--model", tmp_path), str(tmp_path)),
        ((write_mrc(tmp_path / "small.mrc", balls(16, (80, 90)), 12.5),), "give more micrographs"),
    ):
        done = frazil("measure", *arguments, "--threads", 1)
        assert done.returncode == 1
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("frazil: error: ")]
        assert says in error
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert frazil("measure").returncode == 2


# --- real micrographs -------------------------------------------------------------------------------------------------


def test_real_proteins_are_measured_within_a_fifth(fcn: Model, real_micrographs: Path, is_long: bool) -> None:
    found: dict[str, DiameterEstimate] = {}
    for name, stated in STATED_ANGSTROM.items():
        files = sorted((real_micrographs / name).glob("*.mrc"))[: 3 if is_long else 1]
        scales = TRIED_ANGSTROM if is_long else around(stated)
        found[name] = estimate_diameter(
            one
            for file in files
            for one in try_diameters(read_micrograph(file, as_stored=True), fcn, diameters_angstrom=scales)
        )
    ratios = {name: found[name].best.diameter_angstrom / stated for name, stated in STATED_ANGSTROM.items()}
    assert all(1 / 1.2 < ratio < 1.2 for ratio in ratios.values()), ratios
