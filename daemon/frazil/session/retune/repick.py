"""Repicking: a micrograph's picks are made again from its newest document and kept score map."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec.structs import replace

from frazil.documents import MicrographDocument, decode_document
from frazil.errors import RetuneError
from frazil.junk_area import MaybeJunk, sift_picks
from frazil.limits import LimitsPatch, PickLimits
from frazil.picking import SCORE_STEPS, Picks, ScoreMap, find_picks
from frazil.session.correct.applying import apply
from frazil.session.outbox.ledger import (
    RETUNE_KEY,
    KeptResult,
    LedgerReader,
    checksum,
    update_remembered,
    whole_edits,
)
from frazil.session.retune.limits import LimitsChange, decode_request

__all__ = [
    "MicrographCount",
    "Preview",
    "correct_picks",
    "count",
    "newest_document",
    "newest_model",
    "pack_score_map",
    "preview",
    "read_document",
    "read_score_map",
    "recall_result",
    "repick",
    "repick_with_junk",
    "request_change",
    "unpack_score_map",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preview:
    """A micrograph's picks within other limits."""

    document: MicrographDocument
    """With the picks as they are now."""
    limits: PickLimits
    """The other limits."""
    picks: Picks
    """Within the other limits, best first."""


def preview(reader: LedgerReader, key: str, patch: LimitsPatch) -> Preview:
    """Repick one micrograph; nothing is changed.

    The picks are those that the picker would give with the other limits, corrected by the edits that there are; with an
    empty patch, those of the document. A
    score equal to the threshold counts. Scores are multiples of 1/65535, so thresholds closer than that may give the
    same picks.

    Args:
        reader: of the session's ledger.
        key: of the micrograph.
        patch: the limits to change. Diameter and pixel size are those with which it was picked.

    Raises:
        RetuneError: there is no result or no score map, or the score map does not reach to the edge margin.
        OutputError: the ledger cannot be read.
    """
    kept = recall_result(reader, key)
    document = read_document(kept)
    limits = patch.over(document.limits)
    picks = correct_picks(reader, key, document, repick(document, read_score_map(kept), limits))
    return Preview(document=document, limits=limits, picks=picks)


def correct_picks(reader: LedgerReader, key: str, document: MicrographDocument, picks: Picks) -> Picks:
    """Picks within other limits as they would be committed: with the edits of the micrograph."""
    edits = whole_edits(reader.edits(key))
    return apply(edits, picks, document.diameter_px, document.shape).picks if edits else picks


def recall_result(reader: LedgerReader, key: str) -> KeptResult:
    """The newest result of a micrograph.

    Raises:
        RetuneError: there is none.
    """
    kept = reader.result(key)
    if kept is None:
        raise RetuneError(f"{key}: expected a micrograph with a result in {reader.file}, found none", "no_result")
    return kept


def read_document(kept: KeptResult) -> MicrographDocument:
    """The document of a result.

    Raises:
        RetuneError: it is damaged, or not of picks.
    """
    if kept.checksum not in (None, checksum(kept.body)):
        raise RetuneError(f"{kept.path}: result {kept.seq}: expected the document as it was committed", "damaged")
    try:
        document = decode_document(kept.body)
    except ValueError as error:
        raise RetuneError(f"{kept.path}: result {kept.seq}: {error}", "damaged") from error
    if not isinstance(document, MicrographDocument):
        raise RetuneError(f"{kept.path}: result {kept.seq}: expected the picks of a micrograph", "damaged")
    return document


def read_score_map(kept: KeptResult) -> ScoreMap:
    """The score map of a result.

    Raises:
        RetuneError: none was kept, or it is damaged.
    """
    if kept.score_map is None:
        raise RetuneError(
            f"{kept.path}: expected a kept score map, found none (keep_score_maps was off, or the result archived); "
            "frazil requeue picks it anew",
            "no_map",
        )
    try:
        return unpack_score_map(kept.score_map)
    except ValueError as error:
        raise RetuneError(
            f"{kept.path}: result {kept.seq}: {error}; frazil requeue picks it anew", "damaged"
        ) from error


def repick(document: MicrographDocument, score_map: ScoreMap, limits: PickLimits) -> Picks:
    """The picks of a micrograph within other limits; arguments and errors are those of `repick_with_junk`."""
    return repick_with_junk(document, score_map, limits)[0]


def repick_with_junk(document: MicrographDocument, score_map: ScoreMap, limits: PickLimits) -> tuple[Picks, MaybeJunk]:
    """The picks of a micrograph within other limits, and its junk, which is where it was, with what became of them.

    Raises:
        RetuneError: the score map does not reach to the edge margin.
    """
    pixel_size, margin_px = document.pixel_size_angstrom, score_map.margin_px
    if margin_px is None:
        margin_px = document.limits.edge_margin_angstrom / pixel_size
    if limits.edge_margin_angstrom / pixel_size < margin_px:
        raise RetuneError(
            f"{document.path}: expected an edge margin of at least {margin_px * pixel_size:g} Å, where its kept scores "
            f"begin, found {limits.edge_margin_angstrom:g} (set edge_margin_angstrom in the settings and restart; "
            "frazil requeue then picks it anew)",
            "margin",
        )
    return sift_picks(document.junk, find_picks(score_map, limits, pixel_size))


_PASSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographCount:
    """Number of picks of one micrograph, now and within other limits."""

    key: str
    before: int
    """Now."""
    after: int
    """Within the other limits; as now where the result is unrevisable."""
    at: tuple[int, ...] = ()
    """Within the other limits, but with each of the requested thresholds."""
    unrevisable: str = ""
    """Why there is no other number, as one word: ``no_map``, ``margin``, ``damaged``; empty where there is one."""


def count(
    reader: LedgerReader,
    change: LimitsChange,
    *,
    keys: Sequence[str] | None = None,
    model_sha256: str = "",
    thresholds: Sequence[float] = (),
) -> Iterator[MicrographCount]:
    """Count picks within other limits, one micrograph after the other.

    The micrographs are counted in several passes over the session, so that the first results are a sample of all of
    it. No lock is held between two results, so the caller may stop at any time. A micrograph takes some ten
    milliseconds of processor time; beside a daemon, count in another process.

    Args:
        reader: of the session's ledger; not used elsewhere meanwhile.
        change: the other limits.
        keys: of the micrographs. Default: all that have a result.
        model_sha256: of the model whose picks are also counted with other thresholds.
        thresholds: the other thresholds. They cost next to nothing.

    Raises:
        OutputError: the ledger cannot be read.
    """
    every = reader.results() if keys is None else list(keys)
    for begin in range(_PASSES):
        for key in every[begin::_PASSES]:
            try:
                yield _count_one(reader, key, change, model_sha256, thresholds)
            except RetuneError as error:  # it went while others were counted
                yield MicrographCount(key=key, before=0, after=0, at=(0,) * len(thresholds), unrevisable=error.reason)


def _count_one(
    reader: LedgerReader, key: str, change: LimitsChange, model_sha256: str, thresholds: Sequence[float]
) -> MicrographCount:
    kept = recall_result(reader, key)
    document = read_document(kept)
    before = len(document.picks.score)
    limits = change.for_model(document.model.sha256).over(document.limits)
    others = thresholds if document.model.sha256 == model_sha256 else (limits.threshold,) * len(thresholds)
    # A peak is suppressed by higher-scoring ones only, so filtering the lowest threshold's picks gives each other's.
    lowest = replace(limits, threshold=min((limits.threshold, *others)))
    try:
        picks = repick(document, read_score_map(kept), lowest)
    except RetuneError as error:
        return MicrographCount(
            key=key, before=before, after=before, at=(before,) * len(others), unrevisable=error.reason
        )
    edits = whole_edits(reader.edits(key))

    def count_at(threshold: float) -> int:
        reach = picks.reaching(threshold)
        if not edits:
            return int(reach.sum())
        return len(apply(edits, picks.select(reach), document.diameter_px, document.shape).picks)

    return MicrographCount(
        key=key, before=before, after=count_at(limits.threshold), at=tuple(count_at(one) for one in others)
    )


def request_change(
    reader: LedgerReader, patch: LimitsPatch, *, model_sha256: str = "", choose: bool = False
) -> LimitsChange:
    """Request other limits for all micrographs of a session: results are revised, and new ones picked so.

    A running daemon grants the request within a second or so; else the next one does when it starts. The request is
    merged with earlier ones that were not granted yet.

    Args:
        reader: of the session's ledger.
        patch: the limits to change.
        model_sha256: of the model that the threshold is for. Default: that of the newest result.
        choose: whether frazil is to choose the threshold, in place of any that was tuned or set.

    Returns:
        The requested change.

    Raises:
        RetuneError: there is no result yet, or its score map does not reach to the edge margin.
        OutputError: the ledger cannot be written.
    """
    kept = _newest(reader)
    document = read_document(kept)
    if kept.score_map is not None:  # a change that fails for the newest result would fail for all
        repick(document, read_score_map(kept), patch.over(document.limits))
    model_sha256 = model_sha256 or document.model.sha256
    change = LimitsChange.of(patch, model_sha256)
    if choose:
        change = replace(change, thresholds={model_sha256: None})
    update_remembered(reader.file, RETUNE_KEY, lambda text: change.over(decode_request(text)).encode())
    return change


def newest_model(reader: LedgerReader) -> str:
    """The sha256 of the model that made the newest result; empty where there is none."""
    kept = reader.newest_result()
    return "" if kept is None else read_document(kept).model.sha256


def newest_document(reader: LedgerReader) -> MicrographDocument:
    """The newest result.

    Raises:
        RetuneError: there is none.
    """
    return read_document(_newest(reader))


def _newest(reader: LedgerReader) -> KeptResult:
    kept = reader.newest_result()
    if kept is None:
        raise RetuneError(f"{reader.file}: expected a result to tune by, found none as yet", "no_result")
    return kept


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
