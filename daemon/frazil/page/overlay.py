"""The overlay: what is drawn over a micrograph, in pixels of the micrograph."""

from __future__ import annotations

import msgspec
import numpy as np

from frazil.documents import Corrections, JunkArea, PickColumns, columns_of
from frazil.junk_area import sift_picks
from frazil.limits import LimitsPatch, PickLimits
from frazil.page.session import Result
from frazil.picking import Picks, ScoreMap, find_picks

__all__ = ["LOWEST_SCORE", "Frame", "Overlay", "hidden_peaks", "overlay_of", "shown"]

LOWEST_SCORE = 0.05
"""Peaks below this are not shown as candidates."""
_MOST_HIDDEN = 3000


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """Where the picture of a score map lies; its scores stand in the middle of its pixels."""

    y: float
    """Its upper edge."""
    x: float
    """Its left edge."""
    height: float
    width: float


class Overlay(PickLimits, frozen=True, kw_only=True):
    """A micrograph's picks, the limits within which they were made, and its peaks below the threshold."""

    seq: int
    path: str
    """Below the watched directory."""
    superseded_by: int | None
    shape: tuple[int, int]
    """(h, w)."""
    pixel_size_angstrom: float
    diameter_px: float
    model: str
    threshold_says: str
    """How the threshold came about."""
    picked_at: str
    seconds: float | None
    """From the file known to be complete to the picks; None where they were tuned, which needs no model."""
    older: int | None
    """The result before this one."""
    newer: int | None
    """The one after it."""
    picks: PickColumns
    hidden: PickColumns | None
    """Peaks below the threshold that would be picks above it, best first; None where no score map was kept."""
    score_map: Frame | None
    junk: JunkArea | msgspec.UnsetType
    """Where no particle can be picked; left out where that was not looked for."""
    corrections: Corrections | msgspec.UnsetType
    """What people changed in the picks; left out where nobody did."""
    deleted_picks: PickColumns
    """The model's picks that edits took away; none where a later result has replaced this one."""


def overlay_of(
    result: Result,
    score_map: ScoreMap | None,
    *,
    with_hidden: bool,
    threshold_says: str = "",
    deleted_picks: PickColumns,
) -> Overlay:
    """What is drawn over a result's micrograph.

    Args:
        result: its picks.
        score_map: as kept; None where none was.
        with_hidden: whether peaks below the threshold are sought, too.
        threshold_says: how its threshold came about.
        deleted_picks: the model's picks that edits took away.
    """
    document = result.document
    limits = document.limits
    hidden = None
    if score_map is not None and with_hidden:
        low = LimitsPatch(threshold=min(LOWEST_SCORE, limits.threshold)).over(limits)
        peaks, _ = sift_picks(document.junk, find_picks(score_map, low, document.pixel_size_angstrom))
        hidden = hidden_peaks(peaks, limits.threshold)
    return Overlay(
        seq=result.seq,
        path=result.path,
        superseded_by=result.superseded_by,
        shape=document.shape,
        pixel_size_angstrom=document.pixel_size_angstrom,
        diameter_px=document.diameter_px,
        **msgspec.structs.asdict(limits),
        model=document.model.short,
        threshold_says=threshold_says,
        picked_at=document.picked_at,
        seconds=document.seconds.total if document.seconds.infer else None,
        older=result.older,
        newer=result.newer,
        picks=document.picks,
        hidden=hidden,
        score_map=None if score_map is None else _frame(score_map),
        junk=document.junk,
        corrections=document.corrections,
        deleted_picks=deleted_picks,
    )


def hidden_peaks(peaks: Picks, threshold: float) -> PickColumns:
    """The best of the peaks that do not reach a threshold.

    A peak is suppressed by higher-scoring ones only, so filtering a low-threshold result gives exactly the
    high-threshold result.
    """
    return shown(peaks.select(np.flatnonzero(~peaks.reaching(threshold))[:_MOST_HIDDEN]))


def shown(picks: Picks) -> PickColumns:
    """Picks as they are drawn, rounded."""
    return columns_of(picks, position_decimals=1, score_decimals=4)


def _frame(score_map: ScoreMap) -> Frame | None:
    y_px, x_px = score_map.y_px, score_map.x_px
    if y_px.size < 2 or x_px.size < 2:
        return None
    step_y = float(y_px[-1] - y_px[0]) / (y_px.size - 1)
    step_x = float(x_px[-1] - x_px[0]) / (x_px.size - 1)
    return Frame(
        y=float(y_px[0]) - step_y / 2,
        x=float(x_px[0]) - step_x / 2,
        height=step_y * y_px.size,
        width=step_x * x_px.size,
    )
