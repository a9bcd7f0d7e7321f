"""Evaluation: pickers scored on labelled micrographs, models by the daemon's own picker.

- ``validation_paths(data, sets)`` lists the validation micrographs.
- ``score_table(model, paths)`` scores one model; ``evaluate(...)`` any number of models and folders with picks.
- ``score_by_workers(engine, threads)`` has micrographs scored on a cluster, by `score_micrographs`.
- ``show_table(rows, console)`` and ``markdown_table(rows)`` show the figures, ``report.html_report`` as a page.
- ``best_threshold(scored, weights)`` chooses a model's threshold.
"""

from frazil_trainer.evaluation.micrographs import ScoredMicrograph, score_micrographs, validation_paths
from frazil_trainer.evaluation.records import Evaluation, ScoreRow
from frazil_trainer.evaluation.scores import ValidationRecord, best_threshold, evaluate, score_table
from frazil_trainer.evaluation.sources import ModelSource, PickFiles, PickSource, find_pick_files, open_sources
from frazil_trainer.evaluation.tables import flip_warnings, markdown_table, show_table
from frazil_trainer.evaluation.workers import score_by_workers

__all__ = [
    "Evaluation",
    "ModelSource",
    "PickFiles",
    "PickSource",
    "ScoreRow",
    "ScoredMicrograph",
    "ValidationRecord",
    "best_threshold",
    "evaluate",
    "find_pick_files",
    "flip_warnings",
    "markdown_table",
    "open_sources",
    "score_by_workers",
    "score_micrographs",
    "score_table",
    "show_table",
    "validation_paths",
]
