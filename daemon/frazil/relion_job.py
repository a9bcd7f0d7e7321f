"""An external job of RELION: micrographs of the project in, coordinates out that RELION extracts particles from.

RELION runs the command in the project's directory, and finds in the job's directory how it ended (a file
``RELION_JOB_EXIT_SUCCESS``, ``_FAILURE`` or ``_ABORTED``), and what other jobs
can take from it (``RELION_OUTPUT_NODES.star``).
An operator who aborts the job leaves ``RELION_JOB_ABORT_NOW`` there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from frazil.errors import FrazilError, MicrographError
from frazil.file_picker import FilePicker, PickedFile
from frazil.files import write_atomically
from frazil.micrograph_names import Named, list_micrographs
from frazil.picking import PickingSettings
from frazil.picking.coordinates.star import read_tables, spell

__all__ = ["JobAbortedError", "RelionJob"]

_ABORT_NOW = "RELION_JOB_ABORT_NOW"
_NODES = "RELION_OUTPUT_NODES.star"
_LIST = "autopick.star"
_SUFFIX = "coords_suffix_autopick.star"
"""RELION 3 knows the picks of a job by a file of this name, which names the STAR file of the micrographs."""
_PIPELINE = Path("default_pipeline.star")
_KEPT = "frazil.json"
_VERSION = re.compile(r"^# version (\d+)", re.MULTILINE)
_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnImagePixelSize")


class JobAbortedError(FrazilError):
    """The operator has aborted the job in RELION."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a job that is continued goes on with."""

    settings: PickingSettings
    model: str
    threshold: float


class RelionJob:
    """One job. RELION's project is the working directory.

    Args:
        out: the job's directory, such as ``External/job005``.
        micrographs: STAR file that names the micrographs, as RELION's jobs write it.
        say: gets a line for each micrograph, and what else is told.
    """

    def __init__(self, out: Path, micrographs: Path, *, say: Callable[[str], None]) -> None:
        self._out = out
        self._micrographs = micrographs
        self._say = say

    @contextlib.contextmanager
    def outcome(self) -> Iterator[None]:
        """Leave the file by which RELION knows how the job ended.

        Raises:
            OSError: it cannot be written.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        for end in ("SUCCESS", "FAILURE", "ABORTED"):
            self._marker(end).unlink(missing_ok=True)
        end = "FAILURE"
        try:
            yield
            end = "SUCCESS"
        except JobAbortedError:
            end = "ABORTED"
            (self._out / _ABORT_NOW).unlink(missing_ok=True)
            raise
        finally:
            self._marker(end).touch()

    def run(self, settings: PickingSettings, **options: Any) -> None:
        """Pick all micrographs that have no picks as yet, or have changed since.

        Args:
            settings: of picking. Without a pixel size, that of the STAR file counts, then that of each file.
            options: further arguments of `FilePicker`.

        Raises:
            FrazilError: nothing could be picked; the message says why.
            JobAbortedError: the operator has aborted the job.
        """
        named, _ = list_micrographs(self._micrographs)
        if not named:
            raise FrazilError(f"{self._micrographs}: expected micrographs, found none")
        if settings.pixel_size_angstrom is None:
            settings = msgspec.structs.replace(settings, pixel_size_angstrom=_pixel_size_angstrom(self._micrographs))
        done = self._picked()
        missing = [one for one in named if not _is_newer(done.get(one.key), one.path)]
        self._say(f"{self._micrographs}: {len(named)} micrographs, {len(named) - len(missing)} of them picked before")
        if missing:
            self._pick(missing, settings, options)
        self._hand_over()

    def _pick(self, missing: list[Named], settings: PickingSettings, options: dict[str, Any]) -> None:
        picker = FilePicker(settings, out=self._out, formats=("relion",), **options)
        kept = self._kept()
        if picker.chooses and kept is not None and (kept.settings, kept.model) == (settings, picker.model_sha256):
            self._say(f"threshold {kept.threshold:g}, as it was chosen in this job before")
            picker.hold(kept.threshold)
        self._say(picker.describe())
        picked = 0
        for one in self._pick_choosing(picker, missing) if picker.chooses else self._pick_each(picker, missing):
            picked += 1
            self._say(f"{picked} of {len(missing)}: {one.as_line()}")
        if not picked:
            raise FrazilError(f"{self._micrographs}: expected micrographs that can be picked, found none")
        self._say(f"{picked} micrographs picked, {len(missing) - picked} failed")
        keep = _Kept(settings=settings, model=picker.model_sha256, threshold=picker.threshold)
        write_atomically(self._out / _KEPT, msgspec.json.encode(keep) + b"\n")

    def _pick_each(self, picker: FilePicker, missing: list[Named]) -> Iterator[PickedFile]:
        for one in missing:
            with self._faults():
                yield picker.pick(one)

    def _pick_choosing(self, picker: FilePicker, missing: list[Named]) -> Iterator[PickedFile]:
        scored = []
        for number, one in enumerate(missing, 1):
            with self._faults():
                scored.append(picker.score(one))
                self._say(f"scored {number} of {len(missing)}: {one.key}")
        if not scored:
            return
        for doubt in picker.choose():
            self._say(f"warning: {doubt}")
        self._say(picker.describe_choice())
        for waiting in scored:
            with self._faults():
                yield picker.write(waiting)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """One micrograph: its failure is said, and the others are picked."""
        if (self._out / _ABORT_NOW).exists():
            raise JobAbortedError(f"{self._out}: aborted in RELION; what is picked stays, and a continued job goes on")
        try:
            yield
        except MicrographError as error:
            self._say(f"failed: {error}")

    def _picked(self) -> dict[str, Path]:
        """The micrographs that this job has picks of, each with its coordinate file."""
        if not (self._out / _LIST).is_file():
            return {}
        table = read_tables(self._out / _LIST)[0].columns
        return dict(zip(table["rlnMicrographName"], map(Path, table["rlnMicrographCoordinates"]), strict=True))

    def _kept(self) -> _Kept | None:
        with contextlib.suppress(OSError, ValueError):
            return msgspec.json.decode((self._out / _KEPT).read_bytes(), type=_Kept)
        return None

    def _hand_over(self) -> None:
        """Tell RELION what other jobs can take from this one."""
        write_atomically(self._out / _SUFFIX, f"{self._micrographs}\n")
        pipeline = _PIPELINE.read_text("utf-8", "replace") if _PIPELINE.is_file() else ""
        if "_rlnPipeLineNodeTypeLabel" in pipeline:  # RELION 4 and later
            version = _VERSION.search(pipeline)
            is_5 = version is not None and int(version[1]) >= 50_000
            kind = "MicrographCoordsGroup.star.relion" if is_5 else "MicrographsCoords.star.relion"
            column, node = "rlnPipeLineNodeTypeLabel", self._out / _LIST
        else:
            kind, column, node = "2", "rlnPipeLineNodeType", self._out / _SUFFIX
        write_atomically(
            self._out / _NODES,
            "\n# version 30001\n\ndata_output_nodes\n\nloop_\n"
            f"_rlnPipeLineNodeName #1\n_{column} #2\n{spell(str(node))} {kind}\n",
        )

    def _marker(self, end: str) -> Path:
        return self._out / f"RELION_JOB_EXIT_{end}"


def _is_newer(picks: Path | None, micrograph: Path) -> bool:
    """Whether there are picks, made after the micrograph was written; one that is not there has no newer ones."""
    try:
        return picks is not None and picks.stat().st_mtime_ns >= micrograph.stat().st_mtime_ns
    except OSError:
        return False


def _pixel_size_angstrom(star: Path) -> float | None:
    """The pixel size of the micrographs, as a STAR file says; None where it does not, or they differ."""
    said = {value for table in read_tables(star) for column in _PIXEL_SIZES for value in table.columns.get(column, ())}
    with contextlib.suppress(ValueError):
        return float(said.pop()) if len(said) == 1 else None
    return None
