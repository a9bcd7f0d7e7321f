"""Recipes: everything that decides how a model turns out, in one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from frazil.errors import SettingsError

__all__ = ["Recipe", "TrainingSet", "read_recipe"]

_Count = Annotated[int, Meta(ge=1)]
_Positive = Annotated[float, Meta(gt=0)]
_NotNegative = Annotated[float, Meta(ge=0)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder of micrographs (MRC) with their particles (STAR) beside them."""

    folder: str
    """Below the data folder given on the command line."""
    diameter_angstrom: _Positive
    """Diameter of the particle."""
    labels_suffix: str = ""
    """Labels of ``a.mrc`` are ``a<suffix>.star``."""
    border_px: Annotated[int, Meta(ge=0)] = 0
    """Frame of the micrograph that holds no data: left out of training and of scores."""
    weight: _Positive = 1.0
    """How much of the crops comes from here, and how much its F1 counts when the threshold is chosen."""
    validation: tuple[str, ...] = ()
    """Stems of the micrographs never trained on."""
    selection: tuple[str, ...] = ()
    """Stems of the micrographs that choose the threshold; not trained on either."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run."""

    architecture: str
    """``mlp``."""
    seed: Annotated[int, Meta(ge=0)]
    """Of every random draw of the run."""
    data: tuple[TrainingSet, ...]

    tile_px: _Count = 64
    """Side of a crop, in pixels of the rescaled micrograph."""
    diameter_px: _Positive = 38.4
    """Diameter of the particle in them: 180 px crops around a 108 px particle, as the paper's."""
    stride_px: _Positive = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs."""
    normalisation: str = "flat-01"
    """Standardisation of the micrograph, by name."""

    hidden: _Count = 256
    """Width of the two hidden layers."""
    dropout: _Share = 0.2
    """Before every dense layer."""

    positive_offset_diameters: _NotNegative = 0.28
    """A positive crop's centre lies at most this far from a particle's (30 px of 108)."""
    negative_offset_diameters: _NotNegative = 0.3
    """A negative crop's centre lies at least this far from every particle's."""
    near_negatives: _Share = 0.25
    """Share of the negatives taken from within one diameter of a particle."""

    epochs: _Count = 100
    samples_per_epoch: _Count = 70_000
    """Half of them positive."""
    batch: Annotated[int, Meta(ge=2)] = 128
    learning_rate: _Positive = 1e-3
    momentum: _Share = 0.9
    decay_per_update: _NotNegative = 1e-4
    """The rate of update k is learning_rate / (1 + decay_per_update * k)."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        SettingsError: it is missing, is no TOML, or holds an unknown key or a value of the wrong type
            or size.
    """
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise SettingsError(f"{path}: expected a recipe, cannot read it: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not recipe.data:
        raise SettingsError(f"{path}: data: expected at least one training set, found none")
    if recipe.architecture != "mlp":
        raise SettingsError(f"{path}: architecture: expected mlp, found {recipe.architecture!r}")
    return recipe
