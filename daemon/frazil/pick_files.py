"""Pick files written from the stream, in the formats of RELION, cryoSPARC, EMAN, crYOLO, Topaz and plain programs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec.structs import replace

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import MicrographError, OutputError
from frazil.faults import reason_of
from frazil.files import PickFileFormat, write_atomically
from frazil.outputs import PICK_FILE_ENDINGS, OutputFolder
from frazil.paths import absolute_path, path_below
from frazil.picking import (
    GrowingStar,
    Picks,
    box_text,
    cbox_text,
    coordinate_list,
    csv_text,
    particles_star,
    star_text,
    topaz_text,
)

__all__ = ["PickFileWriter", "pick_file_text", "safe_key", "seen_from_project"]

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
        try:
            if self._format == "cryosparc":
                rows = _picks_of(document).rows()
                self._put(document, [(f"{x:.3f}", f"{y:.3f}", f"{score:.6f}") for x, y, score in rows])
                return self._directory / _PARTICLES
            micrograph, file = Path(document.path), self._file(document)
            self._outputs.write(micrograph, file, lambda place: self._write(place, document))
            if self._format == "relion":
                self._put(document, [(seen_from_project(str(file)),)])
            return file
        except OSError as error:
            raise OutputError(f"{self._directory}: cannot be written: {reason_of(error)}") from error

    def _file(self, document: MicrographDocument) -> Path:
        if self._format == "relion":  # RELION looks for it under the micrograph's name without the job's folder
            folder = str(Path(_JOB.sub("", seen_from_project(document.path))).parent)
            document = replace(document, directory=folder)
        return self._outputs.file_of(safe_key(document))

    def _write(self, file: Path, document: MicrographDocument) -> None:
        try:
            text = pick_file_text(
                document, self._format, box_size_px=self._box_size_px, names_source=self._names_source
            )
        except ValueError as error:
            raise MicrographError(Path(document.path), "name", f"{file}: {error}") from None
        write_atomically(file, text)

    def _put(self, document: MicrographDocument, rows: list[tuple[str, ...]]) -> None:
        if self._table is None:
            return
        try:
            self._table.put(seen_from_project(document.path), rows)
        except ValueError as error:
            raise MicrographError(Path(document.path), "name", f"{self._table.path}: {error}") from None
        except OSError as error:  # the table cannot be written for any micrograph
            raise OutputError(f"{self._table.path}: cannot be written: {reason_of(error)}") from error


def pick_file_text(
    document: MicrographDocument,
    file_format: PickFileFormat,
    *,
    box_size_px: int | None = None,
    names_source: bool = False,
) -> str:
    """The text of the pick file of a micrograph.

    Args:
        document: with the picks.
        file_format: any but ``cryosparc``, which has one file for all micrographs.
        box_size_px: size of boxes; None for the particle's diameter.
        names_source: whether a ``star`` file also names the whole path of its micrograph, in a comment.

    Raises:
        ValueError: the micrograph's name cannot stand in such a file.
    """
    picks, box_size_px = _picks_of(document), box_size_px or max(1, round(document.diameter_px))
    match file_format:
        case "box":
            return box_text(picks, box_size_px)
        case "cbox":
            return cbox_text(picks, box_size_px, diameter_px=document.diameter_px)
        case "topaz":
            return topaz_text(picks, document.micrograph)
        case "csv":
            return csv_text(picks)
        case "json":
            return encode_document(document).decode() + "\n"
        case "star":
            source = Path(document.path) if names_source else None
            return star_text(picks, micrograph=document.micrograph, source=source)
        case _:  # RELION knows the micrograph from its table
            return star_text(picks)


def safe_key(document: MicrographDocument) -> str:
    """The path of a micrograph below the watched directory, without parts that lead to anywhere else.

    Names come over the network: none may lead to a file outside the directory.
    """
    parts = [part for part in Path(document.directory).parts if part not in ("..", "/")]
    return str(Path(*parts, Path(document.micrograph).name or "_"))


def _picks_of(document: MicrographDocument) -> Picks:
    y, x, score = document.picks.arrays()
    return Picks(y=y, x=x, score=score)


def seen_from_project(path: str) -> str:
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
