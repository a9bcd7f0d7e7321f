"""The model contract: the metadata in which a ``model.onnx`` describes itself.

A model takes ``tiles`` float32 (n, 1, t, t) and gives ``scores`` float32 (n, g, g), probabilities. The score at
(i, j) of a tile belongs to the tile's pixel (offset + i * step, offset + j * step). A *window* model has g = 1:
its step is the stride of its window. A *dense* model has g > 1 and scores a grid inside each tile, which leaves a
halo around it. The daemon treats both alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from frazil.errors import ModelError

__all__ = ["CONTRACT_VERSION", "NORMALISATIONS", "Contrast", "Device", "ModelContract", "Precision"]

Contrast = Literal["dark", "bright"]
"""How particles look in a micrograph."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a model runs; ``auto`` takes a CUDA device where one answers."""

Precision = Literal["float32", "int8"]
"""In which a model computes; in ``int8`` only where that picks as well and the processor has instructions for it."""

CONTRACT_VERSION = 1
NORMALISATIONS = ("flat-01",)
"""Names that a contract may state; ``frazil.picking.picture`` implements them. A name never changes its meaning."""
_PREFIX = "frazil."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """All that the daemon must know to feed a model and to read its scores."""

    architecture: str
    """For people: ``mlp``, ``cnn``, ``fcn``."""
    tile_px: int
    """Side t of a tile, in pixels of the rescaled micrograph."""
    grid: int
    """Side g of the scores of one tile."""
    step_px: float
    """Distance between neighbouring scores, in pixels of the rescaled micrograph."""
    offset_px: float
    """Position of the first score in its tile; pixel centres are at integers."""
    diameter_px: float
    """Particle diameter, in pixels of the rescaled micrograph, that the network was trained for."""
    normalisation: str
    """One of `NORMALISATIONS`: what the network was trained on."""
    contrast: Contrast
    """How particles look in the tiles."""
    threshold: float
    """Default figure of merit above which a peak is a pick, chosen on training data."""
    training_set_sha256: str
    """Hash over the training micrographs and their labels."""
    validation: str
    """Scores on the validation set, as JSON."""

    def __post_init__(self) -> None:
        sane = (
            self.tile_px > 0
            and self.grid > 0
            and self.step_px > 0
            and self.diameter_px > 0
            and 0 <= self.offset_px < self.tile_px
            and self.offset_px + (self.grid - 1) * self.step_px < self.tile_px
            and 0 <= self.threshold <= 1
        )
        if not sane:
            raise ModelError(f"expected a contract whose grid lies inside its tile, found {asdict(self)}", "contract")
        if self.contrast not in get_args(Contrast):
            raise ModelError(
                f"expected contrast to be one of {get_args(Contrast)}, found {self.contrast!r}", "contract"
            )
        if self.grid > 1 and not (self.grid * self.step_px).is_integer():
            raise ModelError(
                "expected the grid of a dense model to span a whole number of pixels, "
                f"found {self.grid} x {self.step_px}",
                "contract",
            )

    def to_metadata(self) -> dict[str, str]:
        """The contract as ONNX ``metadata_props``."""
        metadata = {_PREFIX + "contract": str(CONTRACT_VERSION)}
        for field in fields(self):
            metadata[_PREFIX + field.name] = str(getattr(self, field.name))
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelContract:
        """Read the contract from ONNX ``metadata_props``.

        Raises:
            ModelError: a key is missing, has the wrong type, or the contract's version is not known here. The
                message does not name the model; who loads it does.
        """
        expected = [_PREFIX + "contract", *(_PREFIX + field.name for field in fields(cls))]
        missing = [key for key in expected if key not in metadata]
        if missing:
            raise ModelError(f"expected the model contract in its metadata, found no {', '.join(missing)}", "contract")
        if metadata[expected[0]] != str(CONTRACT_VERSION):
            raise ModelError(
                f"expected contract version {CONTRACT_VERSION}, found {metadata[expected[0]]!r}; "
                "it was made for another version of frazil",
                "contract",
            )
        convert = {"int": int, "float": float}
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = metadata[_PREFIX + field.name]
            try:
                values[field.name] = convert.get(str(field.type), str)(text)
            except ValueError:
                raise ModelError(
                    f"expected {_PREFIX}{field.name} to be {field.type}, found {text!r}", "contract"
                ) from None
        contract = cls(**values)
        try:
            json.loads(contract.validation)
        except ValueError:
            raise ModelError(
                f"expected {_PREFIX}validation to be JSON, found {contract.validation!r}", "contract"
            ) from None
        return contract
