"""Patches: tile, target scores and weights belong together, however the patch was turned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.examples.sampling import micrograph_probabilities, source_probabilities

Make = Callable[..., LabelledMicrograph]
SHAPE = (150, 230)
CENTRES = [(30, 40), (70, 200), (110, 90), (120, 180), (60, 120)]


def sampler(micrographs: list[LabelledMicrograph], *, augment: bool = True) -> PatchSampler:
    return PatchSampler(micrographs, patch_px=96, step_px=4, diameter_px=20.0, spread_diameters=0.13, augment=augment)


@pytest.fixture
def discs(make_labelled: Make) -> LabelledMicrograph:
    """Black discs on white, not square, not symmetric."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.ones(SHAPE)
    for y, x in CENTRES:
        pixels[np.hypot(rows - y, columns - x) <= 8] = 0
    return make_labelled(pixels, CENTRES)


@pytest.mark.parametrize("augment", [True, False])
def test_cells_with_a_high_target_lie_on_a_particle_and_the_others_do_not(
    discs: LabelledMicrograph, augment: bool
) -> None:
    tiles, target, weights, _ = sampler([discs], augment=augment).draw(3, 0, range(80))
    assert tiles.shape == (80, 1, 96, 96)
    assert target.shape == weights.shape == (80, 24, 24)
    at_cells = tiles[:, 0, ::4, ::4]
    counts = weights > 0
    on, off = at_cells[(target > 0.8) & counts], at_cells[(target < 1e-6) & counts]
    assert len(on) > 10
    assert np.mean(on) < 0.35
    assert np.mean(off) > 0.65
    # Most of the dark cells are accounted for: no particle was overlooked.
    dark = (at_cells < 0.3) & counts
    assert (target[dark] > 1e-3).mean() > 0.9


def test_the_target_score_falls_off_as_a_gaussian(make_labelled: Make) -> None:
    one = make_labelled(np.zeros(SHAPE), [(75, 115)])
    tiles, target, *_ = sampler([one], augment=False).draw(3, 0, range(30))
    del tiles
    peaks = target.max(axis=(1, 2))
    seen = peaks[peaks > 0.1]
    assert len(seen) > 5
    # The nearest cell is at most 2 px off in either axis, the deviation 2.6 px.
    assert seen.min() >= np.exp(-(2 * 2**2) / (2 * 2.6**2)) - 1e-6
    assert seen.max() <= 1


def test_what_lies_outside_or_in_the_border_does_not_count(make_labelled: Make) -> None:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for pixels, length in ((rows, SHAPE[0]), (columns, SHAPE[1])):
        one = make_labelled(pixels, CENTRES, border_px=12)
        tiles, _, weights, _ = sampler([one], augment=False).draw(3, 0, range(80))
        places = tiles[:, 0, ::4, ::4]  # each pixel is its own row, or column
        assert 0.2 < weights.mean() < 1
        assert places[weights > 0].min() >= 12 - 1e-3
        assert places[weights > 0].max() < length - 12 + 1e-3


def test_unlabelled_cells_may_be_ignored_only_where_labels_are_incomplete(discs: LabelledMicrograph) -> None:
    source = msgspec.structs.replace(discs.source, incomplete=(discs.name,))
    incomplete = dataclasses.replace(discs, source=source)
    _, target, _, unlabelled = sampler([incomplete]).draw(3, 0, range(40))
    assert unlabelled[target < 0.01].all()
    assert not unlabelled[target > 0.2].any()
    assert not sampler([discs]).draw(3, 0, range(40))[3].any()


def test_same_seed_same_patches(discs: LabelledMicrograph) -> None:
    first, again, other = (sampler([discs]).draw(seed, 0, range(6)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_sets_are_drawn_by_weight_and_their_micrographs_by_particles(make_labelled: Make) -> None:
    blank = np.zeros(SHAPE)
    probabilities = source_probabilities(
        [
            make_labelled(blank, CENTRES[:1], folder="a", weight=3),
            make_labelled(blank, CENTRES[:3], folder="a", weight=3),
            make_labelled(blank, CENTRES, folder="b", weight=1),
        ]
    )
    np.testing.assert_allclose(probabilities, [3 / 16, 9 / 16, 4 / 16])


def test_cells_that_hold_no_data_do_not_count(discs: LabelledMicrograph) -> None:
    blank = np.zeros(SHAPE, np.bool_)
    blank[:, 100:] = True
    pixels = np.where(blank, 0.25, 0.75)  # so that every cell tells on which side it lies
    half = dataclasses.replace(
        discs, picture=dataclasses.replace(discs.picture, pixels=pixels.astype(np.float32)), blank=blank
    )
    tiles, _, weights, _ = sampler([half], augment=False).draw(3, 0, range(40))
    at_cells = tiles[:, 0, ::4, ::4]
    assert (weights > 0).any()
    assert at_cells[weights > 0].min() > 0.25


def test_a_micrograph_without_particles_is_drawn_as_often_as_one_with_many(make_labelled: Make) -> None:
    crowded, empty = make_labelled(np.zeros(SHAPE), CENTRES), make_labelled(np.ones(SHAPE), [])

    np.testing.assert_allclose(micrograph_probabilities([crowded, empty]), [0.5, 0.5])
    tiles, target, weights, _ = sampler([crowded, empty], augment=False).draw(1, 0, range(40))
    of_empty = tiles[:, 0].mean(axis=(1, 2)) > 0.5
    assert 8 < of_empty.sum() < 32
    assert target[of_empty].max() == 0
    assert weights[of_empty].max() == 1


def test_the_spectrum_of_some_patches_is_changed_without_moving_particles(discs: LabelledMicrograph) -> None:
    tiles, target, _, _ = sampler([discs]).draw(5, 0, range(60))
    on_particle, off = target > 0.8, target < 0.01
    cells = tiles[:, 0, ::4, ::4]

    darker = [
        cells[i][off[i]].mean() - cells[i][on_particle[i]].mean()
        for i in range(60)
        if on_particle[i].any() and off[i].any()
    ]
    assert np.mean(np.array(darker) > 0.2) > 0.9
