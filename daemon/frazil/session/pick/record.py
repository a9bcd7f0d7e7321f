"""From a micrograph in memory to its document, with the clock running; or to the document that says why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from frazil.documents import (
    FailedDocument,
    MicrographDocument,
    Seconds,
    columns_of,
    directory_of,
    now_rfc3339,
)
from frazil.errors import MicrographError
from frazil.model import Batches
from frazil.picking import Micrograph, Picker, Picks, Picture, ScoreMap

__all__ = ["Record", "record_failure", "record_picks"]

_FRACTION_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A picked micrograph."""

    document: MicrographDocument
    """Outside any stream as yet: no epoch, and sequence number 0."""
    picks: Picks
    picture: Picture
    score_map: ScoreMap
    """From which the picks were made."""
    batches: Batches
    """In which the model scored it."""


def record_picks(picker: Picker, micrograph: Micrograph, *, read_seconds: float, since: float) -> Record:
    """Pick a micrograph and record the picks, the model and the times.

    Args:
        picker: picks.
        micrograph: as read.
        read_seconds: time that reading took.
        since: when the total began, by the monotonic clock.

    Raises:
        MicrographError: the micrograph cannot be picked.
        ModelError: the network gave other than finite scores.
    """
    started = time.monotonic()
    picture = picker.prepare(micrograph)
    prepared = time.monotonic()
    score_map = picker.score(picture)
    scored = time.monotonic()
    picks = picker.find(score_map, picture)
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
            peaks=found - scored,
            total=found - since,
        ),
        picked_at=now_rfc3339(),
        blank_fraction=round(picture.blank_fraction, _FRACTION_DECIMALS),
    )
    return Record(
        document=document, picks=picks, picture=picture, score_map=score_map, batches=picker.count_batches(picture)
    )


def record_failure(
    error: MicrographError, *, watch: Path, key: str, attempts: int, is_transient: bool
) -> FailedDocument:
    """Record that a micrograph could not be picked; outside any stream as yet.

    Args:
        error: says why.
        watch: the watched directory, by the name that its user gave it.
        key: the ledger's name of the micrograph.
        attempts: so far, this one included.
        is_transient: whether it is tried again by itself.
    """
    path = watch / key
    return FailedDocument(
        epoch="",
        seq=0,
        micrograph=path.name,
        path=str(path),
        directory=directory_of(key),
        reason=error.reason,
        message=str(error).replace(str(error.path), str(path)),
        kind="transient" if is_transient else "permanent",
        attempts=attempts,
        failed_at=now_rfc3339(),
    )
