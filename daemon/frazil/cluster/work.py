"""What a worker does: reads some micrographs, picks them, and hands back what is to be written. It writes nothing.

A worker keeps the model of its last task. While one micrograph is picked, the next one of the same task is read.
Everything goes to and fro as bytes of msgpack, so that the cluster has next to nothing to pack or unpack.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

import frazil
from frazil.cluster.same import check_program, load_same_model
from frazil.documents import ChoiceBasis, MicrographDocument, directory_of
from frazil.errors import FrazilError, IncompleteMicrograph, MicrographError
from frazil.faults import failure_of
from frazil.junk_area import JunkSearch, MaybeJunk, no_junk, outside_junk
from frazil.limits import JunkPicks, LimitsPatch
from frazil.model import Device, Precision
from frazil.model.contract import Finds
from frazil.model.model import Model
from frazil.picking import (
    JunkFinder,
    Micrograph,
    Picker,
    PickingSettings,
    Picture,
    PixelMemory,
    PreparationOnDevice,
    find_low_peaks,
)
from frazil.record import MicrographReader, record_picks
from frazil.session.intake.completeness import prove_complete
from frazil.session.outbox.file_stamp import FileStamp, sample, stamp_of
from frazil.session.outbox.ledger import Handled
from frazil.session.retune.repick import pack_score_map

__all__ = ["Failed", "Job", "JunkJob", "NotYet", "Outcome", "Picked", "Scored", "Unfit", "decode_outcomes", "pick_some"]


class JunkJob(msgspec.Struct, frozen=True, kw_only=True):
    """How junk is found."""

    model: str
    sha256: str
    """Of the model."""
    picks: JunkPicks


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """How micrographs are picked: the same for all tasks of a run, but for the threshold."""

    frazil: str = frazil.__version__
    """Version of the program: another one may pick otherwise."""
    root: str
    """The watched directory, by the name that the user gave it."""
    model: str
    sha256: str
    """Of the model."""
    device: Device
    precision: Precision
    threads: int
    settings: PickingSettings
    change: LimitsPatch
    """Of the limits: the threshold that was chosen, or tuned before."""
    junk: JunkJob | None = None
    """None where it is not looked for."""
    chosen: ChoiceBasis | None = None
    """How that came about; None where the operator or the model gave it."""
    shows_holes: bool
    largest_bytes: int
    timeout_seconds: float
    stall_seconds: float
    """Time after which an incomplete file is no longer waited for."""
    keep_score_maps: bool
    only_scores: bool = False
    """Whether only the scores of the peaks are asked for, to choose a threshold."""

    def encode(self) -> bytes:
        """Encode as bytes for a worker."""
        return msgspec.msgpack.encode(self)


class _OfOne(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What has become of one micrograph."""

    key: str
    size: int = -1
    mtime_ns: int = 0
    fingerprint: str = ""

    @property
    def handled(self) -> Handled:
        """Stamp and fingerprint of its file."""
        return Handled(stamp=FileStamp(self.size, self.mtime_ns), fingerprint=self.fingerprint)


class Picked(_OfOne, frozen=True, kw_only=True):
    """Its document, and its score map where that is kept."""

    document: MicrographDocument
    score_map: bytes | None


class Scored(_OfOne, frozen=True, kw_only=True):
    """The scores of its peaks outside junk, as float32, best first."""

    peaks: bytes


class Failed(_OfOne, frozen=True, kw_only=True):
    """It cannot be picked."""

    reason: str
    message: str
    worker: str
    """Host of the worker."""

    def error(self, path: Path) -> MicrographError:
        """The error of the micrograph."""
        return MicrographError(path, self.reason, self.message.removeprefix(f"{path}: "))


class NotYet(_OfOne, frozen=True, kw_only=True):
    """It is being written, or changed while it was read."""

    why: str


class Unfit(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot pick at all."""

    worker: str
    """Its address."""
    message: str


Outcome = Picked | Scored | Failed | NotYet

_DECODER: msgspec.msgpack.Decoder[list[Outcome] | Unfit] = msgspec.msgpack.Decoder(list[Outcome] | Unfit)
_JOBS = msgspec.msgpack.Decoder(Job)
_KEYS = msgspec.msgpack.Decoder(list[str])


def decode_outcomes(answer: bytes) -> list[Outcome] | Unfit:
    """What `pick_some` returns: an outcome for each micrograph."""
    return _DECODER.decode(answer)


def pick_some(job: bytes, keys: bytes) -> bytes:
    """Pick some micrographs, named by their keys; see `decode_outcomes`. This is the task that a worker is given."""
    try:
        work = _work_of(job)
    except (FrazilError, OSError) as error:
        from distributed import get_worker

        return msgspec.msgpack.encode(Unfit(worker=get_worker().address, message=str(error)))
    return msgspec.msgpack.encode(work.do(_KEYS.decode(keys)))


@lru_cache(maxsize=1)
def _work_of(job: bytes) -> _Work:
    return _Work(_JOBS.decode(job))


@lru_cache(maxsize=2)
def _load(path: str, sha256: str, device: Device, threads: int, precision: Precision, finds: Finds) -> Model:
    return load_same_model(Path(path), sha256, threads, device, precision, finds)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    handled: Handled
    micrograph: Micrograph
    since: float
    seconds: float


class _Work:
    def __init__(self, job: Job) -> None:
        check_program(job.frazil)
        self._job = job
        self._root = Path(job.root)
        if not self._root.is_dir():
            raise FrazilError(f"{job.root}: expected the directory with the micrographs, found none on this machine")
        model = _load(job.model, job.sha256, job.device, job.threads, job.precision, "particles")
        self._picker = Picker(model, job.settings, job.change, device=PreparationOnDevice(model))
        self._find_junk: Callable[[Micrograph, Picture], MaybeJunk] = no_junk
        if (junk := job.junk) is not None:
            finding = _load(junk.model, junk.sha256, job.device, job.threads, "float32", "junk")
            finder = JunkFinder(finding, job.settings.contrast)
            self._find_junk = JunkSearch(finder=finder, picks=junk.picks).find
        self._read_micrograph = MicrographReader(largest_bytes=job.largest_bytes, timeout_seconds=job.timeout_seconds)
        self._memory = PixelMemory()

    def do(self, keys: Sequence[str]) -> list[Outcome]:
        """Pick micrographs, and read each while the one before it is picked."""
        outcomes: list[Outcome] = []
        with ThreadPoolExecutor(1, "frazil-reading") as reading:
            coming = reading.submit(self._read, keys[0])
            for number, key in enumerate(keys, 1):
                read = coming.result()
                if number < len(keys):
                    coming = reading.submit(self._read, keys[number])
                outcomes.append(self._pick(key, read) if isinstance(read, _Read) else read)
                del read  # its memory serves for the next but one
        return outcomes

    def _read(self, key: str) -> _Read | Failed | NotYet:
        path, since = self._root / key, time.monotonic()
        stamp, fingerprint = FileStamp(-1, 0), ""
        try:
            stamp = stamp_of(path)
            prove_complete(path, shows_holes=self._job.shows_holes)
            fingerprint = sample(path).fingerprint
            started = time.monotonic()
            micrograph = self._read_micrograph(path, self._memory, self._picker.rescaling)
            seconds = time.monotonic() - started
            if stamp_of(path) != stamp:
                return NotYet(key=key, why="it changed while it was read")
        except Exception as error:  # noqa: BLE001 - the edge of one unit of work
            if isinstance(error, IncompleteMicrograph) and time.time() - stamp.mtime_ns / 1e9 < self._job.stall_seconds:
                return NotYet(key=key, why="it is incomplete, and was written to a moment ago")
            if not fingerprint:
                with contextlib.suppress(OSError, MicrographError):
                    fingerprint = sample(path).fingerprint
            handled = Handled(stamp=stamp, fingerprint=fingerprint)
            return self._failed(key, handled, failure_of(path, "reading", error))
        return _Read(
            handled=Handled(stamp=stamp, fingerprint=fingerprint), micrograph=micrograph, since=since, seconds=seconds
        )

    def _pick(self, key: str, read: _Read) -> Outcome:
        handled = read.handled
        of_one = {"key": key, "fingerprint": handled.fingerprint, **handled.stamp._asdict()}
        try:
            record = record_picks(
                self._picker,
                read.micrograph,
                read_seconds=read.seconds,
                since=read.since,
                find_junk=self._find_junk,
            )
            document = record.document
            if self._job.only_scores:
                low = find_low_peaks(record.score_map, self._picker.limits, document.pixel_size_angstrom)
                peaks = outside_junk(document.junk, low)
                return Scored(**of_one, peaks=peaks.score.astype(np.float32).tobytes())
        except Exception as error:  # noqa: BLE001 - the edge of one unit of work
            return self._failed(key, handled, failure_of(self._root / key, "picking", error))
        document = msgspec.structs.replace(
            document, directory=directory_of(key), chosen=self._job.chosen or msgspec.UNSET
        )
        return Picked(
            **of_one,
            document=document,
            score_map=pack_score_map(record.score_map) if self._job.keep_score_maps else None,
        )

    def _failed(self, key: str, handled: Handled, error: MicrographError) -> Failed:
        return Failed(
            key=key,
            fingerprint=handled.fingerprint,
            **handled.stamp._asdict(),
            reason=error.reason,
            message=str(error),
            worker=socket.gethostname(),
        )
