"""Recipes: all settings of a training run, in one TOML file.

A recipe joins a network, its examples and an optimiser. A network that scores windows learns from crops, one that
scores every place learns from patches.
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

__all__ = [
    "AdamW",
    "Areas",
    "CentredCrops",
    "CnnSettings",
    "DrawnCrops",
    "FcnSettings",
    "JitteredCrops",
    "JunkSettings",
    "MlpSettings",
    "Patches",
    "Recipe",
    "Sgd",
    "TrainingSet",
    "find_recipe",
    "leave_out",
    "read_recipe",
]

_LARGEST = sys.float_info.max  # infinity is refused
_Count = Annotated[int, Meta(ge=1)]
_Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
_NotNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_BelowOne = Annotated[float, Meta(ge=0, lt=1)]

_LIKE = "like"
_RECIPES = Path(__file__).parent / "recipes"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a recipe, which refuses unknown keys."""


class TrainingSet(_Table, frozen=True, kw_only=True):
    """A folder of micrographs (MRC, TIFF, PNG, JPEG) with the coordinates of their particles beside them."""

    folder: str
    """Below the data folder given on the command line."""
    diameter_angstrom: _Positive | UnsetType = UNSET
    """Diameter of the particle. Default: each micrograph's own, from the folder's ``diameters.csv``, as `frazil-train
    worlds` writes it; such micrographs may be without particles."""
    labels: CoordinateEnding = ".star"
    """Ending of the label files, which tells their format: RELION ``.star``, cryoSPARC ``.cs``, EMAN
    ``.box``, crYOLO ``.cbox``, Topaz ``.txt`` or ``.tsv``, ``.csv``."""
    labels_suffix: str = ""
    """Labels of ``a.mrc`` are in ``a<suffix><labels>``, or in one table ``*<suffix><labels>`` of all micrographs."""
    y_axis: YAxis = "down"
    """Whether the labels count y from the first row of the micrograph's file, or, ``up``, from the last one."""
    labels_binning: _Positive | UnsetType = UNSET
    """How many times smaller the micrographs were, on each side, on which the labels were picked: 8 after
    ``topaz preprocess -s 8``. Without it labels are in pixels of the micrographs in the folder."""
    pixel_size_angstrom: _Positive | UnsetType = UNSET
    """Pixel size of the micrographs. Without it the headers of the micrographs count; pictures have none."""
    other_labels: tuple[str, ...] = ()
    """Suffixes of further sets of labels. Validation is scored against them as well."""
    border_px: Annotated[int, Meta(ge=0)] = 0
    """Frame of the micrograph without data. It is left out of training and of scores."""
    weight: _Positive = 1.0
    """Relative weight of the set when crops and patches are drawn, and of its F1 when the threshold is chosen."""
    validation: tuple[str, ...] = ()
    """Stems of the micrographs for validation. They are never trained on."""
    selection: tuple[str, ...] = ()
    """Stems of the micrographs for the figures during training and for the choice of the threshold. They are never
    trained on. Training micrographs with complete labels help to choose the threshold, too."""
    chooses_threshold: bool = True
    """Whether its micrographs help to choose the threshold; wrong if their particles are unlike those to be picked."""
    calibrates: bool = False
    """Whether its micrographs are kept out of training, and say how probable a particle is at a score."""
    only_scored: bool = False
    """Whether only its validation micrographs are used, and none for training."""
    incomplete: tuple[str, ...] = ()
    """Stems of the micrographs whose labels miss many particles; see `Patches.doubtful_score`."""

    @property
    def known_diameter_angstrom(self) -> float:
        """The diameter, where the recipe or the micrograph's row gives it.

        Raises:
            SettingsError: neither does.
        """
        if self.diameter_angstrom is UNSET:
            raise SettingsError(f"{self.folder}: expected diameter_angstrom in the recipe, found none")
        return self.diameter_angstrom

    @property
    def labels_ending(self) -> str:
        """How the names of the label files end, behind the micrograph's stem."""
        return self.labels_suffix + self.labels

    def labels_are_complete(self, stem: str) -> bool:
        """Whether every particle of a micrograph has a label."""
        return stem not in self.incomplete


class MlpSettings(_Table, frozen=True, kw_only=True, tag="mlp", tag_field="architecture"):
    """The paper's first network: two hidden layers that score one window at a time."""

    tile_px: Annotated[int, Meta(ge=2)] = 64
    """Side of a window, in pixels of the rescaled micrograph."""
    stride_px: _Positive = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs. If it is an integer, whole tiles are scored at
    once, in half of the time."""
    hidden: _Count = 256
    """Width of the two hidden layers."""
    dropout: _BelowOne = 0.2
    """Probability of dropout, before every dense layer."""


class CnnSettings(_Table, frozen=True, kw_only=True, tag="cnn", tag_field="architecture"):
    """The paper's second network: convolutions and two dense layers that score one window at a time."""

    tile_px: Annotated[int, Meta(ge=4)] = 64
    """Side of a window, in pixels of the rescaled micrograph. Every stage halves it."""
    stride_px: _Positive = 12.8
    """Stride of the window in picking: 36 px of the paper's micrographs."""
    channels: _Count = 8
    """Channels of the first stage. Every further stage has twice as many."""
    convolutions: Annotated[tuple[_Count, ...], Meta(min_length=1)] = (1, 1, 1, 2, 2)
    """Convolutions of each stage, before its pooling."""
    hidden: _Count = 256
    """Width of the first dense layer."""
    dropout: _BelowOne = 0.2
    """Probability of dropout, before every dense layer."""
    padding: bool = True
    """Whether every convolution pads its input with zeros. Without padding, neighbouring windows share their features,
    and whole tiles are scored at once."""

    def __post_init__(self) -> None:
        step, stages = self.step_px, len(self.convolutions)
        if self.padding and self.tile_px % step:
            raise ValueError(f"expected tile_px to be a multiple of {step}, to be halved {stages} times")
        if not self.padding and not self.scores_whole_tiles:
            raise ValueError(
                f"expected convolutions without padding to leave a window that {stages} halvings use up, "
                f"found a tile_px of {self.tile_px}"
            )
        if not self.padding and self.stride_px != step:
            raise ValueError(f"expected stride_px to be {step}, as {stages} halvings make it without padding")

    @property
    def step_px(self) -> int:
        """Distance between neighbouring features after the last stage; each stage halves the resolution."""
        return int(2 ** len(self.convolutions))

    @property
    def side(self) -> int:
        """Features along one side of a window after the last stage; 0 if nothing is left of it."""
        side = self.tile_px
        for count in self.convolutions:
            side = max(0, side - (0 if self.padding else 2 * count)) // 2
        return side

    @property
    def scores_whole_tiles(self) -> bool:
        """Whether a larger tile gives exactly the scores of all windows in it.

        It does if windows that lie an integer number of steps apart share their features. They do not if windows are
        padded, or if pooling leaves out their last pixels.
        """
        field = self.side
        for count in reversed(self.convolutions):
            field = 2 * field + 2 * count
        return not self.padding and field == self.tile_px


class FcnSettings(_Table, frozen=True, kw_only=True, tag="fcn", tag_field="architecture"):
    """The fully convolutional network: scores every place of a tile."""

    widths: tuple[_Count, _Count, _Count] = (16, 32, 64)
    """Channels at full, half and quarter resolution."""
    dilations: tuple[_Count, ...] = (1, 2, 4, 1)
    """Dilation of each residual block at quarter resolution: the context grows, the resolution stays."""
    halo_cells: _Count = 16
    """Width of the frame of scores that is cut off a tile, since padding has influenced them."""
    tile_px: Annotated[int, Meta(ge=4, multiple_of=4)] = 640
    """Side of a tile in picking."""


class JunkSettings(_Table, frozen=True, kw_only=True, tag="junk", tag_field="architecture"):
    """The network that finds junk: scores every place of a coarse tile, from a wide context."""

    widths: tuple[_Count, _Count, _Count, _Count, _Count] = (8, 16, 16, 24, 24)
    """Channels at full, half, quarter, eighth and sixteenth resolution."""
    dilations: tuple[_Count, ...] = (1, 2, 2)
    """Dilation of each residual block at a sixteenth of the resolution: a context of some 250 pixels."""
    halo_cells: _Count = 4
    """Width of the frame of scores that is cut off a tile. Examples teach the network what padding looks like."""
    tile_px: Annotated[int, Meta(ge=4, multiple_of=4)] = 256
    """Side of a tile in picking, where it is not cut to fit the micrograph."""


class CentredCrops(_Table, frozen=True, kw_only=True, tag="centred", tag_field="kind"):
    """The paper's crops (a): a fixed set, with each particle centred at 0, 90, 180 and 270 degrees."""

    count: Annotated[int, Meta(ge=20)] = 70_000
    """Number of crops, half of them positive. A random tenth is held out of training."""
    negative_offset_diameters: _NotNegative = 40 / 108
    """Least distance of a negative crop from every particle, centre to centre: 40 px of the paper's 108."""


class JitteredCrops(_Table, frozen=True, kw_only=True, tag="jittered", tag_field="kind"):
    """The paper's crops (b): a fixed set, with each particle centred, and at random offsets."""

    count: Annotated[int, Meta(ge=20)] = 70_000
    """Number of crops, half of them positive. A random tenth is held out of training."""
    positive_offset_diameters: _NotNegative = 30 / 108
    """Largest offset of a positive crop: 30 px of the paper's 108."""
    negative_offset_diameters: _NotNegative = 0.3
    """Least distance of a negative crop from every particle, centre to centre."""


class DrawnCrops(_Table, frozen=True, kw_only=True, tag="drawn", tag_field="kind"):
    """Crops drawn anew for every batch, turned and mirrored, half of them positive."""

    per_epoch: _Count = 70_000
    """Crops in an epoch."""
    positive_offset_diameters: _NotNegative = 0.2
    """Largest distance of a positive crop from its particle, centre to centre."""
    negative_offset_diameters: _NotNegative = 0.45
    """Least distance of a negative crop from every particle, centre to centre."""
    near_negatives: _Fraction = 0.25
    """Fraction of the negatives drawn within one diameter of a particle."""


class Patches(_Table, frozen=True, kw_only=True, tag="patches", tag_field="kind"):
    """Pieces of micrographs, drawn anew for every batch, with a target score for every cell."""

    per_epoch: _Count = 1200
    """Patches in an epoch."""
    patch_px: Annotated[int, Meta(ge=16, multiple_of=4)] = 192
    """Side of a patch."""
    spread_diameters: _Positive = 0.13
    """Standard deviation of the Gaussian target around a particle's centre."""
    focus: _NotNegative = 2.0
    """Exponent of the distance between score and target in the weight of a cell: easy cells count less."""
    doubtful_score: _Fraction = 0.35
    """Threshold of the ignore mask: in micrographs with incomplete labels, unlabelled cells with a higher score are
    ignored."""
    doubt_from: _Fraction = 0.15
    """Fraction of the training without an ignore mask; so early, scores mean nothing."""
    calm_from: _Fraction = 0.7
    """Fraction of the training with full augmentation. After it, patches keep their contrast, sharpness and noise."""


class Areas(_Table, frozen=True, kw_only=True, tag="areas", tag_field="kind"):
    """Pieces of micrographs, drawn anew for every batch, with the share of junk in every cell.

    It is known where a micrograph has a mask, ``<stem>.junk.png``. Without one, a place near a labelled particle is no
    junk, and others do not count.
    """

    per_epoch: _Count = 1200
    """Pieces in an epoch."""
    patch_px: Annotated[int, Meta(ge=16, multiple_of=4)] = 224
    """Side of a piece."""
    near_junk: _Fraction = 0.4
    """Fraction of the pieces around a place with junk, where there is some."""
    clear_diameters: _Positive = 1.0
    """Distance from a labelled particle up to which a place without a mask is no junk."""
    focus: _NotNegative = 0.0
    """Exponent of the distance between score and target in the weight of a cell: easy cells count less."""
    calm_from: _Fraction = 0.7
    """Fraction of the training with full augmentation. After it, pieces keep their contrast, sharpness and noise."""
    largest_loss: _BelowOne = 0.01
    """Largest fraction of the particles on good ice, of any training set, that may lie in what is called junk. The
    threshold is chosen so."""


class Sgd(_Table, frozen=True, kw_only=True, tag="sgd", tag_field="kind"):
    """Stochastic gradient descent with momentum; the learning rate falls with every update."""

    learning_rate: _Positive = 1e-3
    """Learning rate of the first update."""
    momentum: _BelowOne = 0.9
    """Fraction of the previous step that is added to the next."""
    decay_per_update: _NotNegative = 1e-4
    """The learning rate of update k is learning_rate / (1 + decay_per_update * k)."""


class AdamW(_Table, frozen=True, kw_only=True, tag="adamw", tag_field="kind"):
    """AdamW (Loshchilov and Hutter, ICLR 2019) with a one-cycle learning rate and clipped gradients."""

    learning_rate: _Positive = 2e-3
    """Highest learning rate, reached after a tenth of the training."""
    weight_decay: _NotNegative = 1e-4
    """Decay of a weight with every update, as a fraction of it and of the learning rate."""
    largest_gradient: _Positive = 5.0
    """Largest norm of the gradient. A longer gradient is shortened to it."""


class Recipe(_Table, frozen=True, kw_only=True):
    """A training run."""

    seed: Annotated[int, Meta(ge=0)]
    """Seed of every random draw of the run."""
    diameter_px: _Positive = 38.4
    """Diameter of the particle in the rescaled micrograph; 64 px are then the paper's 180 px of a 108 px particle."""
    normalisation: str = "flat-01"
    """Name of the micrographs' normalisation."""
    epochs: _Count
    """Number of passes over the examples."""
    batch: Annotated[int, Meta(ge=2)]
    """Examples in an update."""
    mixed_precision: bool = False
    """Whether to train in bfloat16, if the device has instructions for it. The exported network is float32."""
    compare_threshold: _Fraction | None = None
    """A second threshold for the validation scores, beside the chosen one."""
    network: MlpSettings | CnnSettings | FcnSettings | JunkSettings
    """The network and its size."""
    examples: CentredCrops | JitteredCrops | DrawnCrops | Patches | Areas
    """The examples that it learns from."""
    optimiser: Sgd | AdamW
    """The optimiser."""
    data: tuple[TrainingSet, ...]
    """The training sets."""
    simulated_micrographs: Annotated[int, Meta(ge=0)] = 0
    """Micrographs, each of another molecule, that are simulated when the run begins and trained on as often as all
    training sets together. They need no files."""


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path if it ends in ``.toml``, else the name of a recipe that frazil ships.

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

    With ``like``, a file takes from the recipe of that name whatever it does not say itself, but not its training sets.

    Raises:
        SettingsError: the file is missing or no TOML; a key is unknown, or a value of the wrong type or size; the
            network cannot learn from the examples.
    """
    try:
        plain = msgspec.toml.decode(path.read_bytes())
        if _LIKE in plain:
            like = msgspec.toml.decode(find_recipe(_shipped_name(path, plain.pop(_LIKE))).read_bytes())
            plain = {**like, "data": [], **plain}
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
    learns_from: tuple[type[_Table], ...]
    match recipe.network:
        case JunkSettings():
            learns_from, expected = (Areas,), "areas for a network that finds junk"
        case FcnSettings():
            learns_from, expected = (Patches,), "patches for a network that scores every place"
        case _:
            learns_from = (CentredCrops, JitteredCrops, DrawnCrops)
            expected = "centred, jittered or drawn crops for a network that scores windows"
    if not isinstance(recipe.examples, learns_from):
        raise SettingsError(
            f"{path}: examples: expected {expected}, found {type(recipe.examples).__struct_config__.tag}"
        )
    return recipe


def _shipped_name(path: Path, name: object) -> str:
    if not isinstance(name, str) or name.endswith(".toml"):
        raise SettingsError(f"{path}: like: expected the name of a recipe that frazil ships, found {name!r}")
    return name


def leave_out(recipe: Recipe, folders: Sequence[str]) -> Recipe:
    """The same recipe with some of its training sets left out of training, to score how well they are picked unseen.

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
    """A line for each unknown key, with the nearest known one of its table."""
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
