"""Section `straightforward`: a window model run as one would at first, beside frazil's way with the same network.

The micrograph is resized once and normalised, every window is cut out of it, ONNX Runtime scores them in batches of
1,024, and local maxima become picks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from benchmarks.speed.bench import Bench
from benchmarks.speed.floor import bare_session
from benchmarks.speed.spread import Rounds, Spread, rounds_within
from frazil.limits import LimitsPatch
from frazil.model import ModelContract, locate_model
from frazil.picking import (
    Picker,
    Picks,
    PixelMemory,
    Rescaling,
    ScoreMap,
    find_picks,
    match_picks,
    read_micrograph,
)
from frazil.picking.picks import in_steps
from frazil.picking.picture import normalise

__all__ = ["Comparison", "Straightforward", "WindowNetwork", "measure"]

_BATCH = 1024
_WINDOW_MODELS = ("mlp/2", "cnn", "cnn/1")
"""The first and the last are the paper's own networks, whose windows share nothing."""
_COMPARED_SHARE = 0.01
"""Of the scores are picked: discs in noise are no particles to every model, and there must be picks to compare."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model on one float32 micrograph."""

    model: str
    size_px: int
    windows: int
    straightforward: Spread
    frazil: Spread
    times_faster: Spread
    picks: int
    """Of the straightforward version."""
    picks_in_common: int
    """Found by frazil, too, within a pixel of the micrograph."""
    picks_by_frazil_alone: int
    largest_score_difference: float
    """Between the two score maps."""


class Straightforward(msgspec.Struct, frozen=True, kw_only=True):
    """The window models."""

    comparisons: list[Comparison]


class WindowNetwork:
    """A network that scores windows one by one.

    Args:
        onnx: (n, 1, w, w) windows → one probability each.
        contract: of the network; one that scores many windows in a tile is given tiles of one window.
        threads: of ONNX Runtime.
    """

    def __init__(self, onnx: Path, contract: ModelContract, threads: int) -> None:
        self._session = bare_session(onnx, threads)
        self._input = self._session.get_inputs()[0].name
        self._window_px = contract.tile_px - round((contract.grid - 1) * contract.step_px)

    def score(
        self, picture: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """(h, w) normalised picture → (ky, kx) scores of the windows around rows y (ky,) and columns x (kx,)."""
        side = self._window_px
        padded = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REFLECT)
        windows = sliding_window_view(padded, (side, side))
        top, left = (np.rint(centres - (side - 1) / 2).astype(np.intp) + side for centres in (y, x))
        rows, columns = np.repeat(top, left.size), np.tile(left, top.size)
        scores = [
            self._session.run(
                None,
                {self._input: windows[rows[start : start + _BATCH], columns[start : start + _BATCH]][:, np.newaxis]},
            )[0].ravel()
            for start in range(0, rows.size, _BATCH)
        ]
        return np.concatenate(scores).reshape(top.size, left.size)


def measure(bench: Bench) -> Straightforward:
    """Both ways in turns, for each window model."""
    return Straightforward(comparisons=[_compare(bench, model) for model in _WINDOW_MODELS])


def _compare(bench: Bench, model: str) -> Comparison:
    picker, micrograph, rounds = bench.picker(model), bench.square(), Rounds()
    network = WindowNetwork(locate_model(bench.models / model)[0], picker.model.contract, bench.threads)
    picture = picker.prepare(read_micrograph(micrograph, as_stored=True))
    own_map = picker.score(picture)
    picker = picker.with_limits(LimitsPatch(threshold=float(np.quantile(own_map.scores, 1 - _COMPARED_SHARE))))
    own, memory = picker.find(own_map, picture), PixelMemory()
    found = straight_map = None
    for number in rounds_within(bench.scale.rounds, bench.scale.budget_seconds):
        bench.say(f"{model} both ways, round {number + 1}")
        straight_map, found = rounds.time("straightforward", lambda: _pick(network, picker, micrograph, own_map))
        rounds.time("frazil", lambda: _pick_as_frazil_does(picker, micrograph, memory))
    assert found is not None
    assert straight_map is not None
    common = int((match_picks(own, found, 1.0) >= 0).sum())
    return Comparison(
        model=model,
        size_px=bench.scale.size_px,
        windows=own_map.scores.size,
        straightforward=rounds.spread("straightforward"),
        frazil=rounds.spread("frazil"),
        times_faster=rounds.ratio("straightforward", "frazil"),
        picks=len(found),
        picks_in_common=common,
        picks_by_frazil_alone=len(own) - common,
        largest_score_difference=round(float(np.abs(straight_map.scores - own_map.scores).max()), 6),
    )


def _pick_as_frazil_does(picker: Picker, micrograph: Path, memory: PixelMemory) -> Picks:
    return picker.pick(read_micrograph(micrograph, as_stored=True, memory=memory, rescaling=picker.rescaling))


def _pick(network: WindowNetwork, picker: Picker, micrograph: Path, like: ScoreMap) -> tuple[ScoreMap, Picks]:
    """The straightforward way of one micrograph, at the positions of another score map."""
    contract = picker.model.contract
    made = read_micrograph(micrograph)
    pixel_size = made.resolve_pixel_size(picker.settings.pixel_size_angstrom)
    diameter_px = picker.settings.diameter_angstrom / pixel_size
    rescaling = Rescaling.for_diameter(made.pixels.shape, diameter_px, contract.diameter_px)
    invert = picker.settings.contrast != contract.contrast
    h, w = rescaling.rescaled_shape
    pixels = np.asarray(
        cv2.resize(made.pixels.astype(np.float32, copy=False), (w, h), interpolation=cv2.INTER_AREA), np.float32
    )
    picture = normalise(pixels, contract.normalisation, contract.diameter_px, invert=invert)
    scores = network.score(picture, rescaling.to_rescaled(like.y_px, 0), rescaling.to_rescaled(like.x_px, 1))
    score_map = dataclasses.replace(like, scores=in_steps(scores))
    return score_map, find_picks(score_map, picker.limits, pixel_size)
