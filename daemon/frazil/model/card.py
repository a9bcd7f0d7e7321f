"""The card beside a model: where it came from, and a reference that it must reproduce before it serves."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError

__all__ = ["CARD_NAME", "Card", "Reference", "Twin", "TwinScores", "read_card", "write_card"]

CARD_NAME = "card.json"
_LARGEST_CARD_BYTES = 128 * 2**20
_LARGEST_REFERENCE_BYTES = 64 * 2**20


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
        count = int(np.prod(self.shape, dtype=np.int64))
        try:
            return _unpack(self.tiles_float16, count).reshape(self.shape)
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
        return _pack(scores.astype(np.float16))

    def scores(self, count: int) -> NDArray[np.float32]:
        """(count,) scores of the reference tiles.

        Raises:
            ModelError: they cannot be decoded to `count` scores.
        """
        try:
            return _unpack(self.scores_float16, count)
        except (ValueError, zlib.error) as error:
            raise ModelError(f"expected {count} reference scores of the int8 twin, found {error}", "card") from error

    @property
    def largest_f1_drop(self) -> float:
        """Largest F1 drop: that of the worst deciding set, or the mean of all deciding sets, whichever is larger."""
        drops = [scores.f1_drop for scores in self.f1 if scores.decides]
        return max([*drops, sum(drops) / len(drops)]) if drops else 0.0


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``card.json``."""

    sha256: str
    """Of ``model.onnx``."""
    reference: Reference
    run: dict[str, Any]
    """Settings, seed, data and versions of the training run."""
    validation: dict[str, Any]
    """Scores on the validation set."""
    int8: Twin | None = None
    """The model's int8 twin; not written where there is none."""


def _pack(values: NDArray[np.float16]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f2").tobytes(), 9)).decode("ascii")


def _unpack(text: str, count: int) -> NDArray[np.float32]:
    expected = 2 * count
    if not 0 < expected <= _LARGEST_REFERENCE_BYTES:
        raise ValueError(f"{expected} bytes")
    raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), expected + 1)
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes")
    return np.frombuffer(raw, "<f2").astype(np.float32)


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
