"""Picking of given files for ``frazil pick``: each is scored, the threshold is chosen over all, and all are written.

With a threshold that is given, each file is written as soon as it is scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from frazil.documents import MicrographDocument, columns_of, directory_of, encode_document
from frazil.errors import MicrographError, OutputError, SettingsError, printable
from frazil.faults import failure_of, reason_of
from frazil.files import PickFileFormat, write_atomically
from frazil.junk_area import JunkSearch, describe_junk, no_junk, outlines_of, outside_junk, sift_picks
from frazil.limits import ChoiceBasis, JunkPicks, LimitsPatch
from frazil.micrograph_names import Named
from frazil.model import Device, Precision, available_cores, load_model
from frazil.model.contract import read_calibration
from frazil.outputs import OutputFolder
from frazil.paths import absolute_path, is_same_file
from frazil.pick_files import PickFileWriter
from frazil.picking import (
    LARGEST_MICROGRAPH_BYTES,
    JunkFinder,
    Micrograph,
    PeakScores,
    Picker,
    PickingSettings,
    Picks,
    PixelMemory,
    PreparationOnDevice,
    ThresholdChoice,
    assess_threshold,
    choose_threshold,
    draw_picks,
    find_low_peaks,
    read_micrograph,
    star_source,
)
from frazil.record import Record, record_picks
from frazil.session.outbox.ledger import watched_of
from frazil.session.pick.doubts import BLANK_REPORTED, Doubts
from frazil.settings import default_junk_model_path, default_model_path, doubt_diameter

__all__ = ["FilePicker", "PickedFile", "ScoredFile"]

_IN_MEMORY_BYTES = 2**26
"""Of peaks that wait for the threshold; what is more waits in a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedFile:
    """One micrograph picked and written."""

    document: MicrographDocument
    file: Path
    """With the picks; in the first one of several formats."""
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
        where += describe_junk(self.document)
        return printable(f"{self.document.micrograph}: {picks} picks in {seconds:.2f} s{where} -> {self.file}")

    def as_json(self) -> str:
        """The document as JSON, for programs."""
        return encode_document(self.document).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredFile:
    """One micrograph scored, whose picks wait for the threshold."""

    micrograph: Named
    doubts: Sequence[str]
    """New doubts about the settings, in one line each."""
    at: int
    """Where its peaks wait."""
    size: int


class _Waiting(msgspec.Struct, frozen=True):
    """A scored micrograph as it waits: its document without picks, and its peaks."""

    document: MicrographDocument
    y: bytes
    x: bytes
    score: bytes

    @classmethod
    def of(cls, document: MicrographDocument, peaks: Picks) -> _Waiting:
        none = columns_of(peaks.select(np.zeros(len(peaks), np.bool_)))
        return cls(
            msgspec.structs.replace(document, picks=none), *(a.tobytes() for a in (peaks.y, peaks.x, peaks.score))
        )

    def peaks(self) -> Picks:
        y, x, score = (np.frombuffer(column, np.float64) for column in (self.y, self.x, self.score))
        return Picks(y=y, x=x, score=score)


class FilePicker:
    """Picks files with one model, and writes their pick files.

    Where `chooses`, ``score`` each file, then ``choose``, then ``write`` each; else ``pick`` each.

    Args:
        out: directory of the pick files, which mirror the tree of the micrographs.
        formats: of the pick files, one file in each.
        target_precision: precision for which the threshold is chosen. Default: that of the best F1.
        model: a model's folder, a version's folder, or an .onnx file; None for the default model.
        find_junk: whether junk is looked for.
        junk_model: the model that finds it; None for the default one.
        junk_picks: what becomes of picks in junk.
        threads: CPU threads of the model; None for every core.

    Raises:
        FrazilError: a setting is impossible, the model cannot serve, or the directory cannot be written.
    """

    def __init__(
        self,
        settings: PickingSettings,
        *,
        out: Path,
        formats: Sequence[PickFileFormat] = ("star",),
        target_precision: float | None = None,
        model: Path | None = None,
        find_junk: bool = True,
        junk_model: Path | None = None,
        junk_picks: JunkPicks = "drop",
        device: Device = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
        max_micrograph_bytes: int = LARGEST_MICROGRAPH_BYTES,
    ) -> None:
        doubt = None if settings.unusual_diameter else doubt_diameter(settings.diameter_angstrom)
        if doubt:
            raise SettingsError(f"--diameter: {doubt} (--unusual-diameter accepts it)")
        if target_precision is not None and settings.threshold is not None:
            raise SettingsError("expected --threshold or --target-precision, found both")
        if watched := watched_of(out):
            raise OutputError(
                printable(
                    f"{out}: expected a directory of its own, found the results of a daemon that watches {watched}: "
                )
                + "give another --out"
            )
        self._outputs = OutputFolder(out)
        self._outputs.prepare()
        self._writers = [PickFileWriter(out, one, names_source=True) for one in formats]
        threads = threads or available_cores()
        cv2.setNumThreads(threads)
        self._largest_bytes = max_micrograph_bytes
        self._memory = PixelMemory()
        loaded = load_model(model or default_model_path(), device, threads, precision=precision)
        self._picker = Picker(loaded, settings, device=PreparationOnDevice(loaded))
        self._junk: JunkSearch | None = None
        if find_junk:
            finding = load_model(junk_model or default_junk_model_path(), device, threads, finds="junk")
            self._junk = JunkSearch(finder=JunkFinder(finding, settings.contrast), picks=junk_picks)
        self.chooses = settings.threshold is None
        self._doubts = Doubts(settings.contrast, report_no_picks=not self.chooses)
        self._target_precision = target_precision
        self._evidence: list[PeakScores] = []
        self._choice: ThresholdChoice | None = None
        self._claimed: dict[Path, Path] = {}
        self._waiting = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(out))  # noqa: SIM115
        weakref.finalize(self, self._waiting.close)

    @property
    def model_sha256(self) -> str:
        """Identity of the model that picks."""
        return self._picker.model.identity.sha256

    @property
    def threshold(self) -> float:
        """Lowest figure of merit of a pick; where frazil chooses it, after `choose`."""
        return self._picker.threshold

    def describe(self) -> str:
        """The model, its device and its threshold, in one line."""
        model = self._picker.model
        threshold = "chosen from the micrographs" if self.chooses else f"{self._picker.threshold:g}"
        junk = "" if self._junk is None else f", junk by model {self._junk.finder.model.identity.short}"
        return f"model {model.identity.short} on {model.provider} in {model.precision}, threshold {threshold}{junk}"

    def describe_choice(self) -> str:
        """The threshold that was chosen, and how it came about, in one line; after `choose`."""
        return f"threshold {self._picker.threshold:g}, {self._basis.describe()}"

    def hold(self, threshold: float) -> None:
        """Pick with a threshold that was chosen before, in place of a choice."""
        self._picker = self._picker.with_limits(LimitsPatch(threshold=threshold))
        self.chooses = False

    def pick(self, micrograph: Named, *, with_picture: bool = False) -> PickedFile:
        """Pick one file and write its pick files.

        Raises:
            MicrographError: the file cannot be picked, its results would overwrite another file's, or they can never be
                written.
            OutputError: no results can be written at present.
        """
        with self._edge_of(micrograph.path):
            self._claim(micrograph)
            read, record = self._record(micrograph, self._picker)
            file = self._write_results(micrograph, record.picks, record.document, read if with_picture else None)
            return PickedFile(document=record.document, file=file, doubts=self._doubts.note(record))

    def score(self, micrograph: Named) -> ScoredFile:
        """Score one file; its peaks wait until the threshold is chosen.

        Raises:
            MicrographError: the file cannot be picked, or its results would overwrite another file's.
            OutputError: the peaks cannot be kept at present.
        """
        with self._edge_of(micrograph.path):
            self._claim(micrograph)
            picker = self._picker
            _, record = self._record(micrograph, picker)
            document = record.document
            peaks = find_low_peaks(record.score_map, picker.limits, document.pixel_size_angstrom)
            self._evidence.append(outside_junk(document.junk, peaks).score.astype(np.float32))
            packed = msgspec.msgpack.encode(_Waiting.of(document, peaks))
            at = self._waiting.seek(0, 2)
            try:
                self._waiting.write(packed)
            except OSError as error:
                raise OutputError(f"the peaks of {micrograph.path} cannot be kept: {reason_of(error)}") from error
            return ScoredFile(micrograph=micrograph, doubts=self._doubts.note(record), at=at, size=len(packed))

    def choose(self) -> list[str]:
        """Choose the threshold from all files that were scored; return new doubts, in one line each."""
        contract = self._picker.model.contract
        self._choice = choose_threshold(
            self._evidence,
            contract.threshold,
            target_precision=self._target_precision,
            calibration=read_calibration(contract.calibration),
        )
        self._picker = self._picker.with_limits(LimitsPatch(threshold=self._choice.threshold))
        if self._choice.picks_per_micrograph:
            return []
        diameter, contrast = self._picker.settings.diameter_angstrom, self._picker.settings.contrast
        return [f"no picks: are diameter ({diameter:g} Å), pixel size and contrast ({contrast}) right?"]

    def write(self, scored: ScoredFile, *, with_picture: bool = False) -> PickedFile:
        """Write the pick files of a file that was scored, after `choose`; errors are those of `pick`."""
        with self._edge_of(scored.micrograph.path):
            self._claim(scored.micrograph)
            self._waiting.seek(scored.at)
            waiting = msgspec.msgpack.decode(self._waiting.read(scored.size), type=_Waiting)
            peaks, threshold = waiting.peaks(), self._picker.threshold
            picks, junk = sift_picks(waiting.document.junk, peaks.select(peaks.reaching(threshold)))
            document = msgspec.structs.replace(
                waiting.document, threshold=threshold, picks=columns_of(picks), junk=junk, chosen=self._basis
            )
            pixels = self._read(scored.micrograph.path) if with_picture else None
            return PickedFile(document=document, file=self._write_results(scored.micrograph, picks, document, pixels))

    @property
    def _basis(self) -> ChoiceBasis:
        choice = self._choice or assess_threshold(self._evidence, self._picker.threshold)
        return ChoiceBasis(
            precision=choice.precision,
            micrographs=choice.micrographs,
            picks_per_micrograph=choice.picks_per_micrograph,
            held=True,
        )

    @contextlib.contextmanager
    def _edge_of(self, path: Path) -> Iterator[None]:
        """The edge of one micrograph: whatever fails within is its failure, or that of all outputs."""
        try:
            yield
        except OutputError:
            raise
        except Exception as error:
            raise failure_of(path, "picking", error) from error

    def _claim(self, micrograph: Named) -> None:
        """Check that the pick files of a micrograph have no other's picks."""
        path, key = micrograph
        self._outputs.check_name(path, key)
        star = self._outputs.file_of(key)
        self._check_claim(path, star)
        self._claimed.setdefault(star, path)

    def _check_claim(self, path: Path, star: Path) -> None:
        """Check that the pick file is not that of another micrograph, of this run or an earlier one."""
        micrograph = absolute_path(path)
        claimed = self._claimed.get(star)
        earlier = absolute_path(claimed) if claimed else star_source(star)
        if earlier is None or str(earlier) == printable(str(micrograph)) or is_same_file(earlier, micrograph):
            return
        raise MicrographError(
            path,
            "name",
            f"expected a pick file of its own, found that {star} has the picks of {earlier}: give another --out",
        )

    def _read(self, path: Path) -> Micrograph:
        micrograph = read_micrograph(
            path,
            as_stored=True,
            memory=self._memory,
            largest_bytes=self._largest_bytes,
            rescaling=self._picker.rescaling,
        )
        return dataclasses.replace(micrograph, path=absolute_path(path))

    def _record(self, micrograph: Named, picker: Picker) -> tuple[Micrograph, Record]:
        started = time.monotonic()
        read = self._read(micrograph.path)
        read_seconds = time.monotonic() - started
        find_junk = no_junk if self._junk is None else self._junk.find
        record = record_picks(picker, read, read_seconds=read_seconds, since=started, find_junk=find_junk)
        document = msgspec.structs.replace(record.document, directory=directory_of(micrograph.key))
        return read, dataclasses.replace(record, document=document)

    def _write_results(
        self, micrograph: Named, picks: Picks, document: MicrographDocument, pictured: Micrograph | None
    ) -> Path:
        """Write all files of a micrograph; return the first one."""
        files = [writer.write(document) for writer in self._writers]
        if pictured is not None:
            drawn = draw_picks(pictured.pixels, picks, document.diameter_px, junk=outlines_of(document.junk))
            content = cv2.imencode(".png", drawn)[1].tobytes()
            picture = self._outputs.file_of(micrograph.key).with_suffix(".png")
            try:
                self._outputs.write(micrograph.path, picture, lambda file: write_atomically(file, content))
            except OSError as error:
                raise OutputError(f"{picture}: cannot be written: {reason_of(error)}") from error
        return files[0]

    def weigh_doubts(self) -> list[str]:
        """After a micrograph: doubts about the contrast, in one line each. This takes as long as picking."""
        return self._doubts.weigh(self._picker) if self._doubts.is_due(is_idle=True) else []
