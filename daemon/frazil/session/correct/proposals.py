"""Which micrographs to correct, and how well the model picks those that were: both from documents alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.documents import MicrographDocument

__all__ = ["Agreement", "Proposal", "agreement", "propose"]

_NEAR = 0.15
"""A score so near above the threshold is uncertain."""
_ONE_PERCENT = 0.005
"""From this fraction on, rounded."""
_FEW = 0.25
"""Fewer picks than this fraction of the usual number are uncertain, whatever their scores: many may be missed."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A micrograph from whose correction much would be learnt."""

    seq: int
    """Number of its result."""
    micrograph: str
    directory: str
    picks: int
    uncertain: float
    """Fraction of its picks that are uncertain, 0 to 1."""
    why: str
    """In a few words."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model's picks agree with what people made of them."""

    micrographs: int
    kept: int
    """Picks that people left."""
    added: int
    deleted: int

    @property
    def f1(self) -> float:
        """Twice the kept over the model's picks and the corrected ones, 0 to 1; 1 where there are neither."""
        total = 2 * self.kept + self.added + self.deleted
        return 2 * self.kept / total if total else 1.0


def agreement(documents: Sequence[MicrographDocument]) -> Agreement:
    """The agreement over corrected micrographs; those that are marked bad, or not corrected, do not count."""
    kept = added = deleted = count = 0
    for document in documents:
        if document.corrections and document.corrections.mark != "bad":
            count += 1
            added += len(document.corrections.added)
            deleted += document.corrections.deleted
            kept += len(document.picks.score) - len(document.corrections.added)
    return Agreement(micrographs=count, kept=kept, added=added, deleted=deleted)


def propose(documents: Sequence[MicrographDocument], count: int = 3) -> list[Proposal]:
    """Choose micrographs to correct: uncertain ones that differ from each other, and from those that are corrected.

    The first is the most uncertain one. Each further one has the largest product of uncertainty and distance to all
    that are chosen or corrected, in number of picks, mean score and spread of scores, each in units of its spread.

    Args:
        documents: newest results of micrographs.
        count: how many to choose, at most.
    """
    open_ones = [one for one in documents if not one.corrections]
    if not open_ones:
        return []
    ordered = [*open_ones, *(one for one in documents if one.corrections)]
    numbers = np.array([len(one.picks.score) for one in ordered], np.float64)
    usual = float(np.median(numbers))
    uncertain = np.array([_uncertain(one, usual) for one in open_ones])
    features = _features(ordered, numbers)
    chosen: list[int] = []
    taken = list(range(len(open_ones), len(ordered)))
    while len(chosen) < min(count, len(open_ones)):
        worth = uncertain + 1e-6
        if taken:
            away = features[: len(open_ones), np.newaxis] - features[taken]
            worth = worth * (np.hypot.reduce(away, axis=2).min(axis=1) + 1e-6)
        worth[chosen] = -1
        best = int(worth.argmax())
        chosen.append(best)
        taken.append(best)
    return [_proposal(open_ones[i], float(uncertain[i]), usual) for i in chosen]


def _uncertain(document: MicrographDocument, usual: float) -> float:
    scores = np.array(document.picks.score)
    if len(scores) < _FEW * usual or not len(scores):
        return 1.0
    return float((scores < document.threshold + _NEAR).mean())


def _features(documents: Sequence[MicrographDocument], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) number of picks, mean score and spread of scores, each divided by its spread over the micrographs."""
    scores = [np.array(one.picks.score or [one.threshold]) for one in documents]
    columns = np.stack([np.log1p(numbers), [s.mean() for s in scores], [s.std() for s in scores]], axis=1)
    spread = columns.std(axis=0)
    return np.asarray(columns / np.where(spread > 0, spread, 1), np.float64)


def _proposal(document: MicrographDocument, uncertain: float, usual: float) -> Proposal:
    picks = len(document.picks.score)
    if picks < _FEW * usual or not picks:
        why = f"{picks} picks, where {usual:.0f} are usual"
    elif uncertain >= _ONE_PERCENT:
        why = f"{uncertain:.0%} of its picks score within {_NEAR:g} of the threshold"
    else:
        why = "its picks are sure, and their number or scores differ from the others'"
    return Proposal(
        seq=document.seq,
        micrograph=document.micrograph,
        directory=document.directory,
        picks=picks,
        uncertain=round(uncertain, 3),
        why=why,
    )
