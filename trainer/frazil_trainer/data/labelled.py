"""Labelled micrographs: their files, and pictures as in the daemon's picker, with their particles."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cv2
import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from frazil.errors import FrazilError, MicrographError, SettingsError
from frazil.picking import (
    CoordinateEnding,
    Micrograph,
    Picks,
    Picture,
    YAxis,
    make_picture,
    may_be_together,
    named_micrographs,
    read_coordinates,
    read_micrograph,
)
from frazil.picking.rescale import rescale
from frazil_trainer.recipe import JunkSettings, Recipe, TrainingSet
from frazil_trainer.simulate.micrograph import JUNK_ENDING
from frazil_trainer.simulate.worlds import DIAMETERS_NAME

__all__ = [
    "MICROGRAPH_ENDINGS",
    "LabelledMicrograph",
    "LabelledPaths",
    "check_inside",
    "content_digest",
    "describe_set",
    "find_labelled",
    "find_micrographs",
    "inside_border",
    "lay_labels",
    "load_labelled",
    "make_labelled",
    "read_labelled",
    "read_micrograph_file",
    "training_set_sha256",
]

_FEW_OUTSIDE = 5
_SMALL_FRACTION_OUTSIDE = 0.05

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
MICROGRAPH_ENDINGS = (".mrc", ".tif", ".tiff", *_PICTURE_ENDINGS)
"""Of one micrograph in several formats, the first of these is taken."""

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL_BYTES = 1024


def find_micrographs(folder: Path) -> list[Path]:
    """The micrographs in a folder, one for each stem, sorted by name.

    Raises:
        FrazilError: two files of one format have the same stem, so that their labels are ambiguous.
    """
    by_stem: dict[str, Path] = {}
    for ending in reversed(MICROGRAPH_ENDINGS):
        of_ending: dict[str, Path] = {}
        for path in sorted(folder.glob("*")):
            if path.name.endswith(JUNK_ENDING):
                continue  # the mask of a micrograph
            if path.suffix.lower() == ending and (other := of_ending.setdefault(path.stem, path)) != path:
                raise FrazilError(f"{folder}: {path.stem} stands for {other.name} and {path.name}; keep one")
        by_stem |= of_ending
    return sorted(by_stem.values())


def read_micrograph_file(path: Path) -> Micrograph:
    """Read a micrograph from an MRC or TIFF file or from a picture.

    The three colours of a picture must be equal everywhere; transparency is ignored.

    Raises:
        MicrographError: the file is missing, truncated or no image; it holds several images, colours, pixels that
            are not finite, or only equal pixels.
    """
    if path.suffix.lower() not in _PICTURE_ENDINGS:
        return read_micrograph(path)
    pixels = _grey(path, _decode(path)).astype(np.float32)
    if pixels.min() == pixels.max():
        raise MicrographError(path, "constant", f"expected a picture, found every pixel equal to {pixels.flat[0]:g}")
    return Micrograph(path=path, pixels=pixels, pixel_size_angstrom=None)


def _decode(path: Path) -> NDArray[np.generic]:
    """(h, w) or (h, w, channels) the image in a file, in the file's type."""
    # OpenCV would print its own message beside the error below.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        content_end = path.read_bytes()[-_JPEG_TAIL_BYTES:]
        count = cv2.imcount(str(path))
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if count == 1 else None
    except OSError as error:
        raise MicrographError(path, "unreadable", f"cannot be read: {error.strerror or error}") from error
    except cv2.error as error:
        raise MicrographError(path, "unreadable", f"expected an image, OpenCV refuses it: {error.err}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if count > 1:
        raise MicrographError(path, "stack", f"expected one image, found {count} (movies must be averaged first)")
    # OpenCV decodes half a JPEG without an error; only the end marker shows that it is complete.
    cut = path.suffix.lower() in (".jpg", ".jpeg") and _JPEG_END not in content_end
    if image is None or cut:
        raise MicrographError(path, "unreadable", "expected a whole image, found one that is cut short or no image")
    return np.asarray(image)


def _grey(path: Path, image: NDArray[np.generic]) -> NDArray[np.generic]:
    """(h, w) the grey channel of an image."""
    if image.ndim == 2:
        return image
    colours = image[..., :3]
    if colours.shape[-1] == 3 and not (colours == colours[..., :1]).all():
        raise MicrographError(path, "unsupported", "expected a grey picture, found colours")
    return image[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPaths:
    """A micrograph and its labels on disk."""

    micrograph: Path
    labels: Path
    """A file for this micrograph, or a table of several micrographs."""
    source: TrainingSet
    passthrough: tuple[Path, ...] = ()
    """Further files about the same particles; see `read_coordinates`."""
    may_be_empty: bool = False
    """Whether it may hold no particle at all."""

    @property
    def labels_are_shared(self) -> bool:
        """Whether the labels are in a table of several micrographs."""
        return self.labels.name != _own_labels(self.micrograph, self.source).name

    @property
    def part(self) -> str:
        """``validation``, ``selection``, ``training``, ``calibration``, or ``unused`` in sets that are only scored."""
        if self.micrograph.stem in self.source.validation:
            return "validation"
        if self.source.only_scored:
            return "unused"
        if self.source.calibrates:
            return "calibration"
        return "selection" if self.micrograph.stem in self.source.selection else "training"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledMicrograph:
    """A picture with its particles."""

    name: str
    picture: Picture
    centres: NDArray[np.float64]
    """(n, 2) particle centres y, x, in pixels of the picture."""
    border_px: float
    """Width of the frame without data, in pixels of the picture."""
    source: TrainingSet
    blank: NDArray[np.bool_] | None = None
    """(h, w) mask of further pixels without data, if any."""
    junk: NDArray[np.float32] | None = None
    """(h, w) share of each pixel that is junk; None where it is not known, and where nothing is learned of it."""

    def holds_data(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether positions, arrays of any shape in pixels of the picture, lie inside its border and on data."""
        h, w = self.picture.pixels.shape
        border = self.border_px
        inside = (y >= border) & (y < h - border) & (x >= border) & (x < w - border)
        if self.blank is not None:
            rows, columns = (np.clip(np.rint(v), 0, n - 1).astype(np.intp) for v, n in ((y, h), (x, w)))
            inside &= ~self.blank[rows, columns]
        return np.asarray(inside, np.bool_)


def describe_set(
    folder: Path,
    *,
    name: str,
    diameter_angstrom: float,
    labels: str | None,
    y_axis: YAxis,
    pixel_size_angstrom: float | None,
) -> TrainingSet:
    """A folder of labelled micrographs as a training set.

    Args:
        folder: of the micrographs, with the labels beside them.
        name: the folder's, as the recipe has it.
        diameter_angstrom: of the particle.
        labels: how the names of the label files end, behind the micrograph's stem; None looks.
        y_axis: of the labels.
        pixel_size_angstrom: of the micrographs; None takes the headers'.

    Raises:
        SettingsError: labels cannot end so; or there are several kinds of label files, or a value is impossible.
        FrazilError: there are no labels.
    """
    labels = labels or _find_ending(folder)
    ending = next((known for known in get_args(CoordinateEnding) if labels.endswith(known)), None)
    if ending is None:
        raise SettingsError(
            f"labels: expected an ending such as {', '.join(get_args(CoordinateEnding))} or _picked.star, "
            f"found {labels!r}"
        )
    described = {
        "folder": name,
        "diameter_angstrom": diameter_angstrom,
        "labels": ending,
        "labels_suffix": labels.removesuffix(ending),
        "y_axis": y_axis,
    }
    if pixel_size_angstrom is not None:
        described["pixel_size_angstrom"] = pixel_size_angstrom
    try:
        return msgspec.convert(described, TrainingSet)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error


def _find_ending(folder: Path) -> str:
    """How the names of the label files in a folder end: the ending that most micrographs have, a plain one if several.

    Where no micrograph has a file of its own, it is that of the one table.
    """
    micrographs, known = find_micrographs(folder), get_args(CoordinateEnding)
    stems = sorted((path.stem for path in micrographs), key=len, reverse=True)
    files = [path.name for path in sorted(folder.glob("[!.]*")) if path.suffix in known and path.name != DIAMETERS_NAME]
    counts: dict[str, int] = {}
    for name in files:
        stem = next((stem for stem in stems if name.startswith(stem)), None)  # the longest: a_b.star is not of a.mrc
        if stem is not None:
            counts[name.removeprefix(stem)] = counts.get(name.removeprefix(stem), 0) + 1
    most = [ending for ending, count in counts.items() if count == max(counts.values())]
    plain = [ending for ending in most if ending in known]
    if not counts and len(files) == 1:
        return Path(files[0]).suffix
    if not counts:
        raise FrazilError(
            f"{folder}: expected micrographs with labels named after them (*{', *'.join(known)}), or one table, "
            f"found {len(micrographs)} micrographs and {len(files)} files of coordinates"
        )
    if len(most) > 1 and len(plain) != 1:
        raise SettingsError(
            f"{folder}: expected one kind of labels, found files ending in {' and '.join(sorted(most))}; "
            "give --labels with one of them"
        )
    return plain[0] if len(plain) == 1 else most[0]


def find_labelled(data: Path, source: TrainingSet) -> list[LabelledPaths]:
    """List the labelled micrographs of one training set, sorted by name.

    Raises:
        FrazilError: the folder holds none; the recipe names a stem that is not among them; a table of several
            micrographs cannot be read, or there are two.
    """
    folder = data / source.folder
    micrographs = find_micrographs(folder)
    own = {path: labels for path in micrographs if (labels := _own_labels(path, source)).is_file()}
    found = [LabelledPaths(micrograph=path, labels=labels, source=source) for path, labels in own.items()]
    found = found or _shared_labels(folder, micrographs, source)
    if source.diameter_angstrom is UNSET and (diameters := _read_diameters(folder)):
        found = [
            dataclasses.replace(
                one,
                source=msgspec.structs.replace(source, diameter_angstrom=diameters[one.micrograph.stem]),
                may_be_empty=True,
            )
            for one in found
            if one.micrograph.stem in diameters
        ]
    if not found:
        raise FrazilError(
            f"{folder}: expected micrographs (*.mrc) with labels (*{source.labels_ending}), found none "
            f"among {len(micrographs)} micrographs (TIFF, PNG and JPEG are read, too)"
        )
    stems = {paths.micrograph.stem for paths in found}
    named = (*source.validation, *source.selection, *source.incomplete)
    unknown = [stem for stem in named if stem not in stems]
    if unknown:
        raise FrazilError(f"{folder}: expected the micrographs {', '.join(unknown)} of the recipe, found none so named")
    return found


def read_labelled(paths: LabelledPaths) -> tuple[Micrograph, Picks]:
    """Read a micrograph, with the recipe's pixel size, and all of its particles.

    Raises:
        MicrographError: the micrograph cannot be read, or its pixel size is unknown.
        FrazilError: the labels cannot be read, or hold no particles of the micrograph.
    """
    source = paths.source
    micrograph = read_micrograph_file(paths.micrograph)
    given = source.pixel_size_angstrom
    pixel_size = micrograph.pixel_size_angstrom if given is UNSET else given
    if pixel_size is None:
        raise MicrographError(
            paths.micrograph,
            "pixel_size",
            f"expected a pixel size in the file, found {micrograph.pixel_size_doubt or 'none'}; "
            f"give {source.folder} pixel_size_angstrom in the recipe",
        )
    particles = read_coordinates(
        paths.labels,
        stem=paths.micrograph.stem if paths.labels_are_shared else None,
        passthrough=paths.passthrough,
        y_axis=source.y_axis,
        binning=1.0 if source.labels_binning is UNSET else source.labels_binning,
        height_px=micrograph.pixels.shape[0],
        width_px=micrograph.pixels.shape[1],
        pixel_size_angstrom=pixel_size,
        may_be_empty=paths.may_be_empty,
    )
    return dataclasses.replace(micrograph, pixel_size_angstrom=pixel_size), particles


def check_inside(paths: LabelledPaths, particles: Picks, shape: tuple[int, ...]) -> None:
    """Check that the particles can belong to their micrograph of shape (h, w).

    A few may lie outside, since some pickers place particles past the edge.

    Raises:
        FrazilError: none lies inside the micrograph's border, or more than a few outside the micrograph.
    """
    if len(inside_border(particles, shape, paths.source.border_px)) == 0:
        raise FrazilError(f"{paths.labels}: expected particles inside the micrograph, found none{_hint(shape)}")
    outside = len(particles) - len(inside_border(particles, shape, 0))
    if outside > max(_FEW_OUTSIDE, _SMALL_FRACTION_OUTSIDE * len(particles)):
        raise FrazilError(
            f"{paths.labels}: expected particles inside the micrograph, found {outside} of {len(particles)} "
            f"({outside / len(particles):.0%}) outside{_hint(shape)}"
        )


def load_labelled(paths: LabelledPaths, recipe: Recipe) -> LabelledMicrograph:
    """Read a micrograph and its labels.

    Raises:
        MicrographError: the micrograph cannot be picked.
        FrazilError: the labels cannot be read; none lies inside the micrograph's border and on data, or more than a
            few lie outside.
    """
    micrograph, particles = read_labelled(paths)
    if not paths.may_be_empty:
        check_inside(paths, particles, micrograph.pixels.shape)
    labelled = make_labelled(paths, recipe, micrograph, particles)
    if len(labelled.centres) == 0 and not paths.may_be_empty:
        raise FrazilError(f"{paths.labels}: expected particles where the micrograph holds data, found none there")
    return labelled


def make_labelled(paths: LabelledPaths, recipe: Recipe, micrograph: Micrograph, particles: Picks) -> LabelledMicrograph:
    """Make the picture of the daemon's picker, with the particles inside its border and on data.

    Raises:
        MicrographError: the micrograph cannot be picked.
    """
    labelled = _lay(paths, recipe, micrograph, particles)
    if (
        not isinstance(recipe.network, JunkSettings)
        or not (mask := paths.micrograph.with_suffix(JUNK_ENDING)).is_file()
    ):
        return labelled
    return dataclasses.replace(labelled, junk=_read_junk(mask, micrograph, labelled.picture))


def _lay(paths: LabelledPaths, recipe: Recipe, micrograph: Micrograph, particles: Picks) -> LabelledMicrograph:
    labelled = lay_labels(
        paths.micrograph.stem,
        paths.source,
        micrograph,
        inside_border(particles, micrograph.pixels.shape, paths.source.border_px),
        diameter_px=recipe.diameter_px,
        normalisation=recipe.normalisation,
    )
    if labelled.blank is None:
        return labelled
    centres = labelled.centres
    return dataclasses.replace(labelled, centres=centres[labelled.holds_data(centres[:, 0], centres[:, 1])])


def _read_junk(mask: Path, micrograph: Micrograph, picture: Picture) -> NDArray[np.float32]:
    """(h', w') share of each pixel of the picture that is junk, by the mask of its micrograph.

    Raises:
        MicrographError: the mask cannot be read, or is not of the micrograph's shape.
    """
    kinds = _grey(mask, _decode(mask)).astype(np.float32)
    if kinds.shape != micrograph.pixels.shape:
        raise MicrographError(
            mask, "shape", f"expected the shape of its micrograph, {micrograph.pixels.shape}, found {kinds.shape}"
        )
    return rescale(np.minimum(kinds, 1), picture.rescaling)


def lay_labels(
    name: str, source: TrainingSet, micrograph: Micrograph, particles: Picks, *, diameter_px: float, normalisation: str
) -> LabelledMicrograph:
    """Make the picture of the daemon's picker, with all the particles.

    Args:
        name: of the micrograph.
        source: the training set that it belongs to.
        micrograph: as read.
        particles: in its pixels.
        diameter_px: of the particle in the picture.
        normalisation: of the picture, by name.

    Raises:
        MicrographError: the micrograph cannot be picked.
    """
    picture = make_picture(
        micrograph,
        diameter_angstrom=source.known_diameter_angstrom,
        pixel_size_angstrom=None,
        model_diameter_px=diameter_px,
        normalisation=normalisation,
        invert=False,
    )
    rescaling, area = picture.rescaling, picture.blank
    return LabelledMicrograph(
        name=name,
        picture=picture,
        centres=np.stack([rescaling.to_rescaled(particles.y, 0), rescaling.to_rescaled(particles.x, 1)], axis=1),
        border_px=source.border_px * max(rescaling.factors),
        source=source,
        blank=None if area is None or area.is_negligible else area.rescaled(rescaling),
    )


def inside_border(picks: Picks, shape: tuple[int, ...], border_px: float) -> Picks:
    """The picks with centres inside the border."""
    h, w = shape
    y, x = picks.y, picks.x
    return picks.select((y >= border_px) & (y < h - border_px) & (x >= border_px) & (x < w - border_px))


def training_set_sha256(paths: Sequence[LabelledPaths]) -> str:
    """SHA-256 over the content of micrographs and labels, in order."""
    digest = hashlib.sha256()
    for one in paths:
        for file in (one.micrograph, one.labels, *one.passthrough):
            digest.update(content_digest(file))
    return digest.hexdigest()


def content_digest(file: Path) -> bytes:
    """SHA-256 of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _read_diameters(folder: Path) -> dict[str, float]:
    """The particle's diameter in Å by the micrograph's stem."""
    table = folder / DIAMETERS_NAME
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {row["micrograph"]: float(row["diameter_angstrom"]) for row in csv.DictReader(file)}
    except OSError as error:
        raise FrazilError(
            f"{table}: expected the diameters of a set without diameter_angstrom in the recipe, "
            f"cannot read them: {error.strerror}"
        ) from error
    except (KeyError, ValueError) as error:
        raise FrazilError(
            f"{table}: expected the columns micrograph and diameter_angstrom with a number, found {error}"
        ) from error


def _own_labels(micrograph: Path, source: TrainingSet) -> Path:
    """The path of a label file for this micrograph alone."""
    return micrograph.with_name(f"{micrograph.stem}{source.labels_ending}")


def _shared_labels(folder: Path, micrographs: list[Path], source: TrainingSet) -> list[LabelledPaths]:
    """The micrographs in the folder that its table names; cryoSPARC's may be in several files."""
    pattern = f"*{source.labels_ending}"
    tables = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if len(tables) > 1 and not may_be_together(tables):
        names = ", ".join(path.name for path in tables[:3])
        raise FrazilError(
            f"{folder}: expected labels named after their micrographs, or one table, found {len(tables)} ({names})"
        )
    if not tables:
        return []
    table, *passthrough = tables
    stems = named_micrographs(table, passthrough=passthrough)
    named = [
        LabelledPaths(micrograph=path, labels=table, source=source, passthrough=tuple(passthrough))
        for path in micrographs
        if path.stem in stems
    ]
    if stems and micrographs and not named:
        raise FrazilError(
            f"{table}: expected particles of micrographs such as {micrographs[0].stem}, "
            f"found those of others such as {min(stems)}"
        )
    return named


def _hint(shape: tuple[int, ...]) -> str:
    """A hint for particles that lie outside."""
    h, w = shape
    return f" ({w} x {h} px); were they picked at another pixel size, or is y_axis wrong?"
