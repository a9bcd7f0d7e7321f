"""The picker: a micrograph in, picks out, in three steps that a caller can time and overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frazil.errors import SettingsError
from frazil.picking.micrograph import Micrograph
from frazil.picking.model import Model
from frazil.picking.peaks import ScoreMap, find_peaks
from frazil.picking.picks import Picks
from frazil.picking.picture import Picture, make_picture
from frazil.picking.rescale import Rescaling
from frazil.picking.tiling import Batches, Tiling, plan_tiling
from frazil.settings import Contrast

__all__ = ["Picker", "PickingSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickingSettings:
    """What the operator says about the particle and wants of its picks."""

    diameter_angstrom: float
    """Diameter of the particle."""
    pixel_size_angstrom: float | None = None
    """Of the micrographs; None takes each file's own."""
    threshold: float | None = None
    """Lowest figure of merit; None takes the model's."""
    min_distance_angstrom: float | None = None
    """No two picks are closer; None takes half the diameter."""
    edge_margin_angstrom: float | None = None
    """No pick is closer to an edge; None takes a quarter of the diameter."""
    contrast: Contrast = "dark"
    """How particles look in the micrographs."""

    def __post_init__(self) -> None:
        for name in ("diameter", "pixel_size", "min_distance", "edge_margin"):
            value = getattr(self, f"{name}_angstrom")
            lowest_allowed = name in ("min_distance", "edge_margin")
            if value is not None and not (0 <= value < float("inf") and (lowest_allowed or value > 0)):
                raise SettingsError(f"{name.replace('_', '-')}: expected a positive length in Å, found {value:g}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise SettingsError(f"threshold: expected a number from 0 to 1, found {self.threshold:g}")


class Picker:
    """Picks micrographs with one model and one set of settings.

    ``pick`` does it all; the daemon and the benchmark call ``prepare``, ``score`` and ``find`` one by one.
    """

    def __init__(self, model: Model, settings: PickingSettings) -> None:
        self.model = model
        self.settings = settings
        self.threshold = model.contract.threshold if settings.threshold is None else settings.threshold
        diameter = settings.diameter_angstrom
        given_distance, given_margin = settings.min_distance_angstrom, settings.edge_margin_angstrom
        self._min_distance_angstrom = 0.5 * diameter if given_distance is None else given_distance
        self._edge_margin_angstrom = 0.25 * diameter if given_margin is None else given_margin

    def pick(self, micrograph: Micrograph) -> Picks:
        """Pick one micrograph.

        Raises:
            MicrographError: see `prepare`.
        """
        picture = self.prepare(micrograph)
        return self.find(self.score(picture), picture)

    def prepare(self, micrograph: Micrograph) -> Picture:
        """Rescale to the model's grid and standardise.

        Raises:
            MicrographError: the pixel size is unknown, or makes the particle too small or too large to be picked.
        """
        contract = self.model.contract
        return make_picture(
            micrograph,
            diameter_angstrom=self.settings.diameter_angstrom,
            pixel_size_angstrom=self.settings.pixel_size_angstrom,
            model_diameter_px=contract.diameter_px,
            normalisation=contract.normalisation,
            invert=self.settings.contrast != contract.contrast,
        )

    def plan(self, picture: Picture) -> Tiling | None:
        """Place the model's tiles on the picture; None where the edge margin leaves nothing of it."""
        return self._plan(picture.rescaling, picture.pixel_size_angstrom)

    def count_batches(self, picture: Picture) -> Batches:
        """In how many batches the model scores the picture, and how full they are."""
        tiling = self.plan(picture)
        return tiling.count_batches(self.model.batch) if tiling else Batches()

    def batch_of(self, shape: tuple[int, int], pixel_size_angstrom: float) -> int:
        """Tiles in one batch of a micrograph of (h, w) pixels; 1 where the edge margin leaves nothing of it."""
        diameter_px = self.settings.diameter_angstrom / pixel_size_angstrom
        tiling = self._plan(
            Rescaling.for_diameter(shape, diameter_px, self.model.contract.diameter_px), pixel_size_angstrom
        )
        return tiling.batch_size(self.model.batch) if tiling else 1

    def _plan(self, rescaling: Rescaling, pixel_size_angstrom: float) -> Tiling | None:
        margin_px = self._edge_margin_angstrom / pixel_size_angstrom
        margins = (margin_px * rescaling.factors[0], margin_px * rescaling.factors[1])
        return plan_tiling(rescaling.rescaled_shape, self.model.contract, margins)

    def score(self, picture: Picture) -> ScoreMap:
        """Run the model over the picture.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        rescaling, tiling = picture.rescaling, self.plan(picture)
        if tiling is None:
            none = np.zeros(0, np.float64)
            return ScoreMap(scores=np.zeros((0, 0), np.float32), y_px=none, x_px=none, shape=rescaling.shape)
        batches = tiling.batches(picture.pixels, self.model.batch)
        scores = np.concatenate([self.model.score(batch) for batch in batches])
        return ScoreMap(
            scores=tiling.assemble(scores),
            y_px=rescaling.to_micrograph(tiling.y.centres, 0),
            x_px=rescaling.to_micrograph(tiling.x.centres, 1),
            shape=rescaling.shape,
        )

    def find(self, score_map: ScoreMap, picture: Picture) -> Picks:
        """Find the picks in a score map of the picture."""
        pixel_size = picture.pixel_size_angstrom
        return find_peaks(
            score_map,
            threshold=self.threshold,
            min_distance_px=self._min_distance_angstrom / pixel_size,
            edge_margin_px=self._edge_margin_angstrom / pixel_size,
        )
