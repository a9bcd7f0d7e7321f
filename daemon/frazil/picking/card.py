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

__all__ = ["CARD_NAME", "Card", "Reference", "read_card", "write_card"]

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
        packed = base64.b64encode(zlib.compress(tiles.astype("<f2").tobytes(), 9)).decode("ascii")
        n, channels, h, w = tiles.shape
        return cls(
            shape=(n, channels, h, w),
            tiles_float16=packed,
            scores=[float(s) for s in scores.ravel()],
            tolerance=tolerance,
        )

    def tiles(self) -> NDArray[np.float32]:
        """The (n, 1, t, t) tiles.

        Raises:
            ModelError: they cannot be decoded to the stated shape.
        """
        expected = int(np.prod(self.shape, dtype=np.int64)) * 2
        try:
            if not 0 < expected <= _LARGEST_REFERENCE_BYTES:
                raise ValueError(f"{expected} bytes")
            raw = zlib.decompressobj().decompress(base64.b64decode(self.tiles_float16, validate=True), expected + 1)
            if len(raw) != expected:
                raise ValueError(f"{len(raw)} bytes")
        except (ValueError, zlib.error) as error:
            raise ModelError(f"expected reference tiles of shape {self.shape}, found {error}", "card") from error
        return np.frombuffer(raw, "<f2").reshape(self.shape).astype(np.float32)


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``card.json``."""

    sha256: str
    """Of ``model.onnx``."""
    reference: Reference
    run: dict[str, Any]
    """Settings, seed, data and versions of the training run."""
    validation: dict[str, Any]
    """Scores on the validation set."""


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
