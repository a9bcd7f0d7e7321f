"""The model contract: complete, of this version, and possible."""

from __future__ import annotations

import dataclasses

import pytest

from frazil.errors import ModelError
from frazil.model import ModelContract

WINDOW = ModelContract(
    architecture="mlp",
    tile_px=64,
    grid=1,
    step_px=12.8,
    offset_px=31.5,
    diameter_px=38.4,
    normalisation="flat-01",
    contrast="dark",
    threshold=0.8,
    training_set_sha256="abc",
    validation='{"f1": 0.5}',
)


JUNK = dataclasses.replace(WINDOW, architecture="junk", normalisation="wide-01")


def test_a_model_of_junk_finds_junk_and_any_other_particles() -> None:
    JUNK.check_finds("junk")
    WINDOW.check_finds("particles")
    with pytest.raises(ModelError, match="expected a model that finds particles, found one that finds junk"):
        JUNK.check_finds("particles")
    with pytest.raises(ModelError, match="expected a model that finds junk, found one that finds particles"):
        WINDOW.check_finds("junk")


def test_contract_survives_metadata() -> None:
    assert ModelContract.from_metadata(WINDOW.to_metadata()) == WINDOW


@pytest.mark.parametrize("key", sorted(WINDOW.to_metadata()))
def test_a_missing_key_is_named(key: str) -> None:
    metadata = WINDOW.to_metadata()
    del metadata[key]
    with pytest.raises(ModelError, match=f"found no {key}"):
        ModelContract.from_metadata(metadata)


def test_a_contract_of_another_version_is_refused() -> None:
    with pytest.raises(ModelError, match="contract version 1, found '2'"):
        ModelContract.from_metadata(WINDOW.to_metadata() | {"frazil.contract": "2"})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tile_px", "sixty", "frazil.tile_px to be int"),
        ("step_px", "0", "grid lies inside its tile"),
        ("offset_px", "64", "grid lies inside its tile"),
        ("offset_px", "nan", "grid lies inside its tile"),
        ("threshold", "1.5", "grid lies inside its tile"),
        ("contrast", "grey", "contrast"),
        ("grid", "99", "grid lies inside its tile"),
        ("validation", "{", "JSON"),
    ],
)
def test_impossible_values_are_refused(key: str, value: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        ModelContract.from_metadata(WINDOW.to_metadata() | {f"frazil.{key}": value})


def test_a_dense_grid_spans_whole_pixels() -> None:
    with pytest.raises(ModelError, match="whole number of pixels"):
        ModelContract.from_metadata(WINDOW.to_metadata() | {"frazil.grid": "2", "frazil.step_px": "1.3"})
