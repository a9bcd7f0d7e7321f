"""Pick files written from the stream, in the formats of RELION, cryoSPARC, EMAN, crYOLO, Topaz and plain programs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import MicrographError, OutputError
from frazil.faults import reason_of
from frazil.files import PickFileFormat, write_atomically
from frazil.outputs import PICK_FILE_ENDINGS, OutputFolder
from frazil.paths import absolute_path, path_below
from frazil.picking import (
    GrowingStar,
    Picks,
    coordinate_list,
    particles_star,
    write_box,
    write_cbox,
    write_csv,
    write_star,
    write_topaz,
)

__all__ = ["PickFileWriter"]

_PARTICLES = "particles.star"
_JOB = re.compile(r"^.+?/job\d{3}[^/]*/")


class PickFileWriter:
    """Writes one pick file for each micrograph into a directory; the tree below it mirrors the watched one.

    In the format ``relion`` the directory is an AutoPick job: ``autopick.star`` lists each micrograph and its
    coordinate file. That file is where RELION would put it: its path below the directory is the micrograph's path below
    its job, or below the project. In ``cryosparc`` there is one file only, ``particles.star``, with the particles of
    all micrographs. Names in both tables are relative to the working directory, which is the project's, as in RELION.

    Args:
        directory: the directory, made if missing.
        file_format: the format of the files.
        box_size_px: size of boxes; None for the particle's diameter.
        names_source: whether a ``star`` file also names the whole path of its micrograph, in a comment.

    Raises:
        FrazilError: the directory cannot be made, or its table of that name is no STAR file.
    """

    def __init__(
        self,
        directory: Path,
        file_format: PickFileFormat,
        *,
        box_size_px: int | None = None,
        names_source: bool = False,
    ) -> None:
        self._directory = directory
        self._outputs = OutputFolder(directory, PICK_FILE_ENDINGS.get(file_format, ""))
        self._format = file_format
        self._box_size_px = box_size_px
        self._names_source = names_source
        self._outputs.prepare()
        self._table: GrowingStar | None = None
        if file_format == "relion":
            self._table = coordinate_list(directory / "autopick.star")
        elif file_format == "cryosparc":
            self._table = particles_star(directory / _PARTICLES)

    def write(self, document: MicrographDocument) -> Path:
        """Write the picks of one micrograph, in place of those of an earlier result.

        Returns:
            The file with its picks.

        Raises:
            MicrographError: this file can never be written, or the micrograph's name cannot stand in the table that
                RELION, cryoSPARC or Topaz reads; others can.
            OutputError: nothing can be written at present.
        """
        y, x, score = document.picks.arrays()
        picks = Picks(y=y, x=x, score=score)
        try:
            if self._format == "cryosparc":
                self._put(document, [(f"{x:.3f}", f"{y:.3f}", f"{score:.6f}") for x, y, score in picks.rows()])
                return self._directory / _PARTICLES
            micrograph, file = Path(document.path), self._file(document)
            self._outputs.write(micrograph, file, lambda place: self._write(place, document, picks))
            if self._format == "relion":
                self._put(document, [(_seen_from_project(str(file)),)])
            return file
        except OSError as error:
            raise OutputError(f"{self._directory}: cannot be written: {reason_of(error)}") from error

    def _file(self, document: MicrographDocument) -> Path:
        # Names come over the network: no name may lead to a file outside the directory.
        folder = document.directory
        if self._format == "relion":  # RELION looks for it under the micrograph's name without the job's folder
            folder = str(Path(_JOB.sub("", _seen_from_project(document.path))).parent)
        parts = [part for part in Path(folder).parts if part not in ("..", "/")]
        return self._outputs.file_of(str(Path(*parts, Path(document.micrograph).name or "_")))

    def _write(self, file: Path, document: MicrographDocument, picks: Picks) -> None:
        box_size_px = self._box_size_px or max(1, round(document.diameter_px))
        match self._format:
            case "box":
                write_box(file, picks, box_size_px)
            case "cbox":
                write_cbox(file, picks, box_size_px, diameter_px=document.diameter_px)
            case "topaz":
                try:
                    write_topaz(file, picks, document.micrograph)
                except ValueError as error:
                    raise MicrographError(Path(document.path), "name", f"{file}: {error}") from None
            case "csv":
                write_csv(file, picks)
            case "json":
                write_atomically(file, encode_document(document).decode() + "\n")
            case "star":
                source = Path(document.path) if self._names_source else None
                write_star(file, picks, micrograph=document.micrograph, source=source)
            case _:  # RELION knows the micrograph from its table
                write_star(file, picks)

    def _put(self, document: MicrographDocument, rows: list[tuple[str, ...]]) -> None:
        if self._table is None:
            return
        try:
            self._table.put(_seen_from_project(document.path), rows)
        except ValueError as error:
            raise MicrographError(Path(document.path), "name", f"{self._table.path}: {error}") from None
        except OSError as error:  # the table cannot be written for any micrograph
            raise OutputError(f"{self._table.path}: cannot be written: {reason_of(error)}") from error


def _seen_from_project(path: str) -> str:
    """A path as RELION writes it: relative to the working directory if it is below that, and by a job's number.

    RELION makes a job's alias as a link beside it: ``MotionCorr/good`` to ``../MotionCorr/job002/``.
    """
    below = path_below(Path.cwd(), Path(path))
    if below is None:
        return str(absolute_path(Path(path)))
    kind, name, *rest = (*below.parts, "", "")
    job = Path(kind, Path(os.path.realpath(Path(kind, name))).name)
    is_alias = Path(kind, name).is_symlink() and re.fullmatch(r"job\d{3}", job.name)
    return str(
        job.joinpath(*rest) if is_alias and os.path.realpath(job) == os.path.realpath(Path(kind, name)) else below
    )
