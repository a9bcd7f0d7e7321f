"""STAR tables that grow by one micrograph after the other, and can be read in between."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from gemmi import cif

from frazil.picking.coordinates.files import write_text
from frazil.picking.coordinates.star import read_cif

__all__ = ["GrowingStar", "coordinate_list", "particles_star"]


class GrowingStar:
    """A STAR file with one table, whose first column is the micrograph's name.

    The rows of a micrograph are appended in one piece and flushed to disk. One that comes again replaces its rows.

    Args:
        path: the file; what it holds already stays.
        block: name of the table.
        columns: names without their prefix ``_rln``, the first one ``MicrographName``.

    Raises:
        FrazilError: there is such a file already, and it is no STAR file.
    """

    def __init__(self, path: Path, block: str, columns: Sequence[str]) -> None:
        self._path = path
        names = "".join(f"_rln{name} #{i}\n" for i, name in enumerate(columns, start=1))
        self._header = f"\n# version 30001\n\ndata_{block}\n\nloop_\n{names}"
        self._known: set[str] = set()
        if path.is_file() and path.stat().st_size > len(self._header):
            self._drop_torn_row()
            for block_ in read_cif(path, "STAR"):
                self._known.update(block_.find_values("_rlnMicrographName"))

    def put(self, micrograph: str, rows: Sequence[Sequence[str]]) -> None:
        """Write the rows of one micrograph, each without its first column.

        Raises:
            OSError: they cannot be written.
        """
        name = _value(micrograph)
        text = "".join(" ".join([name, *map(_value, row)]) + "\n" for row in rows)
        if name in self._known or not self._path.is_file():
            write_text(self._path, self._header + self._rows_of_others(name) + text)
        else:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        self._known.add(name)

    def _rows_of_others(self, name: str) -> str:
        if not self._path.is_file():
            return ""
        rows = self._path.read_text("utf-8")[len(self._header) :].splitlines(keepends=True)
        return "".join(row for row in rows if not row.startswith(f"{name} "))

    def _drop_torn_row(self) -> None:
        """Cut off a row that a loss of power left half written; its micrograph comes again."""
        text = self._path.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(self._path, text.rfind(b"\n") + 1)


def _value(text: str) -> str:
    """A value of a table, in quotes only where it must be: RELION knows none."""
    return text if re.fullmatch(r"[\w/.+-][^\s]*", text, re.ASCII) and text[0] != "_" else cif.quote(text)


def coordinate_list(path: Path) -> GrowingStar:
    """RELION's list of an AutoPick job: each micrograph, and the file with its coordinates."""
    return GrowingStar(path, "coordinate_files", ("MicrographName", "MicrographCoordinates"))


def particles_star(path: Path) -> GrowingStar:
    """The particles of many micrographs in one table: name, x, y, figure of merit. cryoSPARC imports it."""
    return GrowingStar(path, "particles", ("MicrographName", "CoordinateX", "CoordinateY", "AutopickFigureOfMerit"))
