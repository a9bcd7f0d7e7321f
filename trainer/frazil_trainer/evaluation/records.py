"""What an evaluation says, as it is written to JSON; docs/reference/evaluation.md tells it to readers."""

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
    """Each from 0 to 1."""

    precision: float
    recall: float
    f1: float
    average_precision: float | None
    """None where a picker gives no scores to rank its picks by."""


class DistanceScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores with hits within one share of the diameter."""

    distance_diameters: float
    micro: Figures
    """Of the counts of all micrographs together."""
    macro: Figures
    """Means over the micrographs' own figures."""
    intervals: Intervals | None
    """Of the micro figures; None of a single micrograph."""
    best_threshold: float | None
    """With the highest micro F1 on these very micrographs; None where there are no scores."""
    best_f1: float
    """There: what the choice of a threshold could gain at most."""
    f1_flipped: float
    """Micro F1 of the picks turned upside down: what chance gives at this crowding."""


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
    """Of the training set."""
    labels: str
    """Ending of the files with the labels scored against."""
    threshold: float | None
    """Lowest score of the picks counted; None where all of a picker's picks are."""
    particles: int
    picks: int
    half: DistanceScores
    """Within half a diameter."""
    fifth: DistanceScores
    """Within a fifth of a diameter."""
    micrographs: tuple[MicrographScores, ...]
    missing: tuple[str, ...] = ()
    """Validation micrographs of the set that the picker has no picks for: left out of all figures."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Micro precision and recall at falling thresholds; of many thresholds some 200, evenly by their order."""

    threshold: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How many picks have which score. From a bin's lower edge up, they add up to the tally at that threshold."""

    edges: tuple[float, ...]
    """One more than bins."""
    hits: tuple[int, ...]
    """Picks that add a hit within half a diameter to what better picks have."""
    false_picks: tuple[int, ...]
    """The others."""


class RowCurves(msgspec.Struct, frozen=True, kw_only=True):
    """What the scores of one row's picks tell beyond the row's own threshold."""

    picker: str
    folder: str
    labels: str
    half: Curve
    """Within half a diameter."""
    fifth: Curve
    """Within a fifth of a diameter."""
    histogram: Histogram


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which model it was."""

    name: str
    version: int
    """0 for a lone file."""
    sha256: str
    architecture: str


class PickerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who picked."""

    name: str
    model: ModelRecord | None
    """None for picks read from files."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Pickers scored on the validation micrographs of a recipe."""

    schema: int = SCHEMA
    frazil: str
    """Version that wrote this."""
    recipe: str
    """Name of the recipe's file."""
    pickers: tuple[PickerRecord, ...]
    rows: tuple[ScoreRow, ...]
    curves: tuple[RowCurves, ...]
    """Of the rows whose picks have scores."""
