"""Scores as tables: in a terminal, and as Markdown for documents."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frazil_trainer.evaluation.records import DistanceScores, ScoreRow

__all__ = ["markdown_table", "show_table"]


def show_table(rows: Sequence[ScoreRow], console: Console) -> None:
    """Print scores as a table, the best F1 against each set of labels in bold where there are several pickers."""
    several = len({row.picker for row in rows}) > 1
    table = Table()
    table.add_column("validation set", overflow="fold")
    table.add_column("labels", overflow="fold")
    if several:
        table.add_column("picker", overflow="fold")
    for title in ("micrographs", "particles", "picks", "precision", "recall", "F1", "macro F1", "AP", "F1 0.2 d"):
        table.add_column(title, justify="right")
    best = best_rows(rows) if several else []
    for i, row in enumerate(rows):
        if several and i and (rows[i - 1].folder, rows[i - 1].labels) != (row.folder, row.labels):
            table.add_section()
        micro = row.half.micro
        f1 = _figure(micro.f1)
        table.add_row(
            escape(row.folder),
            escape(f"*{row.labels}"),
            *([escape(row.picker)] if several else []),
            _micrographs(row),
            str(row.particles),
            str(row.picks),
            _figure(micro.precision),
            _figure(micro.recall),
            f"[bold]{f1}[/bold]" if row in best else f1,
            _figure(row.half.macro.f1),
            _figure(micro.average_precision),
            _figure(row.fifth.micro.f1),
        )
    console.print(table)


def markdown_table(rows: Sequence[ScoreRow]) -> str:
    """Scores as a table in Markdown, with a line end."""
    titles = ["validation set", "labels", "picker", "micrographs", "particles", "picks", "precision", "recall", "F1"]
    titles += ["95 % interval", "macro F1", "AP", "F1 within 0.2 d", "AP within 0.2 d"]
    lines = [titles, ["---"] * 3 + ["---:"] * (len(titles) - 3)]
    for row in rows:
        micro, strict = row.half.micro, row.fifth.micro
        cells = [row.folder, f"\\*{row.labels}", row.picker, _micrographs(row), str(row.particles), str(row.picks)]
        cells += [_figure(micro.precision), _figure(micro.recall), _figure(micro.f1), _interval(row.half)]
        cells += [_figure(row.half.macro.f1), _figure(micro.average_precision)]
        cells += [_figure(strict.f1), _figure(strict.average_precision)]
        lines.append([" ".join(cell.split()).replace("|", "\\|") for cell in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def best_rows(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Of the rows on each set and kind of labels, those with the highest F1 within half a diameter."""
    highest: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row.folder, row.labels)
        highest[key] = max(highest.get(key, 0.0), row.half.micro.f1)
    return [row for row in rows if row.half.micro.f1 == highest[row.folder, row.labels]]


def _micrographs(row: ScoreRow) -> str:
    """How many were scored, and of how many."""
    scored = len(row.micrographs)
    return f"{scored} of {scored + len(row.missing)}" if row.missing else str(scored)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(scores: DistanceScores) -> str:
    if scores.intervals is None:
        return "–"
    return f"{_figure(scores.intervals.f1.low)}–{_figure(scores.intervals.f1.high)}"
