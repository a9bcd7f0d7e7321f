"""An evaluation as one self-contained HTML page, without scripts.

Names of files, folders and pickers are escaped. The page's policy allows its own style, by its hash, and embedded
pictures.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from frazil_trainer.evaluation import plots
from frazil_trainer.evaluation.bootstrap import DRAWS, best_coverage
from frazil_trainer.evaluation.overlays import Overlay
from frazil_trainer.evaluation.records import Curve, DistanceScores, Evaluation, RowCurves, ScoreRow
from frazil_trainer.evaluation.sources import LOWEST_THRESHOLD
from frazil_trainer.evaluation.tables import best_rows

__all__ = ["html_report"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row with the number of its picker in plots, and its curves."""

    row: ScoreRow
    picker: int
    curves: RowCurves | None
    best: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one set of labels."""

    labels: str
    entries: list[_Entry]

    @property
    def particles(self) -> int:
        return max(entry.row.particles for entry in self.entries)

    def lines(self, distance: str) -> list[tuple[int, DistanceScores, Curve | None]]:
        return [(one.picker, getattr(one.row, distance), getattr(one.curves, distance, None)) for one in self.entries]


@dataclass(frozen=True, slots=True)
class _Set:
    """Rows and overlays of one training set."""

    folder: str
    groups: list[_Group]
    overlays: list[tuple[int, Overlay]]
    """Numbered over all sets."""

    @property
    def pickers(self) -> set[str]:
        return {entry.row.picker for group in self.groups for entry in group.entries}


def html_report(evaluation: Evaluation, overlays: Sequence[Overlay]) -> str:
    """Render an evaluation as a page that shows some micrographs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("report.css.jinja").render(styles=plots.STYLES, pickers=len(evaluation.pickers))
    digest = hashlib.sha256(style.encode()).digest()
    sets = _sets(evaluation, overlays)
    sizes = sorted({len(row.micrographs) for row in evaluation.rows} - {1})
    page = environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        plots=plots,
        sets=sets,
        micrographs=len({(row.folder, one.name) for row in evaluation.rows for one in row.micrographs}),
        coverages=[(n, best_coverage(n)) for n in sizes],
        draws=DRAWS,
        lowest_threshold=LOWEST_THRESHOLD,
        style=Markup(style),  # noqa: S704 our own template, with numbers only
        style_sha256=base64.b64encode(digest).decode("ascii"),
    )
    return page.strip() + "\n"


def _sets(evaluation: Evaluation, overlays: Sequence[Overlay]) -> list[_Set]:
    """Rows by set and labels."""
    numbers = {picker.name: i for i, picker in enumerate(evaluation.pickers)}
    curves = {(one.folder, one.labels, one.picker): one for one in evaluation.curves}
    best = best_rows(evaluation.rows)
    groups: dict[str, dict[str, list[_Entry]]] = {}
    for row in evaluation.rows:
        entry = _Entry(row, numbers[row.picker], curves.get((row.folder, row.labels, row.picker)), row in best)
        groups.setdefault(row.folder, {}).setdefault(row.labels, []).append(entry)
    return [
        _Set(
            folder,
            [_Group(labels, entries) for labels, entries in of_labels.items()],
            [(i, overlay) for i, overlay in enumerate(overlays, start=1) if overlay.folder == folder],
        )
        for folder, of_labels in groups.items()
    ]
