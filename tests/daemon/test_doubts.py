"""Doubts: what the micrographs say against the settings is said once, and only where it is so."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import MicrographError, SettingsError
from frazil.file_picker import FilePicker
from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH
from frazil.micrograph_names import Named
from frazil.model import Contrast, Model, load_model
from frazil.model.contract import read_calibration
from frazil.picking import (
    ContrastEvidence,
    Micrograph,
    Picker,
    PickingSettings,
    Picks,
    choose_threshold,
    find_low_peaks,
    read_micrograph,
    weigh_contrast,
)
from frazil.record import Record, record_picks
from frazil.session.pick.doubts import Doubts
from frazil.settings import default_model_path, doubt_diameter, load_settings

KNOWN = read_micrograph(KNOWN_MICROGRAPH)
OTHER: dict[Contrast, Contrast] = {"dark": "bright", "bright": "dark"}


@cache
def default_model() -> Model:
    return load_model(default_model_path(), "cpu", 2)


def picker(contrast: Contrast = "dark", diameter_angstrom: float = KNOWN_DIAMETER_ANGSTROM) -> Picker:
    return Picker(default_model(), PickingSettings(diameter_angstrom=diameter_angstrom, contrast=contrast))


def micrograph(pixels: np.ndarray, name: str = "a.mrc") -> Micrograph:
    pixel_size = KNOWN.pixel_size_angstrom
    return Micrograph(path=Path(name), pixels=np.asarray(pixels, np.float32), pixel_size_angstrom=pixel_size)


def record_of(picker: Picker, pixels: np.ndarray) -> Record:
    return record_picks(picker, micrograph(pixels), read_seconds=0, since=0)


def evidence(picker: Picker, read: Micrograph) -> ContrastEvidence:
    picture = picker.prepare(read)
    return weigh_contrast(picker, picture, picker.score(picture))


# --- contrast ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", ["dark", "bright"])
def test_particles_that_look_the_other_way_round_speak_for_the_other_contrast(contrast: Contrast) -> None:
    as_set = KNOWN.pixels if contrast == "dark" else -KNOWN.pixels
    serving = picker(contrast)
    assert not evidence(serving, micrograph(as_set)).speaks_for_other
    other = evidence(serving, micrograph(-as_set))
    assert other.speaks_for_other
    assert other.other_picks > 300


@pytest.mark.parametrize(
    ("folder", "diameter_angstrom"),
    [("apoferritin", 117), ("ribosome-80s", 300), ("trpv1", 160), ("beta-galactosidase", 191)],
)
def test_real_micrographs_raise_no_false_doubt_and_inverted_ones_do(
    request: pytest.FixtureRequest, real_micrographs: Path, folder: str, diameter_angstrom: float
) -> None:
    dark, bright = picker("dark", diameter_angstrom), picker("bright", diameter_angstrom)
    files = sorted((real_micrographs / folder).glob("*.mrc"))
    for file in files if request.config.getoption("--long") else files[:1]:
        read = read_micrograph(file, as_stored=True)
        assert not evidence(dark, read).speaks_for_other
        assert evidence(bright, read).speaks_for_other


@pytest.mark.parametrize("seed", range(2))
def test_noise_speaks_for_nothing(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 8, KNOWN.pixels.shape)
    assert not evidence(picker(), micrograph(noise)).speaks_for_other


def test_the_doubt_is_said_once_shown_in_the_metrics_and_on_the_page() -> None:
    serving, doubts = picker(), Doubts("dark")
    said = []
    for _ in range(3):
        assert doubts.note(record_of(serving, -KNOWN.pixels)) == []
        assert not doubts.is_due(is_idle=False)
        assert doubts.is_due(is_idle=True)
        said += doubts.weigh(serving)
        assert not doubts.is_due(is_idle=True)
    (line,) = said
    assert re.match(r"particles look bright here, and contrast is dark: 3\d\d picks instead of \d+ ", line)
    assert doubts.state == {"contrast"}


def test_while_others_wait_the_tenth_micrograph_is_weighed_and_no_other(blob_model: Path) -> None:
    serving = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=172))
    record = record_of(serving, KNOWN.pixels)
    doubts, weighed_at = Doubts("dark"), []
    for number in range(1, 40):
        doubts.note(record)
        if doubts.is_due(is_idle=False):
            doubts.weigh(serving)
            weighed_at.append(number)
    assert weighed_at == [10]


def test_few_of_the_first_micrographs_are_weighed(blob_model: Path) -> None:
    serving = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=172, threshold=0.01))
    record = record_of(serving, KNOWN.pixels)
    doubts, weighed = Doubts("dark"), 0
    for _ in range(20):
        doubts.note(record)
        if doubts.is_due(is_idle=True):
            doubts.weigh(serving)
            weighed += 1
    assert weighed == 5


def test_what_another_model_picked_is_not_weighed(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    models = [load_model(make_blob_model(tmp_path / str(bias), bias=bias), "cpu", 1) for bias in (-6.0, -5.0)]
    before, after = (Picker(model, PickingSettings(diameter_angstrom=172)) for model in models)
    doubts = Doubts("bright")
    doubts.note(record_of(before, KNOWN.pixels))
    assert doubts.weigh(after) == []


# --- blank parts, diameter, no picks ----------------------------------------------------------------------------------


def test_much_that_is_blank_is_said_once_and_shown_while_it_is_so() -> None:
    serving, doubts = picker(), Doubts("dark")
    padded = np.pad(KNOWN.pixels.astype(np.float32), ((0, 300), (0, 0)))
    assert doubts.note(record_of(serving, padded)) == ["a.mrc: 34% of it holds no data; nothing is picked there"]
    assert doubts.state == {"blank"}
    assert doubts.note(record_of(serving, padded)) == []
    assert doubts.note(record_of(serving, KNOWN.pixels)) == []
    assert doubts.state == frozenset()


def test_a_diameter_of_which_few_fit_is_told_at_once_and_an_honest_one_with_picks_is_not(blob_model: Path) -> None:
    model = load_model(blob_model, "cpu", 1)
    absurd = Picker(model, PickingSettings(diameter_angstrom=1910))
    doubts = Doubts("dark")
    (line,) = doubts.note(record_of(absurd, np.random.default_rng(0).normal(0, 1, KNOWN.pixels.shape)))
    assert line == "a.mrc: a particle of 1910 Å is 269.8 px, and 2.1 of them fit across: is the diameter right, in Å?"
    rows, columns = np.mgrid[:576, :768]
    virus = np.random.default_rng(0).normal(0, 1, KNOWN.pixels.shape)
    virus[np.hypot(rows - 288, columns - 384) < 135] -= 3
    record = record_of(absurd, virus)
    assert len(record.picks) > 0
    assert Doubts("dark", report_no_picks=True).note(record) == []


@pytest.mark.parametrize("report_no_picks", [True, False])
def test_pick_is_not_silent_when_it_finds_nothing(report_no_picks: bool) -> None:
    settings = PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM, contrast="bright", threshold=1.0)
    doubts = Doubts("bright", report_no_picks=report_no_picks)
    empty = record_of(Picker(default_model(), settings), KNOWN.pixels)
    assert len(empty.picks) == 0
    said = [line for _ in range(3) for line in doubts.note(empty)]
    assert len(said) == report_no_picks
    assert all(line.startswith("no picks so far: are diameter (a particle of 172 Å is 24.29 px)") for line in said)


@given(st.floats(30, 10_000))
def test_no_real_particle_s_diameter_is_doubted(angstrom: float) -> None:
    assert doubt_diameter(angstrom) is None


@given(st.floats(0.01, 29.9) | st.floats(10_001, 1e5))
def test_what_no_particle_has_is_doubted(angstrom: float) -> None:
    doubt = doubt_diameter(angstrom)
    assert doubt is not None
    assert doubt.startswith("expected 30 to 10000 Å, found ")


def test_nanometres_are_refused_by_the_daemon_and_what_they_are_in_angstrom_is_said(tmp_path: Path) -> None:
    needed = {"watch": tmp_path, "out": tmp_path / "out"}
    with pytest.raises(SettingsError, match=r"found 19\.1 Å; for 19\.1 nm, give 191 \(unusual_diameter accepts"):
        load_settings({**needed, "diameter_angstrom": 19.1}, None)
    assert (
        load_settings({**needed, "diameter_angstrom": 19.1, "unusual_diameter": True}, None).diameter_angstrom == 19.1
    )


def test_pick_refuses_nanometres_before_it_costs_and_takes_them_if_told_to(tmp_path: Path, blob_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"--diameter: .* for 19\.1 nm, give 191"):
        FilePicker(PickingSettings(diameter_angstrom=19.1), out=tmp_path / "out", model=tmp_path / "is never looked at")
    assert not (tmp_path / "out").exists()
    settings = PickingSettings(diameter_angstrom=19.1, pixel_size_angstrom=1.0, unusual_diameter=True)
    insists = FilePicker(settings, out=tmp_path, model=blob_model)
    file = tmp_path / "a.mrc"
    with mrcfile.new(file) as mrc:
        mrc.set_data(np.random.default_rng(0).normal(0, 1, (200, 300)).astype(np.float32))
    assert insists.pick(Named(file, file.name)).document.diameter_px == pytest.approx(19.1)


@pytest.mark.parametrize(("answer", "status"), [("n", 78), ("y", 0)])
def test_pick_asks_whoever_sits_at_a_terminal(blob_model: Path, tmp_path: Path, answer: str, status: int) -> None:
    ours, theirs = pty.openpty()
    command = [
        Path(sys.executable).parent / "frazil",
        "pick",
        KNOWN_MICROGRAPH,
        "--model",
        blob_model,
        "--pixel-size",
        "1",
    ]
    command += ["--diameter", "19.1", "--out", tmp_path]
    with os.fdopen(theirs, "r+b", buffering=0) as terminal, os.fdopen(ours, "r+b", buffering=0) as keyboard:
        running = subprocess.Popen(command, stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL)
        shown = b""
        while b"[y/N]" not in shown:
            shown += keyboard.read(1000)
        assert "found 19.1 Å; for 19.1 nm, give 191. Pick with it nevertheless?" in shown.decode()
        keyboard.write(f"{answer}\n".encode())
        assert running.wait(60) == status


def test_a_picture_larger_than_any_of_particles_is_refused_before_it_is_made(blob_model: Path) -> None:
    model = load_model(blob_model, "cpu", 1)
    large = Micrograph(
        path=Path("a.mrc"), pixels=np.broadcast_to(np.float32(0), (30_000, 30_000)), pixel_size_angstrom=1.0
    )
    with pytest.raises(
        MicrographError, match=r"at most 67108864 pixels, found 40\.0 px .* one of 12000 x 12000"
    ) as told:
        Picker(model, PickingSettings(diameter_angstrom=40)).prepare(large)
    assert told.value.reason == "diameter"


def picks_at_the_chosen_threshold(model: Model, read: Micrograph, *, diameter_angstrom: float) -> Picks:
    """As `frazil pick` makes them of one micrograph."""
    serving = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
    picture = serving.prepare(read)
    peaks = find_low_peaks(serving.score(picture), serving.limits, picture.pixel_size_angstrom)
    contract, seen = model.contract, peaks.score.astype(np.float32)
    choice = choose_threshold([seen], contract.threshold, calibration=read_calibration(contract.calibration))
    return peaks.select(peaks.reaching(choice.threshold))


def test_pure_noise_is_not_full_of_particles_at_the_smallest_diameter() -> None:
    noise = np.random.default_rng(0).normal(500, 30, (512, 512)).astype(np.float32)
    read = Micrograph(path=Path("a.mrc"), pixels=noise, pixel_size_angstrom=1.0)
    assert len(picks_at_the_chosen_threshold(default_model(), read, diameter_angstrom=9.0)) < 10
    with pytest.raises(MicrographError, match=r"expected a particle of 9 to 512 px, found 8\.2 px"):
        Picker(default_model(), PickingSettings(diameter_angstrom=8.2)).pick(read)
