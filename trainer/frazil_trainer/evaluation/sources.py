"""Sources of picks: a model, run as in the daemon, or the files of another picker."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

from frazil.errors import FrazilError, SettingsError
from frazil.model import Model, load_model
from frazil.picking import (
    CoordinateEnding,
    Micrograph,
    Picker,
    PickingSettings,
    Picks,
    PreparationOnDevice,
    YAxis,
    may_be_together,
    named_micrographs,
    read_coordinates,
)
from frazil_trainer.data.labelled import LabelledPaths

__all__ = ["LOWEST_THRESHOLD", "ModelSource", "PickFiles", "PickSource", "find_pick_files", "open_sources", "printable"]

LOWEST_THRESHOLD = 0.05

_ENDINGS = get_args(CoordinateEnding)
_TAIL = re.compile(r"(_[\w-]*)?\.[a-z]+", re.IGNORECASE)


class PickSource(Protocol):
    """A picker."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def threshold(self) -> float | None:
        """Lowest score of its valid picks; None if all are valid."""

    def pick(self, paths: LabelledPaths, micrograph: Micrograph) -> Picks | None:
        """Its picks in a micrograph, including those below the threshold; None if it has none for this micrograph."""


class ModelSource:
    """A model under the model contract, run by the daemon's own picker.

    It keeps every pick down to a score of 0.05, so that thresholds can be compared without running the network again: a
    higher threshold only removes picks. It can be scored on a cluster if its path is known.
    """

    def __init__(
        self, model: Model, *, name: str | None = None, threshold: float | None = None, path: Path | None = None
    ) -> None:
        self.model = model
        self.path = path
        self._device = PreparationOnDevice(model)
        self.name = name or printable(model.identity.name)
        self.threshold = model.contract.threshold if threshold is None else threshold

    def pick(self, paths: LabelledPaths, micrograph: Micrograph) -> Picks:
        """Run the network over the micrograph.

        Raises:
            MicrographError: the micrograph cannot be picked.
        """
        settings = PickingSettings(
            diameter_angstrom=paths.source.known_diameter_angstrom, threshold=min(LOWEST_THRESHOLD, self.threshold)
        )
        return Picker(self.model, settings, device=self._device).pick(micrograph)


@dataclass(frozen=True, slots=True)
class _Place:
    """The location of a micrograph's picks."""

    file: Path
    stem: str | None
    """Stem of the micrograph in a table of several; None in a file of its own."""
    passthrough: tuple[Path, ...] = ()
    """Further files about the same picks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickFiles:
    """Files of another picker; see `find_pick_files`."""

    name: str
    folder: Path
    y_axis: YAxis
    files: Mapping[Path, _Place]
    """Location of the picks by micrograph."""
    binning: float = 1.0
    """How many times smaller the micrographs were, on each side, on which they were picked."""
    threshold: float | None = None

    def pick(self, paths: LabelledPaths, micrograph: Micrograph) -> Picks | None:
        """Read the picks of a micrograph; an empty file means no picks.

        Raises:
            FrazilError: the file cannot be read.
        """
        place = self.files.get(paths.micrograph)
        if place is None:
            return None
        return read_coordinates(
            place.file,
            stem=place.stem,
            passthrough=place.passthrough,
            y_axis=self.y_axis,
            binning=self.binning,
            height_px=micrograph.pixels.shape[0],
            width_px=micrograph.pixels.shape[1],
            pixel_size_angstrom=micrograph.pixel_size_angstrom,
            may_be_empty=True,
        )


def open_sources(
    models: Sequence[str],
    folders: Sequence[str],
    y_axes: Sequence[str],
    threshold: float | None,
    paths: Sequence[LabelledPaths],
    binnings: Sequence[float] = (),
) -> list[PickSource]:
    """Open pickers by their names on the command line: ``NAME=PATH``, or a path whose last part is the name.

    There is one y axis, ``down`` or ``up``, for all folders with picks, or one for each, and one binning of the
    micrographs that were picked, 1 if none is given. The threshold is that of the models; None takes their own.

    Raises:
        SettingsError: micrographs or pickers are missing, a y axis is unknown or a binning impossible, or two pickers
            have the same name.
        ModelError: a model cannot be loaded.
        FrazilError: a folder has no picks for the micrographs.
    """
    if not paths:
        raise SettingsError("expected a recipe with validation micrographs to score on, found none in it")
    if not models and not folders:
        raise SettingsError("expected a picker to score, found none; give --model or --picks")
    if threshold is not None and not models:
        raise SettingsError("threshold: expected a model that it is for, found none; picks from files count all")
    axes = list(y_axes) or ["down"]
    axes = axes * len(folders) if len(axes) == 1 else axes
    if len(axes) != len(folders) or not set(axes) <= set(get_args(YAxis)):
        raise SettingsError(
            f"picks-y-axis: expected down or up, once or once for each of {len(folders)} --picks, "
            f"found {' '.join(y_axes)}"
        )
    factors = list(binnings) or [1.0]
    factors = factors * len(folders) if len(factors) == 1 else factors
    if len(factors) != len(folders) or not all(factor > 0 and math.isfinite(factor) for factor in factors):
        raise SettingsError(
            f"picks-binning: expected a number above 0, once or once for each of {len(folders)} --picks, "
            f"found {' '.join(f'{factor:g}' for factor in factors)}"
        )
    sources: list[PickSource] = []
    for text in models:
        name, path = _split_name(text)
        sources.append(ModelSource(load_model(path), name=name and printable(name), threshold=threshold, path=path))
    for text, axis, factor in zip(folders, axes, factors, strict=True):
        name, path = _split_name(text)
        name = printable(name or path.resolve().name)
        sources.append(find_pick_files(name, path, "up" if axis == "up" else "down", paths, binning=factor))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"expected a name of its own for each picker, found {name} twice; give NAME=PATH")
    return sources


def printable(name: str) -> str:
    """A file's name with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _split_name(text: str) -> tuple[str | None, Path]:
    """Name and path of ``NAME=PATH``, unless a file has this whole text as its name."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and name and not Path(text).exists() else (None, Path(text))


def find_pick_files(
    name: str, folder: Path, y_axis: YAxis, paths: Sequence[LabelledPaths], *, binning: float = 1.0
) -> PickFiles:
    """Assign the files in a folder to micrographs, by the micrographs' stems.

    The picks of ``a.mrc`` are ``a.star``, or ``a_anything.star`` with the same ``_anything`` for all, or in one table
    that names its micrographs (cryoSPARC's may be in several files); in any format of `read_coordinates`. If the folder
    has a subfolder with the name of a training set, the picks of that set must be in it.

    Raises:
        FrazilError: the folder is missing, holds no picks for the micrographs, or is ambiguous.
    """
    if not folder.is_dir():
        raise FrazilError(f"{folder}: expected a folder with picks, found none")
    of_set: dict[str, list[Path]] = {}
    for one in paths:
        of_set.setdefault(one.source.folder, []).append(one.micrograph)
    places: dict[Path, _Place] = {}
    owners: dict[_Place, str] = {}
    for set_folder, micrographs in of_set.items():
        own_folder = folder / set_folder
        for micrograph, place in _find_places(own_folder if own_folder.is_dir() else folder, micrographs).items():
            other = owners.setdefault(place, set_folder)
            if other != set_folder:
                raise FrazilError(
                    f"{place.file}: expected picks of one micrograph, found a {micrograph.stem} in {other} and one in "
                    f"{set_folder}; give them folders of their own, {folder / other} and {own_folder}"
                )
            places[micrograph] = place
    if not places:
        raise FrazilError(
            f"{folder}: expected picks named after validation micrographs, such as {paths[0].micrograph.stem}.star, "
            f"found none (read are {', '.join(_ENDINGS)})"
        )
    return PickFiles(name=name, folder=folder, y_axis=y_axis, files=places, binning=binning)


def _find_places(folder: Path, micrographs: Sequence[Path]) -> dict[Path, _Place]:
    """Locations of the picks of micrographs in one folder."""
    readable = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _ENDINGS and path.is_file()]
    by_tail: dict[str, dict[Path, _Place]] = {}
    for micrograph in dict.fromkeys(micrographs):
        for path in readable:
            tail = path.name.removeprefix(micrograph.stem)
            if tail != path.name and _TAIL.fullmatch(tail):
                by_tail.setdefault(tail, {})[micrograph] = _Place(path, None)
    # Beside a.star, a_b.star may hold the picks of a_b.mrc.
    plain = {tail: found for tail, found in by_tail.items() if tail.startswith(".")}
    tails = plain or by_tail
    if len(tails) > 1:
        raise FrazilError(
            f"{folder}: expected one kind of picks, found files ending in {' and '.join(sorted(tails))}; "
            "keep each kind in a folder of its own"
        )
    if tails:
        return next(iter(tails.values()))
    if not readable or (len(readable) > 1 and not may_be_together(readable)):
        return {}
    table, *passthrough = readable
    stems = named_micrographs(table, passthrough=passthrough)
    return {path: _Place(table, path.stem, tuple(passthrough)) for path in micrographs if path.stem in stems}
