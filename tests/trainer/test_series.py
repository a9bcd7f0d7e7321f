import json
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import OutputError, SettingsError
from frazil.picking import read_micrograph, read_star
from frazil_trainer.simulate import SimulationSettings, series_seed, simulate_micrograph
from frazil_trainer.simulate.series import MANIFEST_NAME, write_series

SETTINGS = SimulationSettings(shape=(96, 160), pixel_size_angstrom=6.0, model="apoferritin")


def write(folder: Path, count: int, seed: int = 3, settings: SimulationSettings = SETTINGS) -> list[Path]:
    return list(write_series(folder, settings, count=count, seed=seed))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_series_is_numbered_from_one_with_the_truth_beside_each(tmp_path):
    folder = tmp_path / "new" / "series"
    paths = write(folder, 2)
    assert paths == [folder / "simulated_0001.mrc", folder / "simulated_0002.mrc"]
    truths = [path.with_suffix(".star") for path in paths]
    assert set(folder.iterdir()) == {folder / MANIFEST_NAME, *paths, *truths}


def test_files_hold_the_micrographs_of_the_series(tmp_path):
    for index, path in enumerate(write(tmp_path, 2)):
        simulated = simulate_micrograph(SETTINGS, series_seed(3, index))
        micrograph, truth = read_micrograph(path), read_star(path.with_suffix(".star"))
        np.testing.assert_array_equal(micrograph.pixels, simulated.pixels)
        assert micrograph.pixel_size_angstrom == pytest.approx(6.0)
        np.testing.assert_allclose(truth.y, simulated.truth.y, atol=1e-3)
        np.testing.assert_allclose(truth.x, simulated.truth.x, atol=1e-3)


def test_truth_is_there_when_a_micrograph_is(tmp_path):
    for path in write_series(tmp_path, SETTINGS, count=2, seed=3):
        assert path.is_file()
        assert path.with_suffix(".star").is_file()
        assert not path.with_name(f"simulated_{int(path.stem[-4:]) + 1:04d}.mrc").exists()


def test_series_goes_on_where_it_stopped_and_rewrites_nothing(tmp_path):
    write(tmp_path, 2)
    before = content(tmp_path)
    paths = write(tmp_path, 3)
    after = content(tmp_path)
    assert [path.name for path in paths] == ["simulated_0001.mrc", "simulated_0002.mrc", "simulated_0003.mrc"]
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"simulated_0003.mrc", "simulated_0003.star"}


def test_series_made_in_two_goes_is_the_same_as_in_one(tmp_path):
    write(tmp_path / "two", 1)
    write(tmp_path / "two", 2)
    write(tmp_path / "one", 2)
    two, one = content(tmp_path / "two"), content(tmp_path / "one")
    assert two.keys() == one.keys()
    for name in one:
        assert two[name][0] == one[name][0], name


def test_lost_micrograph_is_made_again(tmp_path):
    _, second = write(tmp_path, 2)
    pixels = read_micrograph(second).pixels
    second.unlink()
    write(tmp_path, 2)
    np.testing.assert_array_equal(read_micrograph(second).pixels, pixels)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (4, SETTINGS),
        (3, SimulationSettings(shape=(160, 96), pixel_size_angstrom=6.0, model="apoferritin")),
        (3, SimulationSettings(shape=(96, 160), pixel_size_angstrom=6.0, model="capsid")),
    ],
)
def test_other_settings_or_seed_in_the_same_folder_are_refused(tmp_path, seed, settings):
    write(tmp_path, 1)
    before = content(tmp_path)
    with pytest.raises(SettingsError, match=rf"{MANIFEST_NAME}: expected a series of these settings and this seed"):
        write(tmp_path, 2, seed, settings)
    assert content(tmp_path) == before


def test_manifest_tells_seed_and_settings(tmp_path):
    write(tmp_path, 1)
    manifest = json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert manifest["seed"] == 3
    assert manifest["settings"]["shape"] == [96, 160]
    assert manifest["settings"]["model"] == "apoferritin"
    assert manifest["settings"]["dose_e_per_a2"] == 40.0


def test_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "taken").write_text("a file\n")
    with pytest.raises(OutputError, match=r"taken: cannot write micrographs there: "):
        write(tmp_path / "taken", 1)


def test_micrographs_come_no_faster_than_the_interval(tmp_path):
    first, second = write_series(tmp_path, SETTINGS, count=2, seed=3, interval_seconds=0.3)
    assert second.stat().st_mtime - first.stat().st_mtime >= 0.28  # clocks of file systems tick in steps


def test_micrographs_already_there_are_not_waited_for(tmp_path):
    write(tmp_path, 3)
    paths = list(write_series(tmp_path, SETTINGS, count=3, seed=3, interval_seconds=3600))
    assert len(paths) == 3
