"""Thumbnails: small pictures that are kept beside the ledger, up to a number of bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from frazil.picking import Micrograph, make_picture
from frazil.session.outbox.thumbnails import Thumbnails, make_thumbnail


def test_the_newest_are_kept_and_the_oldest_make_room(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path / "ledger.sqlite", most_bytes=1000)
    for k in range(30):
        thumbnails.keep(f"m{k}.mrc", bytes([k]) * 100)
    kept = [k for k in range(30) if thumbnails.find(f"m{k}.mrc") is not None]
    assert 5 <= len(kept) <= 10
    assert kept == list(range(30 - len(kept), 30))
    assert thumbnails.find("m29.mrc") == bytes([29]) * 100
    thumbnails.close()
    again = Thumbnails(tmp_path / "ledger.sqlite", most_bytes=1000)
    assert again.find("m29.mrc") == bytes([29]) * 100


def test_a_newer_one_of_the_same_micrograph_takes_the_place_of_the_older(tmp_path: Path) -> None:
    here, there = Thumbnails(tmp_path / "ledger.sqlite"), Thumbnails(tmp_path / "ledger.sqlite")
    here.keep("a.mrc", b"old")
    assert there.find("a.mrc") == b"old"
    here.keep("a.mrc", b"new")
    assert there.find("a.mrc") == b"new"
    assert there.find("b.mrc") is None


def test_what_cannot_be_kept_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "frazil-thumbnails.sqlite").write_bytes(b"no database" * 1000)
    thumbnails = Thumbnails(tmp_path / "ledger.sqlite")
    thumbnails.keep("a.mrc", b"picture")
    assert thumbnails.find("a.mrc") is None
    nowhere = Thumbnails(tmp_path / "missing" / "ledger.sqlite")
    nowhere.keep("a.mrc", b"picture")
    assert nowhere.find("a.mrc") is None


def test_only_the_daemons_user_reads_them(tmp_path: Path) -> None:
    Thumbnails(tmp_path / "ledger.sqlite").keep("a.mrc", b"picture")
    file = tmp_path / "frazil-thumbnails.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM thumbnails").fetchone() == (1,)


def test_a_thumbnail_looks_as_the_file_does_whichever_way_the_model_sees_it(make_scene: Callable[..., object]) -> None:
    scene = make_scene((600, 900), 40.0, count=6, seed=2)
    micrograph = Micrograph(path=Path("a.mrc"), pixels=scene.pixels, pixel_size_angstrom=1.0)
    small = {}
    for inverted in (False, True):
        picture = make_picture(
            micrograph,
            diameter_angstrom=40.0,
            pixel_size_angstrom=None,
            model_diameter_px=20.0,
            normalisation="flat-01",
            invert=inverted,
        )
        made = make_thumbnail(picture, inverted=inverted)
        small[inverted] = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)
    assert small[False].shape == (213, 320)
    assert np.abs(small[False] - small[True]).mean() < 3
    y, x = (np.rint(places * 320 / 900).astype(int) for places in (scene.truth.y, scene.truth.x))
    assert small[False][y, x].mean() + 40 < small[False].mean()  # particles are dark
