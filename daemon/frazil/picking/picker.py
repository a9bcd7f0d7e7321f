"""The picker: a micrograph in, picks out, in three steps that a caller can time and overlap."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import SettingsError
from frazil.limits import LimitsPatch, default_limits
from frazil.model import Contrast
from frazil.model.model import Model
from frazil.model.tiling import Batches, MicrographSize, Tiling
from frazil.picking.device import PreparationOnDevice
from frazil.picking.micrograph import Micrograph
from frazil.picking.picks import Picks, ScoreMap, find_picks, in_steps
from frazil.picking.picture import LARGEST_PICTURE_PIXELS, BlankArea, Picture, is_possible_diameter, make_picture
from frazil.picking.rescale import Rescaling

__all__ = ["Picker", "PickingSettings"]


class PickingSettings(LimitsPatch, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The operator's settings: of the particle, and of its picks' limits.

    Limits that are not set are the model's threshold, half the diameter, and a quarter of it.
    """

    diameter_angstrom: float
    """Diameter of the particle."""
    pixel_size_angstrom: float | None = None
    """Of the micrographs; None takes each file's own."""
    contrast: Contrast = "dark"
    """How particles look in the micrographs."""
    unusual_diameter: bool = False
    """Whether a diameter is accepted that makes the picture larger than any with visible particles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("diameter", "pixel_size"):
            value = getattr(self, f"{name}_angstrom")
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name.replace('_', '-')}: expected a positive length in Å, found {value:g}")


class Picker:
    """Picks micrographs with one model and one set of settings, of which the limits may be changed.

    ``pick`` does it all; the daemon and the benchmark call ``prepare``, ``score`` and ``find`` one by one.

    Args:
        model: scores.
        settings: of the operator.
        change: of the limits.
        device: prepares pictures on the model's device. Default: the CPU does.
    """

    def __init__(
        self,
        model: Model,
        settings: PickingSettings,
        change: LimitsPatch | None = None,
        *,
        device: PreparationOnDevice | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = device or PreparationOnDevice(model, "host")
        given = settings.over(default_limits(settings.diameter_angstrom, model.contract.threshold))
        self.limits = given if change is None else change.over(given)
        # Scores reach to the margin of the settings even if a wider one holds now: the change can be taken back.
        self._scored_margin_angstrom = min(given.edge_margin_angstrom, self.limits.edge_margin_angstrom)

    @property
    def threshold(self) -> float:
        """Lowest figure of merit of a pick."""
        return self.limits.threshold

    @property
    def inverts(self) -> bool:
        """Whether the model sees micrographs the other way round than they are."""
        return self.settings.contrast != self.model.contract.contrast

    def with_limits(self, change: LimitsPatch) -> Picker:
        """A picker with the same model and settings, and changed limits."""
        return Picker(self.model, self.settings, change, device=self.device)

    def rescaling(self, shape: tuple[int, int], pixel_size_angstrom: float | None) -> Rescaling | None:
        """How a micrograph will be rescaled, for `read_micrograph`; None where that is not known.

        Args:
            shape: (h, w) of the micrograph.
            pixel_size_angstrom: of its file.
        """
        pixel_size = self.settings.pixel_size_angstrom or pixel_size_angstrom
        if pixel_size is None or self.device.accelerator is not None:
            return None
        diameter_px = self.settings.diameter_angstrom / pixel_size
        if not is_possible_diameter(diameter_px, shape):
            return None  # it will be refused
        return Rescaling.for_diameter(shape, diameter_px, self.model.contract.diameter_px)

    def pick(self, micrograph: Micrograph) -> Picks:
        """Pick one micrograph.

        Raises:
            MicrographError: see `prepare`.
        """
        picture = self.prepare(micrograph)
        return self.find(self.score(picture), picture)

    def prepare(self, micrograph: Micrograph) -> Picture:
        """Rescale to the model's grid and normalise.

        Raises:
            MicrographError: the pixel size is unknown, or makes the particle too small or too large to be picked; or
                next to nothing of the micrograph holds data.
        """
        contract = self.model.contract
        return make_picture(
            micrograph,
            diameter_angstrom=self.settings.diameter_angstrom,
            pixel_size_angstrom=self.settings.pixel_size_angstrom,
            model_diameter_px=contract.diameter_px,
            normalisation=contract.normalisation,
            invert=self.inverts,
            prepare_on_device=self.device.prepare,
            largest_pixels=None if self.settings.unusual_diameter else LARGEST_PICTURE_PIXELS,
        )

    def plan(self, picture: Picture) -> Tiling | None:
        """Place the model's tiles on the picture; None where the edge margin leaves nothing of it."""
        return self.model.plan(self.size_of(picture.rescaling.shape, picture.pixel_size_angstrom))

    def count_batches(self, picture: Picture) -> Batches:
        """Number of batches in which the model scores the picture, and how full they are."""
        tiling = self.plan(picture)
        return Batches() if tiling is None else self.model.count_batches(tiling)

    def size_of(self, shape: tuple[int, int], pixel_size_angstrom: float) -> MicrographSize:
        """What the tiles of a micrograph of (h, w) pixels depend on, for `Model.plan` and `Model.batch_shape`."""
        return MicrographSize(
            shape=shape,
            diameter_px=self.settings.diameter_angstrom / pixel_size_angstrom,
            margin_px=self._scored_margin_angstrom / pixel_size_angstrom,
        )

    def score(self, picture: Picture) -> ScoreMap:
        """Run the model over the picture.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        rescaling = picture.rescaling
        size = self.size_of(rescaling.shape, picture.pixel_size_angstrom)
        tiling, margin_px = self.model.plan(size), size.margin_px
        if tiling is None:
            none, nothing = np.zeros(0, np.float64), np.zeros((0, 0), np.float32)
            return ScoreMap(scores=nothing, y_px=none, x_px=none, shape=rescaling.shape, margin_px=margin_px)
        scores = in_steps(tiling.assemble(self._score_tiles(picture, tiling)))
        if picture.blank is not None:
            scores[_near_blank(picture.blank, rescaling, tiling, margin_px)] = 0
        return ScoreMap(
            scores=scores,
            y_px=rescaling.to_micrograph(tiling.y.centres, 0),
            x_px=rescaling.to_micrograph(tiling.x.centres, 1),
            shape=rescaling.shape,
            margin_px=margin_px,
        )

    def _score_tiles(self, picture: Picture, tiling: Tiling) -> NDArray[np.float32]:
        """(count, g, g) scores; on the device as long as that works."""
        scored = self.device.score(picture.on_device, tiling)
        return self.model.score_picture(picture.pixels, tiling) if scored is None else scored

    def find(self, score_map: ScoreMap, picture: Picture) -> Picks:
        """Find the picks in a score map of the picture."""
        return find_picks(score_map, self.limits, picture.pixel_size_angstrom)


def _near_blank(blank: BlankArea, rescaling: Rescaling, tiling: Tiling, margin_px: float) -> NDArray[np.bool_]:
    """(gy, gx) which scores lie where there is no data, or as near to it as no pick may be to an edge.

    A speck is no edge: near it picks may be.
    """
    margin = 0.0 if blank.is_negligible else margin_px * max(rescaling.factors)
    holds_data = (~blank.rescaled(rescaling)).astype(np.uint8)
    distance = cv2.distanceTransform(holds_data, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows, columns = (
        np.clip(np.rint(axis.centres), 0, n - 1).astype(np.intp)
        for axis, n in zip((tiling.y, tiling.x), holds_data.shape, strict=True)
    )
    return np.asarray(distance[rows[:, np.newaxis], columns] <= margin, np.bool_)
