"""Networks of windows score whole tiles: on real micrographs they pick what they pick window by window."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from frazil.model import load_model
from frazil.picking import Micrograph, Picker, PickingSettings


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("folder", "pixel_size_angstrom", "diameter_angstrom"),
    [("beta-galactosidase", 1.77, 191), ("apoferritin", 1.5, 117)],
)
def test_whole_tiles_give_the_picks_of_windows(
    repository: Path, shared_data: Path, name: str, folder: str, pixel_size_angstrom: float, diameter_angstrom: float
) -> None:
    file = min((shared_data / folder / "micrographs").iterdir())
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    micrograph = Micrograph(path=file, pixels=pixels, pixel_size_angstrom=pixel_size_angstrom)
    model = load_model(repository / "exported_models" / name, "cpu", 2)
    picker = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
    picture = picker.prepare(micrograph)
    whole = picker.score(picture)
    model.largest_tile_pixels = 1  # tiles of one window each
    windows = picker.plan(picture)
    assert windows is not None
    assert windows.tile_shape == (40, 40)
    assert windows.count == whole.scores.size
    one_by_one = picker.score(picture)
    np.testing.assert_allclose(whole.scores, one_by_one.scores, rtol=0, atol=2e-5)
    found, expected = picker.find(whole, picture), picker.find(one_by_one, picture)
    assert len(found) == len(expected) > 100
    np.testing.assert_allclose(np.sort(found.y), np.sort(expected.y), atol=0.01)
    np.testing.assert_allclose(np.sort(found.x), np.sort(expected.x), atol=0.01)
