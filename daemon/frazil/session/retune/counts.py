"""Counts: how many picks each micrograph of the session would have within other limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from frazil.errors import RetuneError
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.retune.limits import Wanted, limits_of
from frazil.session.retune.repick import pick_again, read_document, read_score_map, recall_result

__all__ = ["MicrographCount", "count"]

_PASSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographCount:
    """Picks of one micrograph, before and after."""

    path: str
    before: int
    after: int
    """As before where it cannot be told."""
    at: tuple[int, ...] = ()
    """With each of the thresholds that were asked about instead."""
    untold: str = ""
    """Why it cannot be told, as one word: ``no_map``, ``margin``, ``damaged``; empty where it can."""


def count(
    reader: LedgerReader,
    wanted: Wanted,
    *,
    paths: Sequence[str] | None = None,
    model_sha256: str = "",
    thresholds: Sequence[float] = (),
) -> Iterator[MicrographCount]:
    """Count the picks of micrographs as they would be, one after the other.

    The session is gone through several times, each time between the micrographs of the time before, so that the first
    results already speak for the whole of it. Nothing is held between two results: whoever wants no more stops.
    A micrograph takes some ten milliseconds of processor time; beside a daemon, count in a process of your own.

    Args:
        reader: of the session's ledger; used by nobody else meanwhile.
        wanted: what is wanted.
        paths: of the micrographs, as the ledger has them; None for every one with a result.
        model_sha256: of the model whose picks are also counted with other thresholds.
        thresholds: the others. They cost next to nothing.

    Raises:
        OutputError: the ledger cannot be read.
    """
    every = reader.results() if paths is None else list(paths)
    for begin in range(_PASSES):
        for path in every[begin::_PASSES]:
            try:
                yield _count_one(reader, path, wanted, model_sha256, thresholds)
            except RetuneError as error:  # it went while others were counted
                yield MicrographCount(path=path, before=0, after=0, at=(0,) * len(thresholds), untold=error.reason)


def _count_one(
    reader: LedgerReader, path: str, wanted: Wanted, model_sha256: str, thresholds: Sequence[float]
) -> MicrographCount:
    kept = recall_result(reader, path)
    document = read_document(kept)
    before = len(document.picks.score)
    limits = wanted.for_model(document.model.sha256).over(limits_of(document))
    asked = thresholds if document.model.sha256 == model_sha256 else (limits.threshold,) * len(thresholds)
    # Only better picks push a pick aside: those of a higher threshold are those of a lower one that reach it.
    lowest = replace(limits, threshold=min((limits.threshold, *asked)))
    try:
        picks = pick_again(document, read_score_map(kept), lowest)
    except RetuneError as error:
        return MicrographCount(path=path, before=before, after=before, at=(before,) * len(asked), untold=error.reason)
    return MicrographCount(
        path=path,
        before=before,
        after=int(picks.reaching(limits.threshold).sum()),
        at=tuple(int(picks.reaching(threshold).sum()) for threshold in asked),
    )
