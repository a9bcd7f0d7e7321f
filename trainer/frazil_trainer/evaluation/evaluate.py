"""One evaluation: pickers, micrographs, all figures."""

from __future__ import annotations

from collections.abc import Sequence

import frazil
from frazil_trainer.evaluation.micrographs import ScoredMicrograph
from frazil_trainer.evaluation.records import Evaluation, ModelRecord, PickerRecord
from frazil_trainer.evaluation.scores import row_curves, score_rows
from frazil_trainer.evaluation.sources import ModelSource, PickSource
from frazil_trainer.labelled import LabelledPaths

__all__ = ["evaluate"]


def evaluate(
    recipe: str, scored: Sequence[ScoredMicrograph], sources: Sequence[PickSource], paths: Sequence[LabelledPaths]
) -> Evaluation:
    """Bring all figures together.

    Args:
        recipe: name of the recipe's file.
        scored: what `score_micrographs` gave.
        sources: the pickers.
        paths: the micrographs that they were to pick.
    """
    return Evaluation(
        frazil=frazil.__version__,
        recipe=recipe,
        pickers=tuple(PickerRecord(name=source.name, model=_model_record(source)) for source in sources),
        rows=tuple(score_rows(scored, sources, paths)),
        curves=tuple(row_curves(scored, sources)),
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
