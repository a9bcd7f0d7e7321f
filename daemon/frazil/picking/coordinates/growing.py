"""STAR tables that grow by one micrograph after the other, and can be read in between."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from frazil.errors import FrazilError
from frazil.files import write_atomically
from frazil.picking.coordinates.star import read_tables, spell, spell_without_quotes, split_row
from frazil.picking.coordinates.table import read_text

__all__ = ["GrowingStar", "coordinate_list", "particles_star"]

_MICROGRAPH = "rlnMicrographName"


class GrowingStar:
    """A STAR file with one table, whose first column is the micrograph's name.

    The rows of a micrograph are appended in one piece and flushed to disk. One that comes again replaces its rows.

    Args:
        path: the file; what it holds already stays.
        block: name of the table.
        columns: of the table after the first one, ``rlnMicrographName``.
        spell_name: how the micrograph's name is written.

    Raises:
        FrazilError: there is such a file already, and it is no STAR file or holds another table.
    """

    def __init__(
        self, path: Path, block: str, columns: Sequence[str], *, spell_name: Callable[[str], str] = spell
    ) -> None:
        self.path = path
        self._spell_name = spell_name
        names = "".join(f"_{name} #{i}\n" for i, name in enumerate((_MICROGRAPH, *columns), start=1))
        self._header = f"\n# version 30001\n\ndata_{block}\n\nloop_\n{names}"
        self._known: set[str] = set()
        if self._begun():
            if not read_text(path).startswith(self._header):
                found = ", ".join(name for table in read_tables(path)[:1] for name in table.columns)
                raise FrazilError(
                    f"{path}: expected a table data_{block} with {_MICROGRAPH}, {', '.join(columns)}, as frazil writes "
                    f"it, found one with {found or 'no column'}: move it away, or write elsewhere"
                )
            self._drop_torn_row()
            for table in read_tables(path):
                self._known.update(map(posixpath.normpath, table.columns[_MICROGRAPH]))

    def put(self, micrograph: str, rows: Sequence[Sequence[str]]) -> None:
        """Write the rows of one micrograph, each without its first column.

        Raises:
            OSError: they cannot be written.
            ValueError: a value could not be read again by RELION.
        """
        spelt = self._spell_name(micrograph)
        text = "".join(" ".join([spelt, *map(spell, row)]) + "\n" for row in rows)
        name = posixpath.normpath(micrograph)
        if not self._begun():
            self._known.clear()
        if name in self._known or not self._known:
            write_atomically(self.path, self._header + self._rows_of_others(name) + text)
        else:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        self._known.add(name)

    def _begun(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > 0

    def _rows_of_others(self, name: str) -> str:
        if not self._begun():
            return ""
        rows = read_text(self.path)[len(self._header) :].split("\n")
        return "".join(
            f"{row}\n" for row in rows if (values := split_row(row)) and posixpath.normpath(values[0]) != name
        )

    def _drop_torn_row(self) -> None:
        """Cut off a row that a loss of power left half written; its micrograph comes again."""
        text = self.path.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(self.path, text.rfind(b"\n") + 1)


def coordinate_list(path: Path) -> GrowingStar:
    """RELION's list of an AutoPick job: each micrograph, and the file with its coordinates."""
    return GrowingStar(path, "coordinate_files", ("rlnMicrographCoordinates",))


def particles_star(path: Path) -> GrowingStar:
    """The particles of many micrographs in one table: name, x, y, figure of merit. cryoSPARC imports it.

    cryoSPARC's reader splits rows at blanks and knows no quotes.
    """
    columns = ("rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit")
    return GrowingStar(path, "particles", columns, spell_name=spell_without_quotes)
