"""Scores: precision, recall, F1 and average precision of ranked picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

import frazil
from frazil.model import Model
from frazil.model.contract import Calibration
from frazil_trainer.data.labelled import LabelledPaths
from frazil_trainer.evaluation.bootstrap import bootstrap
from frazil_trainer.evaluation.micrographs import ScoredMicrograph, score_micrographs
from frazil_trainer.evaluation.ranking import Ranking, Tally, average_precision, sweep_thresholds
from frazil_trainer.evaluation.records import (
    Curve,
    DistanceScores,
    Evaluation,
    Figures,
    Histogram,
    MicrographScores,
    ModelRecord,
    PickerRecord,
    RowCurves,
    ScoreRow,
)
from frazil_trainer.evaluation.sources import LOWEST_THRESHOLD, ModelSource, PickSource, printable

__all__ = ["ValidationRecord", "best_threshold", "evaluate", "row_curves", "score_rows", "score_table"]

HALF, FIFTH = 0.5, 0.2
_AS_GOOD = 0.001
_CURVE_POINTS = 200
_BINS = 40


class ValidationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Scores of a new model on the validation micrographs, for its card."""

    threshold: float
    rows: tuple[ScoreRow, ...]
    crop_accuracy: dict[str, float]
    """The training's own metric on its held out examples, by name, after the last epoch."""
    calibration: Calibration | None = None
    """How probable a particle is at a score; None where the recipe has no sets for that."""
    compared_threshold: float | None = None
    """The recipe's second threshold."""
    compared_rows: tuple[ScoreRow, ...] = ()


def best_threshold(scored: Sequence[ScoredMicrograph], weights: Mapping[str, float]) -> float:
    """The threshold, to 0.01, with the highest F1 averaged over training sets by their weights.

    Among similar thresholds the highest depends on a few picks, so the middle one of those within 0.001 of it is
    taken.
    """
    folders = sorted({one.folder for one in scored})
    rankings = [Ranking.pooled(one.rank(HALF) for one in scored if one.folder == folder) for folder in folders]

    def mean_f1(threshold: float) -> float:
        f1s = [ranking.tally(threshold).f1 for ranking in rankings]
        return float(np.average(f1s, weights=[weights[folder] for folder in folders]))

    candidates = [round(float(t), 2) for t in np.arange(LOWEST_THRESHOLD, 1.0, 0.01)]
    f1 = np.array([mean_f1(threshold) for threshold in candidates])
    as_good = np.flatnonzero(f1 >= f1.max() - _AS_GOOD)
    return candidates[int(as_good[len(as_good) // 2])]


def score_table(
    model: Model, paths: Sequence[LabelledPaths], threshold: float | None = None, *, name: str | None = None
) -> list[ScoreRow]:
    """Score a model on labelled micrographs, with a row for each training set and set of labels.

    The model's own threshold and name are taken unless others are given.
    """
    source = ModelSource(model, name=name, threshold=threshold)
    return score_rows(score_micrographs([source], paths), [source], paths)


def evaluate(
    recipe: str, scored: Sequence[ScoredMicrograph], sources: Sequence[PickSource], paths: Sequence[LabelledPaths]
) -> Evaluation:
    """Collect all figures of an evaluation on the micrographs of `paths`; `recipe` is the name of the recipe's file."""
    return Evaluation(
        frazil=frazil.__version__,
        recipe=printable(recipe),
        pickers=tuple(PickerRecord(name=source.name, model=_model_record(source)) for source in sources),
        rows=tuple(score_rows(scored, sources, paths)),
        curves=tuple(row_curves(scored, sources)),
    )


def score_rows(
    scored: Sequence[ScoredMicrograph], sources: Sequence[PickSource], paths: Sequence[LabelledPaths]
) -> list[ScoreRow]:
    """Score pickers, with a row for each training set, set of labels and picker, in this order."""
    thresholds = {source.name: source.threshold for source in sources}
    expected: dict[str, dict[str, None]] = {}
    for one in paths:
        expected.setdefault(one.source.folder, {})[printable(one.micrograph.stem)] = None
    return [
        _score_row(members, thresholds[members[0].picker], list(expected[members[0].folder]))
        for members in _by_row(scored, list(thresholds))
    ]


def row_curves(scored: Sequence[ScoredMicrograph], sources: Sequence[PickSource]) -> list[RowCurves]:
    """Curves and histograms of the rows whose picks have scores."""
    curves = []
    for members in _by_row(scored, [source.name for source in sources]):
        half, fifth = (Ranking.pooled(one.rank(distance) for one in members) for distance in (HALF, FIFTH))
        if not half.has_scores or half.score.size == 0:
            continue
        one = members[0]
        curves.append(
            RowCurves(
                picker=one.picker,
                folder=one.folder,
                labels=one.labels,
                half=_curve(half),
                fifth=_curve(fifth),
                histogram=_histogram(half),
            )
        )
    return curves


def _by_row(scored: Sequence[ScoredMicrograph], pickers: Sequence[str]) -> list[list[ScoredMicrograph]]:
    """Micrographs by row: sorted by set and labels, with the pickers in their given order."""
    rows: dict[tuple[str, str, int], list[ScoredMicrograph]] = {}
    for one in scored:
        rows.setdefault((one.folder, one.labels, pickers.index(one.picker)), []).append(one)
    return [rows[key] for key in sorted(rows)]


def _score_row(members: Sequence[ScoredMicrograph], threshold: float | None, expected: Sequence[str]) -> ScoreRow:
    half, fifth = ([one.rank(distance).tally(threshold) for one in members] for distance in (HALF, FIFTH))
    micrographs = tuple(
        MicrographScores(
            name=one.name,
            particles=wide.hits + wide.misses,
            picks=wide.hits + wide.false_picks,
            hits=wide.hits,
            hits_within_fifth=narrow.hits,
        )
        for one, wide, narrow in zip(members, half, fifth, strict=True)
    )
    one = members[0]
    return ScoreRow(
        picker=one.picker,
        folder=one.folder,
        labels=one.labels,
        threshold=threshold,
        particles=sum(m.particles for m in micrographs),
        picks=sum(m.picks for m in micrographs),
        half=_score_distance(members, threshold, HALF),
        fifth=_score_distance(members, threshold, FIFTH),
        micrographs=micrographs,
        missing=tuple(name for name in expected if name not in {m.name for m in micrographs}),
    )


def _score_distance(
    members: Sequence[ScoredMicrograph], threshold: float | None, distance_diameters: float
) -> DistanceScores:
    rankings = [one.rank(distance_diameters) for one in members]
    tallies = [ranking.tally(threshold) for ranking in rankings]
    pooled = Ranking.pooled(rankings)
    flipped = Ranking.pooled(one.rank(distance_diameters, flipped=True) for one in members)
    total = pooled.tally(threshold)
    best_f1, best = total.f1, None
    if pooled.has_scores and pooled.score.size:
        sweep = sweep_thresholds(pooled)
        at = int(np.argmax(sweep.f1))
        best_f1, best = float(sweep.f1[at]), float(sweep.threshold[at])
    return DistanceScores(
        distance_diameters=distance_diameters,
        micro=_figures([total], [pooled] if pooled.has_scores else []),
        macro=_figures(tallies, rankings if pooled.has_scores else []),
        intervals=bootstrap(tallies),
        best_threshold=best,
        best_f1=round(best_f1, 4),
        f1_flipped=round(flipped.tally(threshold).f1, 4),
    )


def _figures(tallies: Sequence[Tally], rankings: Sequence[Ranking]) -> Figures:
    """Means of figures; average precision needs rankings."""
    return Figures(
        precision=_mean([tally.precision for tally in tallies]),
        recall=_mean([tally.recall for tally in tallies]),
        f1=_mean([tally.f1 for tally in tallies]),
        average_precision=_mean([average_precision(ranking) for ranking in rankings]) if rankings else None,
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _curve(ranking: Ranking) -> Curve:
    sweep = sweep_thresholds(ranking)
    chosen = np.unique(np.linspace(0, sweep.threshold.size - 1, _CURVE_POINTS).round().astype(np.intp))
    threshold, precision, recall = (
        tuple(round(value, 5) for value in column[chosen].tolist())
        for column in (sweep.threshold, sweep.precision, sweep.recall)
    )
    return Curve(threshold=threshold, precision=precision, recall=recall)


def _histogram(ranking: Ranking) -> Histogram:
    low, high = float(ranking.score.min()), float(ranking.score.max())
    span = (0.0, 1.0) if 0 <= low <= high <= 1 else (low, high)
    hits, edges = np.histogram(ranking.score[ranking.gained], _BINS, span)
    false_picks, _ = np.histogram(ranking.score[~ranking.gained], _BINS, span)
    return Histogram(
        edges=tuple(round(float(edge), 5) for edge in edges),
        hits=tuple(hits.tolist()),
        false_picks=tuple(false_picks.tolist()),
    )


def _model_record(source: PickSource) -> ModelRecord | None:
    if not isinstance(source, ModelSource):
        return None
    identity = source.model.identity
    return ModelRecord(
        name=identity.name,
        version=identity.version,
        sha256=identity.sha256,
        architecture=source.model.contract.architecture,
    )
