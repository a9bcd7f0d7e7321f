"""Numbers of picks that each micrograph of a session would have within other limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from frazil.errors import RetuneError
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.retune.limits import LimitsChange
from frazil.session.retune.repick import read_document, read_score_map, recall_result, repick

__all__ = ["MicrographCount", "count"]

_PASSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographCount:
    """Number of picks of one micrograph, now and within other limits."""

    key: str
    before: int
    """Now."""
    after: int
    """Within the other limits; as now where the result is unrevisable."""
    at: tuple[int, ...] = ()
    """Within the other limits, but with each of the requested thresholds."""
    unrevisable: str = ""
    """Why there is no other number, as one word: ``no_map``, ``margin``, ``damaged``; empty where there is one."""


def count(
    reader: LedgerReader,
    change: LimitsChange,
    *,
    keys: Sequence[str] | None = None,
    model_sha256: str = "",
    thresholds: Sequence[float] = (),
) -> Iterator[MicrographCount]:
    """Count picks within other limits, one micrograph after the other.

    The micrographs are counted in several passes over the session, so that the first results are a sample of all of
    it. No lock is held between two results, so the caller may stop at any time. A micrograph takes some ten
    milliseconds of processor time; beside a daemon, count in another process.

    Args:
        reader: of the session's ledger; not used elsewhere meanwhile.
        change: the other limits.
        keys: of the micrographs. Default: all that have a result.
        model_sha256: of the model whose picks are also counted with other thresholds.
        thresholds: the other thresholds. They cost next to nothing.

    Raises:
        OutputError: the ledger cannot be read.
    """
    every = reader.results() if keys is None else list(keys)
    for begin in range(_PASSES):
        for key in every[begin::_PASSES]:
            try:
                yield _count_one(reader, key, change, model_sha256, thresholds)
            except RetuneError as error:  # it went while others were counted
                yield MicrographCount(key=key, before=0, after=0, at=(0,) * len(thresholds), unrevisable=error.reason)


def _count_one(
    reader: LedgerReader, key: str, change: LimitsChange, model_sha256: str, thresholds: Sequence[float]
) -> MicrographCount:
    kept = recall_result(reader, key)
    document = read_document(kept)
    before = len(document.picks.score)
    limits = change.for_model(document.model.sha256).over(document.limits)
    others = thresholds if document.model.sha256 == model_sha256 else (limits.threshold,) * len(thresholds)
    # A peak is suppressed by higher-scoring ones only, so filtering the lowest threshold's picks gives each other's.
    lowest = replace(limits, threshold=min((limits.threshold, *others)))
    try:
        picks = repick(document, read_score_map(kept), lowest)
    except RetuneError as error:
        return MicrographCount(
            key=key, before=before, after=before, at=(before,) * len(others), unrevisable=error.reason
        )
    return MicrographCount(
        key=key,
        before=before,
        after=int(picks.reaching(limits.threshold).sum()),
        at=tuple(int(picks.reaching(threshold).sum()) for threshold in others),
    )
