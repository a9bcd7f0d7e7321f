"""Files beside the stream: picks as RELION, cryoSPARC, EMAN, crYOLO and plain programs read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import OutputError
from frazil.faults import reason_of
from frazil.outputs import OutputFolder
from frazil.picking import (
    GrowingStar,
    Picks,
    coordinate_list,
    particles_star,
    write_box,
    write_cbox,
    write_csv,
    write_star,
    write_text,
)

__all__ = ["PickFiles"]

Format = Literal["star", "relion", "cryosparc", "box", "cbox", "csv", "json"]

_ENDINGS: dict[str, str] = {
    "star": "_picks.star",
    "relion": "_autopick.star",
    "box": ".box",
    "cbox": ".cbox",
    "csv": ".csv",
    "json": ".json",
}


class PickFiles:
    """A directory with one file for each micrograph; the tree below it mirrors the watched one.

    In the format ``relion`` it is an AutoPick job: ``autopick.star`` lists each micrograph and its coordinate file. In
    ``cryosparc`` there is one file only, ``particles.star``, with the particles of all micrographs. Names in both are
    seen from the working directory, which is the project's, as in RELION itself.

    Args:
        directory: made if missing.
        file_format: what is written.
        box_size_px: of boxes; the particle's diameter if not given.

    Raises:
        FrazilError: the directory cannot be made, or holds a table of that name that is no STAR file.
    """

    def __init__(self, directory: Path, file_format: Format, *, box_size_px: int | None = None) -> None:
        self._directory = directory
        self._outputs = OutputFolder(directory, _ENDINGS.get(file_format, ""))
        self._format = file_format
        self._box_size_px = box_size_px
        self._outputs.prepare()
        self._table: GrowingStar | None = None
        if file_format == "relion":
            self._table = coordinate_list(directory / "autopick.star")
        elif file_format == "cryosparc":
            self._table = particles_star(directory / "particles.star")

    def write(self, document: MicrographDocument) -> None:
        """Write the picks of one micrograph, whole or not at all; those of an earlier result are replaced.

        Raises:
            MicrographError: these alone cannot be written, however long one waits.
            OutputError: nothing can be written at present.
        """
        y, x, score = document.picks.arrays()
        picks = Picks(y=y, x=x, score=score)
        try:
            if self._format == "cryosparc":
                self._put(document, [(f"{x:.3f}", f"{y:.3f}", f"{score:.6f}") for x, y, score in _rows(picks)])
                return
            micrograph, file = Path(document.path), self._file(document)
            self._outputs.write(micrograph, file, lambda place: self._write(place, document, picks))
            if self._format == "relion":
                self._put(document, [(_seen_from_project(str(file)),)])
        except OSError as error:
            raise OutputError(f"{self._directory}: cannot be written: {reason_of(error)}") from error

    def _file(self, document: MicrographDocument) -> Path:
        # Names come over the network: whatever they hold, nothing is written outside the directory.
        parts = [part for part in Path(document.directory).parts if part not in ("..", "/")]
        return self._outputs.file_of(Path(*parts, Path(document.micrograph).name or "_"))

    def _write(self, file: Path, document: MicrographDocument, picks: Picks) -> None:
        box_size_px = self._box_size_px or max(1, round(document.diameter_px))
        match self._format:
            case "box":
                write_box(file, picks, box_size_px)
            case "cbox":
                write_cbox(file, picks, box_size_px, diameter_px=document.diameter_px)
            case "csv":
                write_csv(file, picks)
            case "json":
                write_text(file, encode_document(document).decode() + "\n")
            case _:
                write_star(file, picks)

    def _put(self, document: MicrographDocument, rows: list[tuple[str, ...]]) -> None:
        if self._table is not None:
            self._table.put(_seen_from_project(document.path), rows)


def _rows(picks: Picks) -> zip[tuple[float, float, float]]:
    return zip(picks.x.tolist(), picks.y.tolist(), picks.score.tolist(), strict=True)


def _seen_from_project(path: str) -> str:
    """A path as RELION writes it: relative to the working directory where it lies below that."""
    absolute, project = os.path.abspath(path), os.getcwd()  # noqa: PTH100, PTH109 - links keep their own names
    return os.path.relpath(absolute, project) if Path(absolute).is_relative_to(project) else absolute
