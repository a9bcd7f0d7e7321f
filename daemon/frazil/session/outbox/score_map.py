"""Score maps as the ledger keeps them: small, and exact enough to make picks from them again.

Scores are rounded to steps of 1/65535, as in picking, and compressed with all high bytes before all low bytes. One byte
for each score would take less room, but neighbouring peaks that differ by less than its step would become one.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from frazil.picking import SCORE_STEPS, ScoreMap

__all__ = ["pack_score_map", "unpack_score_map"]


class _Packed(msgspec.Struct, frozen=True, kw_only=True):
    shape: tuple[int, int]
    y_px: bytes
    x_px: bytes
    scores: bytes
    margin_px: float | None = None


_DECODER = msgspec.msgpack.Decoder(_Packed)


def pack_score_map(score_map: ScoreMap) -> bytes:
    """Encode a score map as bytes."""
    steps = np.round(score_map.scores * np.float32(SCORE_STEPS)).astype("<u2")
    planes = steps.reshape(-1, 1).view(np.uint8).T[::-1]
    return msgspec.msgpack.encode(
        _Packed(
            shape=score_map.shape,
            y_px=score_map.y_px.astype("<f8").tobytes(),
            x_px=score_map.x_px.astype("<f8").tobytes(),
            scores=zlib.compress(planes.tobytes(), 1),
            margin_px=score_map.margin_px,
        )
    )


def unpack_score_map(packed: bytes) -> ScoreMap:
    """Decode a score map from bytes.

    Raises:
        ValueError: the bytes are no score map.
    """
    try:
        body = _DECODER.decode(packed)
        y_px, x_px = np.frombuffer(body.y_px, "<f8"), np.frombuffer(body.x_px, "<f8")
        planes = np.frombuffer(zlib.decompress(body.scores), np.uint8).reshape(2, y_px.size * x_px.size)
    except (msgspec.DecodeError, zlib.error) as error:
        raise ValueError(f"expected a score map: {error}") from error
    steps = planes[0].astype(np.float32) * 256 + planes[1]
    return ScoreMap(
        scores=(steps / np.float32(SCORE_STEPS)).reshape(y_px.size, x_px.size),
        y_px=y_px.astype(np.float64),
        x_px=x_px.astype(np.float64),
        shape=body.shape,
        margin_px=body.margin_px,
    )
