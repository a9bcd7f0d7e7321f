"""The records of an evaluation, as in its JSON file; docs/reference/evaluation.md describes them."""

from __future__ import annotations

import msgspec

from frazil_trainer.evaluation.bootstrap import Intervals

__all__ = [
    "SCHEMA",
    "Curve",
    "DistanceScores",
    "Evaluation",
    "Figures",
    "Histogram",
    "MicrographScores",
    "ModelRecord",
    "PickerRecord",
    "RowCurves",
    "ScoreRow",
]

SCHEMA = 1


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures from 0 to 1."""

    precision: float
    recall: float
    f1: float
    average_precision: float | None
    """None for a picker without scores."""


class DistanceScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores with hits within one fraction of the diameter."""

    distance_diameters: float
    micro: Figures
    """Figures of all micrographs pooled."""
    macro: Figures
    """Means of the figures of the micrographs."""
    intervals: Intervals | None
    """Intervals of the micro figures; None for a single micrograph."""
    best_threshold: float | None
    """Threshold with the highest micro F1 on these micrographs; None without scores."""
    best_f1: float
    """F1 at that threshold: the upper limit for any choice of the threshold."""
    f1_flipped: float
    """Micro F1 of the picks turned upside down: the level of chance at this crowding."""


class MicrographScores(msgspec.Struct, frozen=True, kw_only=True):
    """Counts in one micrograph."""

    name: str
    particles: int
    picks: int
    hits: int
    """Within half a diameter."""
    hits_within_fifth: int
    """Within a fifth of a diameter."""


class ScoreRow(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one picker over the validation micrographs of one training set, against one set of labels."""

    picker: str
    folder: str
    """Folder of the training set."""
    labels: str
    """Ending of the label files."""
    threshold: float | None
    """Lowest score of the counted picks; None counts all picks."""
    particles: int
    picks: int
    half: DistanceScores
    """Within half a diameter."""
    fifth: DistanceScores
    """Within a fifth of a diameter."""
    micrographs: tuple[MicrographScores, ...]
    missing: tuple[str, ...] = ()
    """Validation micrographs without picks of the picker, which are left out of all figures."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Micro precision and recall at falling thresholds, at most some 200."""

    threshold: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of picks by score. The sum from a bin upwards is the tally at its lower edge."""

    edges: tuple[float, ...]
    """Edges of the bins, one more than bins."""
    hits: tuple[int, ...]
    """Picks that add a hit within half a diameter to those of better picks."""
    false_picks: tuple[int, ...]
    """All other picks."""


class RowCurves(msgspec.Struct, frozen=True, kw_only=True):
    """Curves of one row over all thresholds."""

    picker: str
    folder: str
    labels: str
    half: Curve
    """Within half a diameter."""
    fifth: Curve
    """Within a fifth of a diameter."""
    histogram: Histogram


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The model of a picker."""

    name: str
    version: int
    """0 for a file outside a repository."""
    sha256: str
    architecture: str


class PickerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A picker."""

    name: str
    model: ModelRecord | None
    """None for picks from files."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Pickers scored on the validation micrographs of a recipe."""

    schema: int = SCHEMA
    frazil: str
    """Version of frazil."""
    recipe: str
    """Name of the recipe's file."""
    pickers: tuple[PickerRecord, ...]
    rows: tuple[ScoreRow, ...]
    curves: tuple[RowCurves, ...]
    """Curves of the rows whose picks have scores."""
