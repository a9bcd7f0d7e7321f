"""Recipes: everything that decides how a model turns out, in one TOML file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from frazil.errors import SettingsError

__all__ = ["Recipe", "TrainingSet", "read_recipe"]


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder of micrographs (MRC) with their particles (STAR) beside them."""

    folder: str
    """Below the data folder given on the command line."""
    diameter_angstrom: float
    """Diameter of the particle."""
    labels_suffix: str = ""
    """Labels of ``a.mrc`` are ``a<suffix>.star``."""
    border_px: int = 0
    """Frame of the micrograph that holds no data: left out of training and of scores."""
    validation: tuple[str, ...] = ()
    """Stems of the micrographs never trained on."""
    selection: tuple[str, ...] = ()
    """Stems of the micrographs that choose the threshold; not trained on either."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run."""

    architecture: str
    """``mlp``."""
    seed: int
    """Of every random draw of the run."""
    data: tuple[TrainingSet, ...]

    tile_px: int = 64
    """Side of a crop, in pixels of the rescaled micrograph."""
    diameter_px: float = 38.4
    """Diameter of the particle in them: 180 px crops around a 108 px particle, as the paper's."""
    stride_px: float = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs."""
    normalisation: str = "flat-01"
    """Standardisation of the micrograph, by name."""

    hidden: int = 256
    """Width of the two hidden layers."""
    dropout: float = 0.2
    """Before every dense layer."""

    positive_offset_diameters: float = 0.28
    """A positive crop's centre lies at most this far from a particle's (30 px of 108)."""
    negative_offset_diameters: float = 0.3
    """A negative crop's centre lies at least this far from every particle's."""
    near_negatives: float = 0.25
    """Share of the negatives taken from within one diameter of a particle."""

    epochs: int = 100
    samples_per_epoch: int = 70_000
    """Half of them positive."""
    batch: int = 128
    learning_rate: float = 1e-3
    momentum: float = 0.9
    decay_per_update: float = 1e-4
    """The rate of update k is learning_rate / (1 + decay_per_update * k)."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        SettingsError: it is missing, is no TOML, or holds an unknown key or a value of the wrong type.
    """
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise SettingsError(f"{path}: expected a recipe, cannot read it: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{path}: {error}") from error
    if recipe.architecture != "mlp":
        raise SettingsError(f"{path}: architecture: expected mlp, found {recipe.architecture!r}")
    return recipe
