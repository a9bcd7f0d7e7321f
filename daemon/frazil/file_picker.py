"""Picking of given files, one after the other, for ``frazil pick``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import MicrographError, OutputError, SettingsError, printable
from frazil.faults import failure_of, reason_of
from frazil.files import write_atomically
from frazil.model import Device, Precision, available_cores, load_model
from frazil.outputs import OutputFolder
from frazil.paths import absolute_path
from frazil.picking import (
    LARGEST_MICROGRAPH_BYTES,
    Picker,
    PickingSettings,
    PixelMemory,
    PreparationOnDevice,
    draw_picks,
    read_micrograph,
    write_star,
)
from frazil.record import record_picks
from frazil.session.pick.doubts import BLANK_REPORTED, Doubts
from frazil.settings import default_model_path, doubt_diameter

__all__ = ["FilePicker", "PickedFile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedFile:
    """One micrograph picked and written."""

    document: MicrographDocument
    star: Path
    doubts: Sequence[str] = ()
    """New doubts about the settings, in one line each."""

    def as_line(self) -> str:
        """The result as a line for people."""
        picks, seconds, blank = (
            len(self.document.picks.score),
            self.document.seconds.total,
            self.document.blank_fraction,
        )
        where = f", {blank:.0%} of it blank" if blank >= BLANK_REPORTED else ""
        return printable(f"{self.document.micrograph}: {picks} picks in {seconds:.2f} s{where} -> {self.star}")

    def as_json(self) -> str:
        """The document as JSON, for programs."""
        return encode_document(self.document).decode()


class FilePicker:
    """Picks files with one model, and writes their pick files.

    Args:
        model: a model's folder, a version's folder, or an .onnx file; None for the default model.
        threads: CPU threads of the model; None for every core.

    Raises:
        FrazilError: a setting is impossible, the model cannot serve, or the directory cannot be written.
    """

    def __init__(
        self,
        settings: PickingSettings,
        *,
        out: Path,
        model: Path | None = None,
        device: Device = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
        max_micrograph_bytes: int = LARGEST_MICROGRAPH_BYTES,
    ) -> None:
        doubt = None if settings.unusual_diameter else doubt_diameter(settings.diameter_angstrom)
        if doubt:
            raise SettingsError(f"--diameter: {doubt} (--unusual-diameter accepts it)")
        self._outputs = OutputFolder(out)
        self._outputs.prepare()
        threads = threads or available_cores()
        cv2.setNumThreads(threads)
        self._largest_bytes = max_micrograph_bytes
        self._memory = PixelMemory()
        loaded = load_model(model or default_model_path(), device, threads, precision=precision)
        self._picker = Picker(loaded, settings, device=PreparationOnDevice(loaded))
        self._doubts = Doubts(settings.contrast, report_no_picks=True)
        self._written: dict[Path, Path] = {}

    def describe(self) -> str:
        """The model, its device and its threshold, in one line."""
        model = self._picker.model
        return (
            f"model {model.identity.short} on {model.provider} in {model.precision}, "
            f"threshold {self._picker.threshold:g}"
        )

    def pick(self, path: Path, *, with_picture: bool = False) -> PickedFile:
        """Pick one file and write its STAR file.

        Raises:
            MicrographError: the file cannot be picked, its results would overwrite another file's, or they can never be
                written.
            OutputError: no results can be written at present.
        """
        self._outputs.check_name(path, path.name)
        star = self._outputs.file_of(path.name)
        if star in self._written:
            raise MicrographError(path, "name", f"expected a name of its own, found the name of {self._written[star]}")
        try:
            picked = self._pick(path, star, with_picture=with_picture)
        except OutputError:
            raise
        except Exception as error:
            raise failure_of(path, "picking", error) from error
        self._written[star] = path
        return picked

    def _pick(self, path: Path, star: Path, *, with_picture: bool) -> PickedFile:
        started = time.monotonic()
        micrograph = read_micrograph(
            path,
            as_stored=True,
            memory=self._memory,
            largest_bytes=self._largest_bytes,
            rescaling=self._picker.rescaling,
        )
        micrograph = dataclasses.replace(micrograph, path=absolute_path(path))
        read_seconds = time.monotonic() - started
        record = record_picks(self._picker, micrograph, read_seconds=read_seconds, since=started)
        self._write(path, star, lambda file: write_star(file, record.picks, micrograph=path.name))
        if with_picture:
            drawn = draw_picks(micrograph.pixels, record.picks, record.document.diameter_px)
            content = cv2.imencode(".png", drawn)[1].tobytes()
            self._write(path, star.with_suffix(".png"), lambda file: write_atomically(file, content))
        return PickedFile(document=record.document, star=star, doubts=self._doubts.note(record))

    def _write(self, micrograph: Path, file: Path, write: Callable[[Path], None]) -> None:
        try:
            self._outputs.write(micrograph, file, write)
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {reason_of(error)}") from error

    def weigh_doubts(self) -> list[str]:
        """After a micrograph: doubts about the contrast, in one line each. This takes as long as picking."""
        return self._doubts.weigh(self._picker) if self._doubts.is_due(is_idle=True) else []
