"""One picture, saved in each format, is one micrograph: not square, unlike any turned or mirrored copy."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from frazil.picking import MICROGRAPH_ENDINGS, check_complete, micrograph_stem, read_micrograph

# Row 0 of an MRC is the bottom of the picture; the mark stands at the bottom left, in row 1 and column 2.
GOLDEN = np.add.outer(np.arange(5), np.zeros(9)).astype(np.float32)
GOLDEN[1, 2] = 100


@pytest.mark.parametrize("ending", MICROGRAPH_ENDINGS)
def test_one_picture_has_one_set_of_coordinates_in_every_format(
    tmp_path: Path, write_mrc: Callable[..., Path], ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    mrc = write_mrc(tmp_path / "source.mrc", GOLDEN, 1.5).read_bytes()
    match ending:
        case ".mrc":
            path.write_bytes(mrc)
        case ".mrc.gz":
            path.write_bytes(gzip.compress(mrc))
        case ".mrc.bz2":
            path.write_bytes(bz2.compress(mrc))
        case _:  # the first row of a TIFF is the top of the picture
            per_cm = 1e8 / 1.5
            tifffile.imwrite(path, GOLDEN[::-1], resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    check_complete(path)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.pixels, GOLDEN)
    assert np.unravel_index(micrograph.pixels.argmax(), micrograph.pixels.shape) == (1, 2)
    assert micrograph.pixel_size_angstrom == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "stem"), [("a.b.mrc", "a.b"), ("a.MRC.GZ", "a"), ("a.mrc.bz2", "a"), ("a.Tiff", "a"), ("a.gz", "a")]
)
def test_a_stem_is_the_name_without_its_whole_ending(name: str, stem: str) -> None:
    assert micrograph_stem(name) == stem
