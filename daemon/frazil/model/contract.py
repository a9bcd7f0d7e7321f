"""What a model says of itself: its identity, the contract in its metadata, and the card beside it.

A model takes ``tiles`` float32 (n, 1, t, t) and gives ``scores`` float32 (n, g, g), probabilities. The score at
(i, j) of a tile belongs to the tile's pixel (offset + i * step, offset + j * step). A *window* model has g = 1:
its step is the stride of its window. A *dense* model has g > 1 and scores a grid inside each tile, which leaves a
halo around it. The daemon treats both alike.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from frazil.errors import ModelError

if TYPE_CHECKING:  # whoever names a model in a document, or reads a setting, loads no NumPy
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CARD_NAME",
    "CONTRACT_VERSION",
    "NORMALISATIONS",
    "Calibration",
    "Card",
    "Contrast",
    "Device",
    "Finds",
    "ModelContract",
    "ModelIdentity",
    "Precision",
    "Reference",
    "Twin",
    "TwinScores",
    "read_calibration",
    "read_card",
    "write_card",
]

Contrast = Literal["dark", "bright"]
"""How particles look in a micrograph."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a model runs; ``auto`` takes a CUDA device where one answers."""

Precision = Literal["float32", "int8"]
"""In which a model computes; in ``int8`` only where that picks as well and the processor has instructions for it."""

Finds = Literal["particles", "junk"]
"""What a model's scores are the probability of."""

CONTRACT_VERSION = 1
NORMALISATIONS = ("flat-01", "wide-01")
"""Names that a contract may state; ``frazil.picking.picture`` implements them. A name never changes its meaning."""
_PREFIX = "frazil."
_OPTIONAL = {_PREFIX + "calibration"}
"""Keys that a contract need not have."""
CARD_NAME = "card.json"
_LARGEST_CARD_BYTES = 128 * 2**20
_LARGEST_REFERENCE_BYTES = 64 * 2**20
_MOST_EDGES = 256


class ModelIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which model made the picks."""

    name: str
    version: int
    """Number of its version folder; 0 for a lone file."""
    sha256: str
    """Of its ONNX file."""
    precision: str = "float32"
    """In which it computed: ``float32``, or ``int8`` by its twin."""

    @property
    def short(self) -> str:
        """Name and version; of a lone file, the name alone."""
        return f"{self.name}/{self.version}" if self.version else self.name

    def __str__(self) -> str:
        return f"{self.short} (sha256 {self.sha256[:12]})"


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How probable a particle is at a score: peaks of micrographs that the model was not trained on, counted.

    What a score means depends on the session, and shows in how the scores of its peaks are distributed. So each
    micrograph is kept by itself.
    """

    edges: tuple[float, ...]
    """Of b bins of scores, rising."""
    micrographs: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    """Their number m."""
    peaks_uint16: str
    """(m, b) number of peaks, as little-endian uint16, deflated, in base64."""
    particles_uint16: str
    """(m, b) number of those peaks that are particles, likewise."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise(self.edges))
        if not (2 <= len(self.edges) <= _MOST_EDGES and rising and self.edges[0] >= 0 and self.edges[-1] <= 1):
            raise ValueError(f"expected 2 to {_MOST_EDGES} edges of bins, rising from 0 to 1")
        peaks, particles = self.counts()
        if (particles > peaks).any() or not (peaks.any(axis=1)).all():
            raise ValueError("expected peaks in every micrograph, and at most as many particles as peaks")

    @classmethod
    def make(cls, edges: tuple[float, ...], peaks: NDArray[np.integer], particles: NDArray[np.integer]) -> Calibration:
        """Build a calibration from (m, b) numbers of peaks and of particles among them."""
        return cls(
            edges=edges,
            micrographs=len(peaks),
            peaks_uint16=_pack(peaks, "<u2"),
            particles_uint16=_pack(particles, "<u2"),
        )

    def counts(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """(m, b) number of peaks, and (m, b) number of particles among them.

        Raises:
            ValueError: they cannot be decoded to the stated shape.
        """
        shape = (self.micrographs, len(self.edges) - 1)
        try:
            peaks, particles = (
                _unpack(text, math.prod(shape), "<u2").reshape(shape)
                for text in (self.peaks_uint16, self.particles_uint16)
            )
        except zlib.error as error:
            raise ValueError(f"expected counts of shape {shape}, found {error}") from error
        return peaks, particles


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """All that the daemon must know to feed a model and to read its scores."""

    architecture: str
    """``mlp``, ``cnn`` and ``fcn`` are for people; a ``junk`` model finds junk, and all others particles."""
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
    """Default figure of merit above which a peak is a pick, or a place junk; chosen on training data."""
    training_set_sha256: str
    """Hash over the training micrographs and their labels."""
    validation: str
    """Scores on the validation set, as JSON."""
    calibration: str = ""
    """How probable a particle is at a score: a `Calibration` as JSON. Empty: a score is the probability."""

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

    @property
    def finds(self) -> Finds:
        """What the scores are the probability of."""
        return "junk" if self.architecture == "junk" else "particles"

    def check_finds(self, wanted: Finds) -> None:
        """Check that the model finds what it is wanted for.

        Raises:
            ModelError: it finds something else. The message does not name the model; who loads it does.
        """
        if self.finds != wanted:
            raise ModelError(
                f"expected a model that finds {wanted}, found one that finds {self.finds} "
                f"(architecture {self.architecture})",
                "contract",
            )

    def to_metadata(self) -> dict[str, str]:
        """The contract as ONNX ``metadata_props``."""
        metadata = {_PREFIX + "contract": str(CONTRACT_VERSION)}
        for field in fields(self):
            metadata[_PREFIX + field.name] = str(getattr(self, field.name))
        return {key: value for key, value in metadata.items() if value or key not in _OPTIONAL}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelContract:
        """Read the contract from ONNX ``metadata_props``.

        Raises:
            ModelError: a key is missing, has the wrong type, or the contract's version is not known here. The
                message does not name the model; who loads it does.
        """
        expected = [_PREFIX + "contract", *(_PREFIX + field.name for field in fields(cls))]
        missing = [key for key in expected if key not in metadata and key not in _OPTIONAL]
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
            text = metadata.get(_PREFIX + field.name, "")
            try:
                values[field.name] = convert.get(str(field.type), str)(text)
            except ValueError:
                raise ModelError(
                    f"expected {_PREFIX}{field.name} to be {field.type}, found {text!r}", "contract"
                ) from None
        contract = cls(**values)
        read_calibration(contract.calibration)
        try:
            json.loads(contract.validation)
        except ValueError:
            raise ModelError(
                f"expected {_PREFIX}validation to be JSON, found {contract.validation!r}", "contract"
            ) from None
        return contract


def read_calibration(text: str) -> Calibration | None:
    """The calibration of a contract; None where it has none.

    Raises:
        ModelError: it is damaged.
    """
    try:
        return msgspec.json.decode(text, type=Calibration) if text else None
    except ValueError as error:
        raise ModelError(f"expected {_PREFIX}calibration as counts of peaks in JSON: {error}", "contract") from None


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tiles and the scores that the model gave for them when it was exported."""

    shape: tuple[int, int, int, int]
    """(n, 1, t, t) of the tiles."""
    tiles_float16: str
    """The tiles as little-endian float16, deflated, in base64; exact, since they were rounded before scoring."""
    scores: list[float]
    """n * g * g scores, flattened."""
    tolerance: float
    """Largest absolute difference allowed."""

    @classmethod
    def make(cls, tiles: NDArray[np.float16], scores: NDArray[np.float32], tolerance: float) -> Reference:
        """Build a reference from (n, 1, t, t) tiles and their (n, g, g) scores."""
        n, channels, h, w = tiles.shape
        return cls(
            shape=(n, channels, h, w),
            tiles_float16=_pack(tiles),
            scores=[float(s) for s in scores.ravel()],
            tolerance=tolerance,
        )

    def tiles(self) -> NDArray[np.float32]:
        """The (n, 1, t, t) tiles.

        Raises:
            ModelError: they cannot be decoded to the stated shape.
        """
        try:
            return _unpack(self.tiles_float16, math.prod(self.shape)).reshape(self.shape).astype("<f4")
        except (ValueError, zlib.error) as error:
            raise ModelError(f"expected reference tiles of shape {self.shape}, found {error}", "card") from error


class TwinScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """F1 of a model and its int8 twin on one validation set, by the same picker and threshold."""

    folder: str
    """Name of the set."""
    labels: str
    """Ending of the files with the labels."""
    decides: bool
    """Whether a low F1 here refuses the twin: not if the particles are unlike those to be picked."""
    float32: float
    int8: float

    @property
    def f1_drop(self) -> float:
        """F1 of the model less that of the twin."""
        return self.float32 - self.int8


class Twin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's int8 twin, or the record of a failed attempt to make one."""

    sha256: str
    """Of ``model.int8.onnx``."""
    admitted: bool
    """Whether it picks as well as the model; the file is there only if it does."""
    made: dict[str, Any]
    """How it was made: calibration, its tiles, what stays in float32."""
    scores_float16: str
    """Its scores of the reference tiles, n * g * g, flattened, as little-endian float16, deflated, in base64."""
    tolerance: float
    """Largest absolute difference allowed: processors differ in rounding."""
    f1: tuple[TwinScores, ...]
    """On each validation set."""

    @staticmethod
    def pack_scores(scores: NDArray[np.float32]) -> str:
        """(n, g, g) scores as the card holds them."""
        return _pack(scores)

    def scores(self, count: int) -> NDArray[np.float32]:
        """(count,) scores of the reference tiles.

        Raises:
            ModelError: they cannot be decoded to `count` scores.
        """
        try:
            return _unpack(self.scores_float16, count).astype("<f4")
        except (ValueError, zlib.error) as error:
            raise ModelError(f"expected {count} reference scores of the int8 twin, found {error}", "card") from error

    @property
    def largest_f1_drop(self) -> float:
        """Largest F1 drop: that of the worst deciding set, or the mean of all deciding sets, whichever is larger."""
        drops = [scores.f1_drop for scores in self.f1 if scores.decides]
        return max([*drops, sum(drops) / len(drops)]) if drops else 0.0


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``card.json``: where a model came from, and a reference that it must reproduce before it serves."""

    sha256: str
    """Of ``model.onnx``."""
    reference: Reference
    run: dict[str, Any]
    """Settings, seed, data and versions of the training run."""
    validation: dict[str, Any]
    """Scores on the validation set."""
    int8: Twin | None = None
    """The model's int8 twin; not written where there is none."""


def _pack(values: NDArray[Any], dtype: str = "<f2") -> str:
    return base64.b64encode(zlib.compress(values.astype(dtype).tobytes(), 9)).decode("ascii")


def _unpack(text: str, count: int, dtype: str = "<f2") -> NDArray[Any]:
    expected = 2 * count
    if not 0 < expected <= _LARGEST_REFERENCE_BYTES:
        raise ValueError(f"{expected} bytes")
    import numpy as np

    raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), expected + 1)
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes")
    return np.frombuffer(raw, dtype)


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        ModelError: it is missing or malformed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_CARD_BYTES + 1)
        if len(content) > _LARGEST_CARD_BYTES:
            raise ModelError(f"{path}: expected a card of at most {_LARGEST_CARD_BYTES} bytes, found more", "card")
        return msgspec.json.decode(content, type=Card)
    except OSError as error:
        raise ModelError(f"{path}: expected the model's card, found none ({error.strerror})", "card") from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: expected a model card, found otherwise: {error}", "card") from error


def write_card(path: Path, card: Card) -> None:
    """Write a card as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
