"""Scores as tables: in a terminal, and as Markdown for documents."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frazil_trainer.evaluation.records import DistanceScores, ScoreRow

__all__ = ["best_rows", "flip_warnings", "markdown_table", "show_table"]

_CLEARLY_BETTER = 1.4


def show_table(rows: Sequence[ScoreRow], console: Console) -> None:
    """Print scores as a table; among several pickers, the best F1 for each set of labels is bold."""
    several = len({row.picker for row in rows}) > 1
    best = best_rows(rows) if several else []
    table = Table(padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("validation set, labels", overflow="fold")
    for title in (
        "micro-\ngraphs",
        "parti-\ncles",
        "picks",
        "preci-\nsion",
        "recall",
        "F1",
        "macro\nF1",
        "AP",
        "F1\n0.2 d",
    ):
        table.add_column(title, justify="right", min_width=max(5, *map(len, title.split())))
    shown: tuple[str, str] | None = None
    for row in rows:
        place = f"{escape(row.folder)} *{escape(row.labels)}"
        micro = row.half.micro
        figures = (micro.f1, row.half.macro.f1, micro.average_precision, row.fifth.micro.f1)
        f1, *others = (_figure(value) for value in figures)
        cells = [str(row.picks), _figure(micro.precision), _figure(micro.recall)]
        cells += [f"[bold]{f1}[/bold]" if row in best else f1, *others]
        if not several:
            table.add_row(place, _micrographs(row), str(row.particles), *cells)
            continue
        if (row.folder, row.labels) != shown:
            table.add_section()
            table.add_row(place)
            shown = (row.folder, row.labels)
        table.add_row(f"  {escape(row.picker)}", _micrographs(row), str(row.particles), *cells)
    console.print(table)


def markdown_table(rows: Sequence[ScoreRow]) -> str:
    """Scores as a Markdown table, with a final newline."""
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


def flip_warnings(rows: Sequence[ScoreRow]) -> list[str]:
    """Warnings of picks that fit clearly better upside down, a line for each picker and set."""
    doubtful = {
        (row.picker, row.folder): (row.half.micro.f1, row.half.f1_flipped)
        for row in rows
        if row.half.f1_flipped > _CLEARLY_BETTER * row.half.micro.f1
    }
    return [
        f"warning: {picker} on {folder}: picks fit better with y flipped (F1 {flipped:.2f} instead of {f1:.2f}): "
        "does y grow the other way? See --picks-y-axis"
        for (picker, folder), (f1, flipped) in doubtful.items()
    ]


def best_rows(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """The rows with the highest F1 within half a diameter, for each set and set of labels."""
    highest: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row.folder, row.labels)
        highest[key] = max(highest.get(key, 0.0), row.half.micro.f1)
    return [row for row in rows if row.half.micro.f1 == highest[row.folder, row.labels]]


def _micrographs(row: ScoreRow) -> str:
    """Number of scored micrographs, and of all if some are missing."""
    scored = len(row.micrographs)
    return f"{scored} of {scored + len(row.missing)}" if row.missing else str(scored)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(scores: DistanceScores) -> str:
    if scores.intervals is None:
        return "–"
    return f"{_figure(scores.intervals.f1.low)}–{_figure(scores.intervals.f1.high)}"
