"""Recipes: everything that decides how a model turns out, in one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from frazil.errors import SettingsError
from frazil.picking import CoordinateEnding, YAxis

__all__ = ["DenseSettings", "Recipe", "TrainingSet", "read_recipe"]

_Count = Annotated[int, Meta(ge=1)]
_Positive = Annotated[float, Meta(gt=0)]
_NotNegative = Annotated[float, Meta(ge=0)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder of micrographs (MRC, TIFF, PNG, JPEG) with the coordinates of their particles beside them."""

    folder: str
    """Below the data folder given on the command line."""
    diameter_angstrom: _Positive
    """Diameter of the particle."""
    labels: CoordinateEnding = ".star"
    """Ending of the files with the labels, which tells their format: RELION ``.star``, EMAN ``.box``, crYOLO
    ``.cbox``, Topaz ``.txt`` or ``.tsv``, ``.csv``."""
    labels_suffix: str = ""
    """Labels of ``a.mrc`` are ``a<suffix><labels>``; or one table ``*<suffix><labels>`` names all micrographs."""
    y_axis: YAxis = "down"
    """Whether the labels count y from the first row of the micrograph's file, or ``up`` from the last one."""
    pixel_size_angstrom: _Positive | UnsetType = UNSET
    """Pixel size of the micrographs; without it, their headers'. Pictures have none."""
    other_labels: tuple[str, ...] = ()
    """Suffixes of other sets of labels that validation is scored against as well."""
    border_px: Annotated[int, Meta(ge=0)] = 0
    """Frame of the micrograph that holds no data: left out of training and of scores."""
    weight: _Positive = 1.0
    """How much of the crops comes from here, and how much its F1 counts when the threshold is chosen."""
    validation: tuple[str, ...] = ()
    """Stems of the micrographs never trained on."""
    selection: tuple[str, ...] = ()
    """Stems of the micrographs that choose the threshold; not trained on either."""


class DenseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only a network that scores every place of a tile needs to know."""

    widths: tuple[_Count, _Count, _Count] = (16, 32, 64)
    """Channels at full, half and quarter resolution."""
    dilations: tuple[_Count, ...] = (1, 2, 4, 1)
    """One residual block at quarter resolution for each."""
    halo_cells: _Count = 16
    """Scores at the edges of a tile that are left out."""
    tile_px: Annotated[int, Meta(ge=4, multiple_of=4)] = 640
    """Side of a tile in picking."""
    patch_px: Annotated[int, Meta(ge=16, multiple_of=4)] = 192
    """Side of a patch in training."""
    spread_diameters: _Positive = 0.13
    """The wanted score falls off from a particle's centre as a Gaussian of this deviation."""
    focus: _NotNegative = 2.0
    """Power of the distance between score and wanted score that weighs a cell: easy cells count less."""
    weight_decay: _NotNegative = 1e-4
    mixed_precision: bool = True
    """Convolve in bfloat16 while training; the exported network is float32."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run."""

    architecture: Literal["mlp", "fcn"]
    """``mlp``: a window at a time, by `training.train`. ``fcn``: every place, by `dense_training.train_dense`."""
    seed: Annotated[int, Meta(ge=0)]
    """Of every random draw of the run."""
    data: tuple[TrainingSet, ...]
    dense: DenseSettings | None = None
    """Needed by ``fcn``; the settings from `tile_px` to `near_negatives` are then without effect, and so are
    `momentum` and `decay_per_update`."""

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
    if (recipe.architecture == "fcn") != (recipe.dense is not None):
        raise SettingsError(f"{path}: dense: expected this table with architecture fcn, and with no other")
    return recipe
