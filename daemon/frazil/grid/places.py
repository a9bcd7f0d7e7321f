"""Finds what the microscope's program wrote down of a micrograph: beside it, or in the program's own tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from frazil.documents import Place
from frazil.errors import FrazilError
from frazil.grid.epu import data_folders, exposure_name, hole_of, read_exposure, square_of
from frazil.grid.serialem import NavigatorItem, mdoc_names, read_mdoc, read_navigator

__all__ = ["PlaceFinder"]

_MOST_NAVIGATORS = 20


class PlaceFinder:
    """Finds the places of micrographs, one after the other.

    Args:
        metadata: directory of the microscope's program, where that is not the micrographs': an EPU session, or where
            SerialEM writes mdocs and the navigator.
        doubt: called with one line for a file that is there and cannot be read as what it should be.
    """

    def __init__(self, metadata: Path | None = None, doubt: Callable[[str], None] = lambda _: None) -> None:
        self._metadata = metadata
        self._doubt = doubt
        self._last_folder: Path | None = None
        self._navigators: dict[Path, tuple[int, int]] = {}
        self._items: dict[str, NavigatorItem] = {}

    def find(self, micrograph: Path) -> Place | None:
        """The place of a micrograph; None where nothing is known of it. It never raises."""
        named = Place(square=square_of(micrograph), hole=hole_of(micrograph.name))
        try:
            read = self._find_epu(micrograph) or self._find_serialem(micrograph)
        except (FrazilError, OSError, ValueError) as error:
            self._doubt(f"{micrograph.name}: where it was taken is not known: {error}")
            read = None
        if read is None:
            return named if named.square or named.hole else None
        # A folder of the micrograph's own says nothing else than the tree, but may be the only one with the square.
        return msgspec.structs.replace(read, square=read.square or named.square, hole=read.hole or named.hole)

    def _find_epu(self, micrograph: Path) -> Place | None:
        name = exposure_name(micrograph.name)
        if name is None:
            return None
        file = f"{name}.xml"
        for folder in (self._last_folder, micrograph.parent):
            if folder is not None and (folder / file).is_file():
                return read_exposure(folder / file)
        for folder in data_folders(self._metadata) if self._metadata is not None else ():
            if (folder / file).is_file():
                self._last_folder = folder  # the next exposure is usually of the same square
                return read_exposure(folder / file)
        return None

    def _find_serialem(self, micrograph: Path) -> Place | None:
        for folder in (micrograph.parent, self._metadata):
            for name in mdoc_names(micrograph.name) if folder is not None else ():
                if folder is not None and (folder / name).is_file():
                    self._read_navigators(folder)
                    return read_mdoc(folder / name, self._items)
        return None

    def _read_navigators(self, folder: Path) -> None:
        """Read the navigators beside an mdoc and above it that have changed."""
        files = [file for place in (folder, folder.parent) for file in sorted(place.glob("*.nav"))[:_MOST_NAVIGATORS]]
        for file in files:
            status = file.stat()
            stamp = status.st_size, status.st_mtime_ns
            if self._navigators.get(file) != stamp:
                self._navigators[file] = stamp
                self._items |= read_navigator(file)
