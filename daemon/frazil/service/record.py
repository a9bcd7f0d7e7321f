"""From a micrograph in memory to its document, with the clock running."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from frazil.documents import MicrographDocument, ModelStamp, PickColumns, Seconds
from frazil.picking import Micrograph, Picker, Picks, ScoreMap

__all__ = ["Record", "record_picks"]

_POSITION_DECIMALS = 4
_SCORE_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A picked micrograph."""

    document: MicrographDocument
    """Outside any stream as yet: no epoch, and sequence number 0."""
    picks: Picks
    score_map: ScoreMap
    """From which the picks were made."""


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
    identity = picker.model.identity
    document = MicrographDocument(
        epoch="",
        seq=0,
        micrograph=micrograph.path.name,
        path=str(micrograph.path),
        shape=picture.rescaling.shape,
        pixel_size_angstrom=picture.pixel_size_angstrom,
        diameter_px=picture.diameter_px,
        model=ModelStamp(name=identity.name, version=identity.version, sha256=identity.sha256),
        threshold=picker.threshold,
        picks=PickColumns(
            y=[round(v, _POSITION_DECIMALS) for v in picks.y.tolist()],
            x=[round(v, _POSITION_DECIMALS) for v in picks.x.tolist()],
            score=[round(v, _SCORE_DECIMALS) for v in picks.score.tolist()],
        ),
        seconds=Seconds(
            read=read_seconds,
            prepare=prepared - started,
            infer=scored - prepared,
            peaks=found - scored,
            total=found - since,
        ),
        picked_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    return Record(document=document, picks=picks, score_map=score_map)
