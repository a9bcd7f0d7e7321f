"""The record of one micrograph, as the daemon and ``frazil pick`` make it: read, picked, timed, and made a document."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from frazil.documents import (
    FailedDocument,
    MicrographDocument,
    Seconds,
    columns_of,
    now_rfc3339,
)
from frazil.errors import MicrographError
from frazil.junk_area import MaybeJunk, no_junk, sift_picks
from frazil.model import Batches
from frazil.picking import (
    ChooseRescaling,
    Micrograph,
    Picker,
    Picks,
    Picture,
    PixelMemory,
    ScoreMap,
    read_micrograph,
)

__all__ = ["MicrographReader", "Record", "record_failure", "record_picks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographReader:
    """Reads micrographs within limits, for the pipeline and for the page.

    Args:
        largest_bytes: largest size of one micrograph in memory.
        timeout_seconds: time after which reading is given up.
    """

    largest_bytes: int
    timeout_seconds: float

    def __call__(
        self, path: Path, memory: PixelMemory | None = None, rescaling: ChooseRescaling = lambda *_: None
    ) -> Micrograph:
        """Read a micrograph; arguments and errors are those of `read_micrograph`."""
        deadline = time.monotonic() + self.timeout_seconds
        return read_micrograph(
            path,
            as_stored=True,
            memory=memory,
            largest_bytes=self.largest_bytes,
            cut_off=lambda: time.monotonic() > deadline,
            rescaling=rescaling,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A picked micrograph."""

    document: MicrographDocument
    """The document without epoch, with sequence number 0: the outbox numbers it."""
    picks: Picks
    picture: Picture
    score_map: ScoreMap
    """The scores from which the picks were made."""
    batches: Batches
    """The batches in which the model scored the micrograph."""


def record_picks(
    picker: Picker,
    micrograph: Micrograph,
    *,
    read_seconds: float,
    since: float,
    find_junk: Callable[[Micrograph, Picture], MaybeJunk] = no_junk,
    settle: Callable[[Picker, Picture, ScoreMap, MaybeJunk], Picker] = lambda picker, *_: picker,
) -> Record:
    """Pick a micrograph and record the picks, the junk, the models and the times.

    Args:
        picker: the serving picker.
        micrograph: the micrograph as it was read.
        read_seconds: duration of reading.
        since: beginning of the total duration, on the monotonic clock.
        find_junk: finds its junk, as `JunkSearch.find` does. Default: that is not looked for.
        settle: gives the picker with the limits that hold, once scores and junk are known.

    Raises:
        MicrographError: the micrograph cannot be picked.
        ModelError: a network gave scores that are not finite.
    """
    started = time.monotonic()
    picture = picker.prepare(micrograph)
    prepared = time.monotonic()
    score_map = picker.score(picture)
    scored = time.monotonic()
    junk = find_junk(micrograph, picture)
    cleared = time.monotonic()
    picker = settle(picker, picture, score_map, junk)
    picks, junk = sift_picks(junk, picker.find(score_map, picture))
    found = time.monotonic()
    document = MicrographDocument(
        epoch="",
        seq=0,
        micrograph=micrograph.path.name,
        path=str(micrograph.path),
        shape=picture.rescaling.shape,
        pixel_size_angstrom=picture.pixel_size_angstrom,
        diameter_px=picture.diameter_px,
        model=picker.model.identity,
        **msgspec.structs.asdict(picker.limits),
        picks=columns_of(picks),
        seconds=Seconds(
            read=read_seconds,
            prepare=prepared - started,
            infer=scored - prepared,
            junk=msgspec.UNSET if isinstance(junk, msgspec.UnsetType) else cleared - scored,
            peaks=found - cleared,
            total=found - since,
        ),
        picked_at=now_rfc3339(),
        blank_fraction=round(picture.blank_fraction, 4),
        junk=junk,
    )
    return Record(
        document=document, picks=picks, picture=picture, score_map=score_map, batches=picker.count_batches(picture)
    )


def record_failure(
    error: MicrographError, path: Path, directory: str, *, attempts: int = 1, is_transient: bool = False
) -> FailedDocument:
    """Make the document of a micrograph that could not be picked, without epoch and with sequence number 0.

    Args:
        error: the cause.
        path: of the micrograph, by the name that the user gave the watched directory.
        directory: of the micrograph, below the watched one.
        attempts: number of attempts, including this one.
        is_transient: whether the daemon retries it by itself.
    """
    return FailedDocument(
        epoch="",
        seq=0,
        micrograph=path.name,
        path=str(path),
        directory=directory,
        reason=error.reason,
        message=str(error).replace(str(error.path), str(path)),
        kind="transient" if is_transient else "permanent",
        attempts=attempts,
        failed_at=now_rfc3339(),
    )
