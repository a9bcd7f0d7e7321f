"""The model that finds junk: loaded, replaced by the promoted one, refused with words; picking never stops for it."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from frazil.documents import JunkArea
from frazil.model import load_model
from frazil.picking import Micrograph, Picker, PickingSettings
from frazil.session.models import Models
from frazil.session.pick.junk_model import JunkModel
from frazil.session.pick.model_changes import ModelChange


class Rig:
    """A daemon, as far as its junk goes; each look is made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = threading.Event()
        self.said: list[ModelChange] = []
        self.junk = JunkModel(
            folder,
            Models(lambda path, _: load_model(path, "cpu", 1, finds="junk")),
            check_seconds=60.0,
            threads=1,
            stop=self.stop,
        )

    def load(self) -> None:
        """Load the first one, and keep its thread from looking by itself."""
        self.junk._run = lambda: None  # type: ignore[method-assign]
        self.junk.load()
        self.junk.join("", self.said.append)

    def promote(self, version: int) -> None:
        current = self.folder / "CURRENT.new"
        current.write_text(f"{version}\n")
        current.replace(self.folder / "CURRENT")
        self.junk._look()

    @property
    def serves(self) -> int | None:
        state = self.junk.state
        return None if state is None else state.version


@pytest.fixture
def open_junk() -> Iterator[Callable[[Path], Rig]]:
    rigs: list[Rig] = []

    def start(folder: Path) -> Rig:
        rigs.append(Rig(folder))
        rigs[-1].load()
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.stop.set()


@pytest.fixture
def micrograph(make_scene: Callable[..., object]) -> Micrograph:
    pixels: NDArray[np.float32] = make_scene(seed=3).pixels.copy()  # type: ignore[attr-defined]
    pixels[40:180, 240:400] -= 120
    return Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=2.0)


def find(rig: Rig, micrograph: Micrograph, blob_model: Path) -> JunkArea | msgspec.UnsetType:
    picker = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=48))
    return rig.junk.find(micrograph, picker.prepare(micrograph), contrast="dark", picks="drop")


def test_the_promoted_model_finds_junk_and_is_replaced_by_the_next(
    open_junk: Callable[[Path], Rig],
    make_junk_model: Callable[..., Path],
    blob_model: Path,
    micrograph: Micrograph,
    tmp_path: Path,
) -> None:
    rig = open_junk(make_junk_model(tmp_path / "dark"))
    assert (rig.serves, rig.said) == (1, [])
    first = find(rig, micrograph, blob_model)
    assert isinstance(first, JunkArea)
    assert (first.model.version, first.fraction > 0.1) == (1, True)
    make_junk_model(tmp_path / "dark", 2, bias=-50.0)  # finds none
    rig.promote(2)
    assert rig.serves == 2
    assert [(one.event, one.finds, one.model.version) for one in rig.said] == [("loaded", "junk", 2)]
    second = find(rig, micrograph, blob_model)
    assert isinstance(second, JunkArea)
    assert (second.model.version, second.fraction) == (2, 0.0)
    rig.promote(1)
    rig.junk._look()
    assert [one.model.version for one in rig.said] == [2, 1]


@pytest.mark.parametrize("kind", ["picker", "damaged", "missing", "fine"])
def test_what_cannot_serve_is_refused_with_words_and_the_old_one_goes_on(
    open_junk: Callable[[Path], Rig],
    make_junk_model: Callable[..., Path],
    make_blob_model: Callable[..., Path],
    tmp_path: Path,
    kind: str,
) -> None:
    folder = make_junk_model(tmp_path / "dark")
    rig = open_junk(folder)
    if kind == "picker":
        make_blob_model(folder, 2)
    elif kind == "damaged":
        make_junk_model(folder, 2)
        (folder / "2" / "model.onnx").write_bytes(b"no model")
    elif kind == "fine":
        make_junk_model(folder, 2, diameter_px=48.0)
    rig.promote(2)
    says = {
        "picker": "expected a model that finds junk, found one that finds particles",
        "damaged": "expected sha256",
        "missing": "2",
        "fine": "at most 24 px",
    }[kind]
    assert rig.serves == 1
    (refused,) = rig.said
    assert (refused.event, refused.finds, refused.model.version) == ("refused", "junk", 2)
    assert says in refused.message
    rig.junk._look()  # it is not tried again
    assert len(rig.said) == 1


def test_a_daemon_goes_on_without_one_and_takes_it_once_it_can_serve(
    open_junk: Callable[[Path], Rig],
    make_junk_model: Callable[..., Path],
    blob_model: Path,
    micrograph: Micrograph,
    tmp_path: Path,
) -> None:
    rig = open_junk(tmp_path / "dark")
    assert rig.serves is None
    assert [(one.event, one.finds) for one in rig.said] == [("refused", "junk")]
    assert str(tmp_path / "dark") in rig.said[0].message
    assert isinstance(find(rig, micrograph, blob_model), msgspec.UnsetType)
    late: list[ModelChange] = []
    rig.junk.join("another", late.append)
    assert [one.event for one in late] == ["refused"]
    rig.junk.leave("another")
    make_junk_model(tmp_path / "dark")
    rig.junk._look()
    assert rig.serves == 1
    assert [one.event for one in rig.said] == ["refused", "loaded"]
    assert [one.event for one in late] == ["refused"]
    assert isinstance(find(rig, micrograph, blob_model), JunkArea)


def test_a_picker_in_its_place_is_refused_with_words(open_junk: Callable[[Path], Rig], blob_model: Path) -> None:
    rig = open_junk(blob_model)
    assert rig.serves is None
    assert "expected a model that finds junk, found one that finds particles" in rig.said[0].message


def test_a_model_that_fails_on_a_micrograph_costs_no_picks(
    open_junk: Callable[[Path], Rig],
    make_junk_model: Callable[..., Path],
    blob_model: Path,
    micrograph: Micrograph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = open_junk(make_junk_model(tmp_path / "dark"))

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("frazil.picking.junk.trace", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert isinstance(find(rig, micrograph, blob_model), msgspec.UnsetType)
    assert [record.message for record in caplog.records if "out of luck" in record.message] == [
        f"model {rig.junk._model.identity} cannot find junk in a.mrc: out of luck"  # type: ignore[union-attr]
    ]


def test_a_reload_tries_a_refused_one_again(make_junk_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_junk_model(tmp_path / "dark")
    good = folder / "1" / "model.onnx"
    shutil.copy(good, tmp_path / "kept.onnx")
    good.write_bytes(b"no model")
    rig = Rig(folder)
    said = threading.Event()
    rig.junk.load()
    rig.junk.join("", lambda change: said.set() if change.event == "loaded" else None)
    assert rig.serves is None
    shutil.copy(tmp_path / "kept.onnx", good)
    rig.junk.reload()
    assert said.wait(60)
    assert rig.serves == 1
    rig.stop.set()
