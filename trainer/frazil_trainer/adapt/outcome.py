"""How well a model picks the labelled micrographs, before and after, and which threshold is best for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np

from frazil.model import Model
from frazil.picking import match_picks
from frazil_trainer.adapt.labels import Labels, Strip
from frazil_trainer.evaluation import ModelSource, ScoredMicrograph, score_micrographs
from frazil_trainer.evaluation.ranking import Ranking
from frazil_trainer.evaluation.sources import LOWEST_THRESHOLD

__all__ = ["Outcome", "estimate_labelled_fraction", "pick_labelled", "score_held_out", "threshold_for_labels"]

_SURE_PICKS = 0.75
"""Quantile of the scores at labels above which a pick is taken for a particle, labelled or not."""
_COMPLETE_FROM = 0.65
_SHRINKING_LABELS = 30
"""Number of labels that count as much as what the model knew."""
_AS_GOOD = 0.003
_HALF = 0.5


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """F1 of a model on the labels that were held out, or on all where none were."""

    threshold: float
    """Its own."""
    f1: float
    """At that threshold."""
    best_f1: float
    """At the threshold that is best for these labels."""
    recall: float
    """At its own threshold; labels that miss particles leave it as it is, and lower F1."""
    picks: int
    labels: int


def pick_labelled(model: Model, labels: Labels) -> list[ScoredMicrograph]:
    """The picks of a model in the labelled micrographs, by the daemon's picker."""
    return score_micrographs([ModelSource(model)], labels.paths)


def estimate_labelled_fraction(scored: Sequence[ScoredMicrograph], incomplete: bool | None = None) -> float:
    """The fraction of the particles that have a label, estimated from a model that knew none of these labels.

    It is the fraction of labelled picks among those that score as high as the better labelled ones do (Elkan and Noto,
    KDD 2008, label frequency). If it is large, and it is not known whether labels are `incomplete`, all are taken to
    have one.
    """
    labelled = [match_picks(one.picks, one.truth, _HALF * one.diameter_px) >= 0 for one in scored]
    scores, has_label = np.concatenate([one.picks.score for one in scored]), np.concatenate(labelled)
    if incomplete is False or not has_label.any():
        return 1.0
    sure = scores >= np.quantile(scores[has_label], _SURE_PICKS)
    fraction = float(has_label[sure].mean())
    return 1.0 if fraction >= _COMPLETE_FROM and incomplete is None else fraction


def threshold_for_labels(scored: Sequence[ScoredMicrograph], fraction: float, former: float) -> float:
    """The threshold, to 0.01, with the highest F1, if only a fraction of the particles has a label.

    Hits then are as many times more, and so is the number of particles. Of thresholds as good the one nearest to the
    former is taken, which suits what the model knew; and the fewer labels there are, the nearer to that.
    """
    ranking = Ranking.pooled(one.rank(_HALF) for one in scored)
    candidates = np.round(np.arange(LOWEST_THRESHOLD, 0.95, 0.01), 2)
    f1 = np.array([_f1(ranking, threshold, fraction) for threshold in candidates.tolist()])
    as_good = candidates[f1 >= f1.max() - _AS_GOOD]
    best = float(as_good[np.abs(as_good - former).argmin()])
    weight = ranking.particles / (ranking.particles + _SHRINKING_LABELS)
    return round(weight * best + (1 - weight) * former, 2)


def _f1(ranking: Ranking, threshold: float, fraction: float) -> float:
    tally = ranking.tally(threshold)
    picks = tally.hits + tally.false_picks
    return 2 * tally.hits / max(1.0, fraction * picks + ranking.particles)


def score_held_out(scored: Sequence[ScoredMicrograph], labels: Labels, threshold: float, fraction: float) -> Outcome:
    """The outcome on the strips that are held out, or on whole micrographs where none is."""
    strips = labels.held_out if any(labels.held_out) else [None] * len(scored)
    chosen = [_inside(one, strip) for one, strip in zip(scored, strips, strict=True) if strip or not any(strips)]
    ranking = Ranking.pooled(one.rank(_HALF) for one in chosen)
    tally = ranking.tally(threshold)
    thresholds = np.arange(LOWEST_THRESHOLD, 0.95, 0.01).tolist()
    return Outcome(
        threshold=threshold,
        f1=round(_f1(ranking, threshold, fraction), 4),
        best_f1=round(max(_f1(ranking, one, fraction) for one in thresholds), 4),
        recall=round(tally.recall, 4),
        picks=tally.hits + tally.false_picks,
        labels=ranking.particles,
    )


def _inside(one: ScoredMicrograph, strip: Strip | None) -> ScoredMicrograph:
    if strip is None:
        return one
    return dataclasses.replace(
        one, picks=one.picks.select(strip.holds(one.picks)), truth=one.truth.select(strip.holds(one.truth))
    )
