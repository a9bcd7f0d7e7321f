"""Plots as inline SVG, without a script, in the colours of the page's style.

Pickers differ in colour, dashes and the shape of their marks, so the plots can be read in grey. Markup escapes all text
from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from frazil_trainer.evaluation.overlays import Overlay
from frazil_trainer.evaluation.records import Curve, DistanceScores, Histogram, ScoreRow

__all__ = ["STYLES", "key_plot", "marks_plot", "recall_plot", "strip_plot", "threshold_plot"]

STYLES = 8
"""Number of colours, dashes and shapes; shapes repeat later than colours."""

_SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.4 3.4H-4.4z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.4-3.4H-4.4z",
    "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "M0-5L4.8-1.5L2.9 4H-2.9L-4.8-1.5z",
)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Positions of numbers in a plot."""

    left: float
    top: float
    width: float
    height: float
    low: float = 0.0
    high: float = 1.0
    """Range of the numbers along x; along y it is 0 to 1."""

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / ((self.high - self.low) or 1.0) * self.width

    def y(self, value: float) -> float:
        return self.top + (1 - value) * self.height

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        points = (f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        return "M" + "L".join(points)


def key_plot(picker: int) -> Markup:
    """A picker's line and mark, for a legend."""
    return _svg(44, 14, [_line("M1 7H43", picker), _mark(22, 7, picker)], "key", label="")


def strip_plot(row: ScoreRow, picker: int) -> Markup:
    """F1 from 0 to 1 with its interval: a filled mark within half a diameter, a tick within a fifth."""
    frame = _Frame(6, 2, 178, 16)
    parts = [_shape("grid", f"M{frame.x(v):.1f} 0V20") for v in (0, 0.25, 0.5, 0.75, 1)]
    half, fifth = row.half, row.fifth
    if half.intervals:
        low, high = frame.x(half.intervals.f1.low), frame.x(half.intervals.f1.high)
        parts.append(_shape(f"interval s{picker % STYLES}", f"M{low:.1f} 10H{high:.1f}M{low:.1f} 6v8M{high:.1f} 6v8"))
    chance = frame.x(half.f1_flipped)
    parts.append(_shape("chance", f"M{chance:.1f} 4v12"))
    parts.append(_mark(frame.x(fifth.micro.f1), 10, picker, hollow=True))
    parts.append(_mark(frame.x(half.micro.f1), 10, picker))
    label = f"{row.picker}: F1 {half.micro.f1:.3f}, within a fifth of a diameter {fifth.micro.f1:.3f}"
    return _svg(190, 20, parts, "strip", label=label)


def recall_plot(rows: Sequence[tuple[int, DistanceScores, Curve | None]], label: str) -> Markup:
    """Precision against recall, a line for each picker and a mark at its own threshold.

    Rows are number, scores and, if any, curve of each picker; screen readers say the label.
    """
    frame = _Frame(38, 14, 266, 246)
    parts = _axes(frame, "recall", "precision", [(v, f"{v:g}") for v in (0, 0.2, 0.4, 0.6, 0.8, 1)])
    for f1 in (0.5, 0.6, 0.7, 0.8, 0.9):
        recalls = [f1 / (2 - f1) + i / 40 * (1 - f1 / (2 - f1)) for i in range(41)]
        precisions = [min(1.0, f1 * r / (2 * r - f1)) for r in recalls]
        parts.append(_shape("contour", frame.path(recalls, precisions)))
        parts.append(_text(frame.x(1) + 4, frame.y(precisions[-1]) + 3, f"F1 {f1:g}", "start", "contour"))
    for picker, _, curve in rows:
        if curve is not None:
            parts.append(_line(frame.path(curve.recall, curve.precision), picker))
    for picker, scores, _ in rows:
        parts.append(_mark(frame.x(scores.micro.recall), frame.y(scores.micro.precision), picker))
    return _svg(340, 300, parts, "plot", label=label)


def threshold_plot(row: ScoreRow, curve: Curve, histogram: Histogram, picker: int, label: str) -> Markup:
    """F1 against the threshold above a histogram of the scores of hits and, hatched, false picks.

    The row's own threshold is a solid line, the best one a dotted line with a ring.
    """
    low, high = histogram.edges[0], histogram.edges[-1]
    upper = _Frame(38, 10, 290, 130, low, high)
    lower = _Frame(38, 160, 290, 80, low, high)
    decimals = 2 if high - low <= 1 else 1
    ticks = [(v, f"{v:.{decimals}f}") for v in (low + i / 4 * (high - low) for i in range(5))]
    parts = _axes(upper, "", "F1", ticks, numbers=False)
    f1s = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(curve.precision, curve.recall, strict=True)]
    parts.append(_line(upper.path(curve.threshold, f1s), picker))
    parts += _axes(lower, "score of the pick, and threshold", "picks", ticks, levels=())
    most = max(1, *(h + f for h, f in zip(histogram.hits, histogram.false_picks, strict=True)))
    hits: list[str] = []
    false_picks: list[str] = []
    for i, (hit, false) in enumerate(zip(histogram.hits, histogram.false_picks, strict=True)):
        x, wide = lower.x(histogram.edges[i]), lower.x(histogram.edges[i + 1]) - lower.x(histogram.edges[i]) - 0.6
        for bars, start, count in ((hits, 0, hit), (false_picks, hit, false)):
            if count:
                top = lower.y((start + count) / most)
                bars.append(f"M{x:.1f} {top:.1f}h{wide:.1f}v{count / most * lower.height:.1f}h{-wide:.1f}z")
    parts += [_shape("bar-hit", "".join(hits)), _shape("bar-false", "".join(false_picks))]
    parts.append(_text(lower.left - 4, lower.top + 8, str(most), "end"))
    if row.half.best_threshold is not None:
        x = upper.x(row.half.best_threshold)
        parts.append(_shape("best", f"M{x:.1f} {upper.top}V{lower.top + lower.height}"))
        parts.append(
            _shape("best ring", f"M{x - 5:.1f} {upper.y(row.half.best_f1):.1f}a5 5 0 1 0 10 0a5 5 0 1 0-10 0z")
        )
    if row.threshold is not None:
        x = upper.x(row.threshold)
        parts.append(_shape("own", f"M{x:.1f} {upper.top}V{lower.top + lower.height}"))
        parts.append(_mark(x, upper.y(row.half.micro.f1), picker))
    return _svg(340, 284, parts, "plot", label=label)


def marks_plot(overlay: Overlay, index: int, label: str) -> Markup:
    """One picker's hits as circles, misses as dashed squares, false picks as crosses, over a micrograph."""
    h, w = overlay.shape
    marks, r = overlay.marks[index], overlay.radius_px

    def circle(y: float, x: float) -> str:
        return f"M{x - r:.0f} {y:.0f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0-{2 * r:.1f} 0z"

    def square(y: float, x: float) -> str:
        return f"M{x - r:.0f} {y - r:.0f}h{2 * r:.1f}v{2 * r:.1f}h-{2 * r:.1f}z"

    def cross(y: float, x: float) -> str:
        a = 0.7 * r
        return f"M{x - a:.0f} {y - a:.0f}l{2 * a:.1f} {2 * a:.1f}m0-{2 * a:.1f}l-{2 * a:.1f} {2 * a:.1f}"

    drawn: list[tuple[str, Callable[[float, float], str], list[list[float]]]] = [
        ("hit", circle, marks.hits.tolist()),
        ("miss", square, marks.misses.tolist()),
        ("false", cross, marks.false_picks.tolist()),
    ]
    parts = []
    for name, draw, places in drawn:
        path = "".join(draw(y, x) for y, x in places)
        if path:
            parts += [_shape("halo", path), _shape(name, path)]
    return _svg(w, h, parts, "marks", label=label)


def _axes(
    frame: _Frame,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]],
    *,
    levels: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1),
    numbers: bool = True,
) -> list[Markup]:
    """Grid, numbers and titles."""
    bottom, right = frame.top + frame.height, frame.left + frame.width
    grid = "".join(f"M{frame.x(v):.1f} {frame.top}V{bottom}" for v, _ in x_ticks)
    grid += "".join(f"M{frame.left} {frame.y(v):.1f}H{right}" for v in levels)
    parts = [_shape("grid", grid), _shape("axis", f"M{frame.left} {frame.top}V{bottom}H{right}")]
    parts += [_text(frame.left - 5, frame.y(v) + 4, f"{v:g}", "end") for v in levels]
    if numbers:
        parts += [_text(frame.x(v), bottom + 14, text, "middle") for v, text in x_ticks]
        parts.append(_text(frame.left + frame.width / 2, bottom + 32, x_title, "middle", "title"))
    x, y = 10, frame.top + frame.height / 2
    turned = Markup('<text class="title" text-anchor="middle" transform="translate({} {}) rotate(-90)">{}</text>')
    parts.append(turned.format(x, y, y_title))
    return parts


def _svg(width: float, height: float, parts: Sequence[Markup], name: str, *, label: str) -> Markup:
    described = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup('<svg class="{}" viewBox="0 0 {} {}" {}>{}</svg>').format(
        name, width, height, described, Markup("").join(parts)
    )


def _shape(name: str, path: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(name, path)


def _line(path: str, picker: int) -> Markup:
    return _shape(f"line s{picker % STYLES}", path)


def _mark(x: float, y: float, picker: int, *, hollow: bool = False) -> Markup:
    return Markup('<path class="mark{} s{}" transform="translate({:.1f} {:.1f})" d="{}"/>').format(
        " hollow" if hollow else "", picker % STYLES, x, y, _SHAPES[picker % len(_SHAPES)]
    )


def _text(x: float, y: float, text: str, anchor: str, name: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(name, x, y, anchor, text)
