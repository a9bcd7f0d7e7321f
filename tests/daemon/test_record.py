"""A micrograph that is to be picked is rescaled in another thread while it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import MicrographError
from frazil.picking.rescale import Rescaling, rescale
from frazil.record import read_and_rescale

PIXELS = np.random.default_rng(0).integers(0, 200, (900, 700)).astype(np.int16)


def halve(shape: tuple[int, int], _: float | None) -> Rescaling:
    return Rescaling.for_diameter(shape, 20.0, 10.0)


def test_it_comes_as_it_is_stored_and_rescaled(tmp_path: Path, write_mrc: Callable[..., Path]) -> None:
    path = write_mrc(tmp_path / "a.mrc", PIXELS)
    seen: list[str] = []

    def look() -> bool:
        seen.extend(thread.name for thread in threading.enumerate())
        return False

    micrograph = read_and_rescale(path, halve, cut_off=look)
    np.testing.assert_array_equal(micrograph.pixels, PIXELS)
    assert micrograph.pixels.dtype == np.int16
    assert micrograph.rescaled is not None
    np.testing.assert_allclose(micrograph.rescaled.pixels, rescale(PIXELS, halve(PIXELS.shape, None)), rtol=1e-5)
    assert any(name.startswith("frazil-rescaling") for name in seen)


@pytest.mark.parametrize("given_up", [True, False])
def test_no_thread_is_left(tmp_path: Path, write_mrc: Callable[..., Path], given_up: bool) -> None:
    path = write_mrc(tmp_path / "a.mrc", PIXELS)
    if given_up:
        with pytest.raises(MicrographError, match="read_timeout_seconds"):
            read_and_rescale(path, halve, cut_off=lambda: True)
    else:
        read_and_rescale(path, halve)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frazil-rescaling")]
