"""Recipes: everything that decides how a model turns out, in one TOML file.

A recipe joins a network, the examples that it learns from and an optimiser, each with its own settings and no
others'. A network that scores windows learns from crops, one that scores every place from patches.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from frazil.errors import SettingsError
from frazil.picking import CoordinateEnding, YAxis
from frazil_trainer.cnn_size import CnnConfig

__all__ = [
    "AdamW",
    "CentredCrops",
    "CnnSettings",
    "DrawnCrops",
    "FcnSettings",
    "JitteredCrops",
    "MlpSettings",
    "Patches",
    "Recipe",
    "Sgd",
    "TrainingSet",
    "find_recipe",
    "leave_out",
    "read_recipe",
]

_LARGEST = sys.float_info.max  # an infinite number is none
_Count = Annotated[int, Meta(ge=1)]
_Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
_NotNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_BelowOne = Annotated[float, Meta(ge=0, lt=1)]

_RECIPES = Path(__file__).parent / "recipes"


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
    """How often drawn crops and patches come from here, and how much its F1 counts when the threshold is chosen."""
    validation: tuple[str, ...] = ()
    """Stems of the micrographs never trained on."""
    selection: tuple[str, ...] = ()
    """Stems of the micrographs that are looked at during training, and that choose the threshold (those trained on with
    complete labels have their say in it too); not trained on either."""
    chooses_threshold: bool = True
    """Whether its micrographs have a say in the threshold: not if their particles are unlike those to be picked."""
    only_scored: bool = False
    """Whether nothing of the set is learnt from: only its validation micrographs are used."""
    incomplete: tuple[str, ...] = ()
    """Stems of the micrographs whose labels miss many particles: see `Patches.doubtful_score`."""

    def labels_are_complete(self, stem: str) -> bool:
        """Whether a place without a label in the micrograph of this name holds no particle."""
        return stem not in self.incomplete


class MlpSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mlp", tag_field="architecture"
):
    """The paper's first network: scores a window at a time, out of two hidden layers."""

    tile_px: Annotated[int, Meta(ge=2)] = 64
    """Side of a window, in pixels of the rescaled micrograph."""
    stride_px: _Positive = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs. If it is a whole number, whole tiles are
    scored at once, which takes half of the time."""
    hidden: _Count = 256
    """Width of the two hidden layers."""
    dropout: _BelowOne = 0.2
    """Before every dense layer."""


class CnnSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cnn", tag_field="architecture"
):
    """The paper's second network: scores a window at a time, out of convolutions and two dense layers."""

    tile_px: Annotated[int, Meta(ge=4)] = 64
    """Side of a window, in pixels of the rescaled micrograph; halved after every stage."""
    stride_px: _Positive = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs."""
    channels: _Count = 8
    """Of the first stage; every further stage has twice as many."""
    convolutions: Annotated[tuple[_Count, ...], Meta(min_length=1)] = (1, 1, 1, 2, 2)
    """In each stage, before it is pooled."""
    hidden: _Count = 256
    """Width of the first dense layer."""
    dropout: _BelowOne = 0.2
    """Before every dense layer."""
    padding: bool = True
    """Whether every convolution sees a frame of zeros around its input. Without, windows share what they have in
    common, and whole tiles are scored at once."""

    @property
    def config(self) -> CnnConfig:
        """The size of the network."""
        return CnnConfig(
            tile_px=self.tile_px,
            channels=self.channels,
            convolutions=self.convolutions,
            hidden=self.hidden,
            dropout=self.dropout,
            padding=self.padding,
        )

    def __post_init__(self) -> None:
        step, stages = self.config.step_px, len(self.convolutions)
        if self.padding and self.tile_px % step:
            raise ValueError(f"expected tile_px to be a multiple of {step}, to be halved {stages} times")
        if not self.padding and not self.config.scores_whole_tiles:
            raise ValueError(
                f"expected convolutions without padding to leave a window that {stages} halvings use up, "
                f"found a tile_px of {self.tile_px}"
            )
        if not self.padding and self.stride_px != step:
            raise ValueError(f"expected stride_px to be {step}, as {stages} halvings make it without padding")


class FcnSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fcn", tag_field="architecture"
):
    """The fully convolutional network: scores every place of a tile."""

    widths: tuple[_Count, _Count, _Count] = (16, 32, 64)
    """Channels at full, half and quarter resolution."""
    dilations: tuple[_Count, ...] = (1, 2, 4, 1)
    """One residual block at quarter resolution for each."""
    halo_cells: _Count = 16
    """Scores at the edges of a tile that are left out."""
    tile_px: Annotated[int, Meta(ge=4, multiple_of=4)] = 640
    """Side of a tile in picking."""


class CentredCrops(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="centred", tag_field="kind"
):
    """The paper's crops, way (a): a fixed set, each particle centred at 0, 90, 180 and 270 degrees."""

    count: Annotated[int, Meta(ge=20)] = 70_000
    """Half of them positive. A random tenth is left out of training."""
    negative_offset_diameters: _NotNegative = 40 / 108
    """A negative crop's centre lies at least this far from every particle's: 40 px of the paper's 108."""


class JitteredCrops(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="jittered", tag_field="kind"
):
    """The paper's crops, way (b): a fixed set, each particle centred, and at random offsets."""

    count: Annotated[int, Meta(ge=20)] = 70_000
    """Half of them positive. A random tenth is left out of training."""
    positive_offset_diameters: _NotNegative = 30 / 108
    """The longest offset: 30 px of the paper's 108."""
    negative_offset_diameters: _NotNegative = 0.3
    """A negative crop's centre lies at least this far from every particle's."""


class DrawnCrops(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="drawn", tag_field="kind"):
    """Crops drawn anew for every batch, turned and mirrored, half of them positive."""

    per_epoch: _Count = 70_000
    """Crops in an epoch."""
    positive_offset_diameters: _NotNegative = 0.2
    """A positive crop's centre lies at most this far from a particle's."""
    negative_offset_diameters: _NotNegative = 0.45
    """A negative crop's centre lies at least this far from every particle's."""
    near_negatives: _Share = 0.25
    """Share of the negatives taken from within one diameter of a particle."""


class Patches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="patches", tag_field="kind"):
    """Pieces of micrographs drawn anew for every batch, with a wanted score for every cell."""

    per_epoch: _Count = 1200
    """Patches in an epoch."""
    patch_px: Annotated[int, Meta(ge=16, multiple_of=4)] = 192
    """Side of a patch."""
    spread_diameters: _Positive = 0.13
    """The wanted score falls off from a particle's centre as a Gaussian of this deviation."""
    focus: _NotNegative = 2.0
    """Power of the distance between score and wanted score that weighs a cell: easy cells count less."""
    doubtful_score: _Share = 0.35
    """In micrographs with incomplete labels, an unlabelled cell that the network scores higher does not count."""
    doubt_from: _Share = 0.15
    """Share of the training after which that holds: before it, the network's scores mean nothing yet."""
    calm_from: _Share = 0.7
    """Share of the training after which patches keep their contrast, sharpness and noise, as those of picking do."""


class Sgd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sgd", tag_field="kind"):
    """Stochastic gradient descent with momentum, its rate falling with every update."""

    learning_rate: _Positive = 1e-3
    """Of the first update."""
    momentum: _BelowOne = 0.9
    """Share of the last step that is taken again."""
    decay_per_update: _NotNegative = 1e-4
    """The rate of update k is learning_rate / (1 + decay_per_update * k)."""


class AdamW(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adamw", tag_field="kind"):
    """AdamW (Loshchilov and Hutter, ICLR 2019) in one cycle of the learning rate, its gradients clipped."""

    learning_rate: _Positive = 2e-3
    """The highest rate, reached after a tenth of the training."""
    weight_decay: _NotNegative = 1e-4
    """Share of a weight, times the rate, that is taken away with every update."""
    largest_gradient: _Positive = 5.0
    """A longer gradient is shortened to this."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run."""

    seed: Annotated[int, Meta(ge=0)]
    """Of every random draw of the run."""
    diameter_px: _Positive = 38.4
    """Diameter of the particle in the rescaled micrograph; 64 px are then the paper's 180 px of a 108 px particle."""
    normalisation: str = "flat-01"
    """Normalisation of the micrograph, by name."""
    epochs: _Count
    """Times through the examples."""
    batch: Annotated[int, Meta(ge=2)]
    """Examples in an update."""
    mixed_precision: bool = False
    """Compute in bfloat16 where it loses little while training, if the device has instructions for it; the exported
    network is float32."""
    compare_threshold: _Share | None = None
    """A threshold that validation is scored at as well, beside the chosen one."""
    network: MlpSettings | CnnSettings | FcnSettings
    """What is trained."""
    examples: CentredCrops | JitteredCrops | DrawnCrops | Patches
    """What it learns from."""
    optimiser: Sgd | AdamW
    """How it learns."""
    data: tuple[TrainingSet, ...]
    """Where the examples come from."""


def find_recipe(name: str) -> Path:
    """The file of a recipe: what ends in ``.toml`` is a path, anything else the name of a recipe that frazil ships.

    Raises:
        SettingsError: no recipe has this name.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = sorted(path.stem for path in _RECIPES.glob("*.toml"))
    if name not in known:
        raise SettingsError(
            f"recipe {name!r}: expected one of {', '.join(known)}, or a path that ends in .toml; "
            f"the nearest name is {_nearest(name, known)!r}"
        )
    return _RECIPES / f"{name}.toml"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        SettingsError: it is missing, is no TOML, holds an unknown key or a value of the wrong type or size, or
            examples that its network cannot learn from.
    """
    try:
        plain = msgspec.toml.decode(path.read_bytes())
        unknown = _unknown_keys(plain, msgspec.inspect.type_info(Recipe), "")
        if unknown:
            raise SettingsError(f"{path}: {'; '.join(unknown)}")
        recipe = msgspec.convert(plain, Recipe)
    except OSError as error:
        raise SettingsError(f"{path}: expected a recipe, cannot read it: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not recipe.data:
        raise SettingsError(f"{path}: data: expected at least one training set, found none")
    folders = [source.folder for source in recipe.data]
    for source in recipe.data:
        if folders.count(source.folder) > 1:
            raise SettingsError(f"{path}: data: expected each folder once, found {source.folder} twice")
        twice = set(source.validation) & set(source.selection)
        if twice:
            raise SettingsError(
                f"{path}: data: expected {min(twice)} of {source.folder} in one part, found it in two, "
                "validation and selection"
            )
    dense = isinstance(recipe.network, FcnSettings)
    if dense != isinstance(recipe.examples, Patches):
        raise SettingsError(
            f"{path}: examples: expected {'patches' if dense else 'centred, jittered or drawn crops'} "
            f"for a network that scores {'every place' if dense else 'windows'}, "
            f"found {type(recipe.examples).__struct_config__.tag}"
        )
    return recipe


def leave_out(recipe: Recipe, folders: Sequence[str]) -> Recipe:
    """The same recipe with some of its training sets only scored: how well does it pick what it never saw?

    Raises:
        SettingsError: a folder is none of its training sets.
    """
    known = [source.folder for source in recipe.data]
    for folder in folders:
        if folder not in known:
            raise SettingsError(f"{folder}: expected one of the training sets {', '.join(known)}")
    data = tuple(
        msgspec.structs.replace(source, only_scored=source.only_scored or source.folder in folders)
        for source in recipe.data
    )
    return msgspec.structs.replace(recipe, data=data)


def _unknown_keys(plain: Any, kind: msgspec.inspect.Type, where: str) -> list[str]:
    """A line for each key that no setting has, with the nearest one of its table that is known."""
    match kind:
        case msgspec.inspect.VarTupleType(item_type=item) if isinstance(plain, list):
            return [line for i, one in enumerate(plain) for line in _unknown_keys(one, item, f"{where[:-1]}[{i}].")]
        case msgspec.inspect.UnionType(types=types) if isinstance(plain, dict):
            tables = (one for one in types if isinstance(one, msgspec.inspect.StructType))
            chosen = [one for one in tables if plain.get(one.tag_field) == one.tag]
            return _unknown_keys(plain, chosen[0], where) if chosen else []
        case msgspec.inspect.StructType(fields=fields, tag_field=tag) if isinstance(plain, dict):
            known = {field.name: field.type for field in fields}
            lines = []
            for key, value in plain.items():
                if key in known:
                    lines += _unknown_keys(value, known[key], f"{where}{key}.")
                elif key != tag:
                    lines.append(f"unknown key {where}{key}; the nearest known one is {where}{_nearest(key, known)}")
            return lines
    return []


def _nearest(word: str, known: Iterable[str]) -> str:
    return max(known, key=lambda one: difflib.SequenceMatcher(None, word, one).ratio())
