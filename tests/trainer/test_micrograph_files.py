"""Pictures as micrographs: row 0 first, one grey channel, whole."""

from pathlib import Path

import cv2
import mrcfile
import numpy as np
import pytest

from frazil.errors import FrazilError, MicrographError
from frazil_trainer.data.labelled import MICROGRAPH_ENDINGS, find_micrographs, read_micrograph_file

# 6 rows, 10 columns, no two pixels the same.
GOLDEN = np.arange(60).reshape(6, 10)


def write(path: Path, pixels: np.ndarray, *options: int) -> Path:
    assert cv2.imwrite(str(path), pixels, options)
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint8),
        ("a.png", np.uint16),
    ],
)
def test_lossless_pictures_give_their_pixels_with_row_0_first(tmp_path, name, dtype):
    path = write(tmp_path / name, GOLDEN.astype(dtype))
    micrograph = read_micrograph_file(path)
    assert micrograph.pixels.dtype == np.float32
    assert micrograph.pixel_size_angstrom is None
    assert micrograph.path == path
    np.testing.assert_array_equal(micrograph.pixels, GOLDEN)


@pytest.mark.parametrize(("name", "dtype"), [("a.tif", np.uint8), ("a.TIFF", np.uint16), ("a.tif", np.float32)])
def test_tiff_is_read_as_the_daemon_reads_it_last_row_first(tmp_path, name, dtype):
    path = write(tmp_path / name, GOLDEN.astype(dtype))
    np.testing.assert_array_equal(read_micrograph_file(path).pixels, GOLDEN[::-1])


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_jpeg_gives_its_pixels_with_row_0_first(tmp_path, name):
    smooth = np.add.outer(np.linspace(10, 100, 60), np.linspace(0, 120, 100))
    pixels = read_micrograph_file(write(tmp_path / name, smooth.astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 95)).pixels
    np.testing.assert_allclose(pixels, smooth, atol=5)


def test_mrc_is_read_as_the_daemon_reads_it(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(GOLDEN.astype(np.float32))
        mrc.voxel_size = 2.5
    micrograph = read_micrograph_file(tmp_path / "a.mrc")
    np.testing.assert_array_equal(micrograph.pixels, GOLDEN)
    assert micrograph.pixel_size_angstrom == 2.5


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_picture_stored_in_colour_is_taken_and_a_coloured_one_refused(tmp_path, channels):
    image = np.repeat(GOLDEN[..., None], channels, axis=2).astype(np.uint8)
    if channels == 4:
        image[..., 3] = 255
    np.testing.assert_array_equal(read_micrograph_file(write(tmp_path / "a.png", image)).pixels, GOLDEN)
    image[3, 4, 2] += 1
    with pytest.raises(MicrographError, match=r"a\.png: expected a grey picture, found colours"):
        read_micrograph_file(write(tmp_path / "a.png", image))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg"])
def test_picture_cut_short_is_refused_without_a_word_from_opencv(tmp_path, capfd, ending):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300)).astype(np.uint8)
    path = write(tmp_path / f"a{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MicrographError, match="expected a whole image"):
        read_micrograph_file(path)
    assert "OpenCV" not in capfd.readouterr().err


def test_movie_is_refused(tmp_path):
    frames = [GOLDEN.astype(np.uint8)] * 3
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), frames)
    with pytest.raises(MicrographError, match="expected one image, found a movie of 3 frames"):
        read_micrograph_file(tmp_path / "a.tif")


def test_pixels_that_are_not_finite_or_all_the_same_are_refused(tmp_path):
    pixels = GOLDEN.astype(np.float32)
    pixels[2, 3] = np.nan
    with pytest.raises(MicrographError, match="expected finite pixels"):
        read_micrograph_file(write(tmp_path / "a.tif", pixels))
    with pytest.raises(MicrographError, match="found every pixel equal to 7"):
        read_micrograph_file(write(tmp_path / "a.png", np.full((5, 6), 7, np.uint8)))


@pytest.mark.parametrize("ending", MICROGRAPH_ENDINGS)
def test_missing_file_and_text_are_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    with pytest.raises(MicrographError, match="No such file"):
        read_micrograph_file(path)
    path.write_text("no image" * 200)
    with pytest.raises(MicrographError, match=f"a{ending}: expected"):
        read_micrograph_file(path)


def test_one_micrograph_is_found_for_each_stem_the_mrc_first(tmp_path):
    for name in ("b.png", "b.mrc", "a.jpg", "a.TIF", "c.d.jpeg", "c.star", "c.txt", "simulation.json"):
        (tmp_path / name).touch()
    assert [path.name for path in find_micrographs(tmp_path)] == ["a.TIF", "b.mrc", "c.d.jpeg"]


def test_two_files_of_one_stem_are_refused_by_name_unless_they_are_formats_of_one_picture(tmp_path):
    for name in ("a.mrc", "a.tif", "b.MRC"):
        (tmp_path / name).touch()
    assert [path.name for path in find_micrographs(tmp_path)] == ["a.mrc", "b.MRC"]
    (tmp_path / "b.mrc").touch()
    with pytest.raises(FrazilError, match=r"b stands for b\.MRC and b\.mrc; keep one"):
        find_micrographs(tmp_path)
