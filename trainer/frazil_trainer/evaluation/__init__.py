"""Evaluation: pickers scored one to one on labelled micrographs, models by the daemon's own picker.

- ``validation_paths(data, recipe)`` lists what to score on.
- ``score_table(model, paths)`` scores one model; ``evaluate(...)`` any number of models and of folders with picks.
- ``show_table(rows, console)`` and ``markdown_table(rows)`` tell the figures, ``html_report(evaluation, overlays)``
  shows them.
- ``best_threshold(scored, weights)`` chooses a model's threshold.
"""

from frazil_trainer.evaluation.evaluate import evaluate
from frazil_trainer.evaluation.micrographs import ScoredMicrograph, pick_labelled, validation_paths
from frazil_trainer.evaluation.records import Evaluation, ScoreRow
from frazil_trainer.evaluation.scores import best_threshold, score_table
from frazil_trainer.evaluation.sources import ModelSource, PickFiles, PickSource, find_pick_files
from frazil_trainer.evaluation.tables import markdown_table, show_table

__all__ = [
    "Evaluation",
    "ModelSource",
    "PickFiles",
    "PickSource",
    "ScoreRow",
    "ScoredMicrograph",
    "best_threshold",
    "evaluate",
    "find_pick_files",
    "markdown_table",
    "pick_labelled",
    "score_table",
    "show_table",
    "validation_paths",
]
