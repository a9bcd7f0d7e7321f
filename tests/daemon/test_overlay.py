"""Pictures with picks: circles where the picks are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from frazil.picking import Picks, draw_picks


def test_circles_lie_around_the_picks_on_a_picture_that_is_not_square(make_scene: Callable[..., object]) -> None:
    scene = make_scene((600, 900), 40.0, count=1, seed=2)
    drawn = draw_picks(scene.pixels, scene.truth, scene.diameter_px, longest_side_px=450)
    assert drawn.shape == (300, 450, 3)
    coloured = (drawn.max(axis=2).astype(int) - drawn.min(axis=2)) > 60
    rows, columns = np.nonzero(coloured)
    y, x = scene.truth.y[0] / 2, scene.truth.x[0] / 2
    assert abs(rows.mean() - y) < 1
    assert abs(columns.mean() - x) < 1
    np.testing.assert_allclose(np.hypot(rows - y, columns - x), 10, atol=1.5)


def test_no_picks_leave_a_grey_picture(make_scene: Callable[..., object]) -> None:
    scene = make_scene()
    none = Picks(y=np.zeros(0), x=np.zeros(0), score=np.zeros(0))
    drawn = draw_picks(scene.pixels, none, 24.0)
    assert (drawn[..., 0] == drawn[..., 2]).all()
    assert drawn.std() > 20
