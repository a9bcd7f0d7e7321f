"""Repicking: a micrograph's picks are made again from its newest document and kept score map."""

from __future__ import annotations

from dataclasses import dataclass

from frazil.documents import MicrographDocument, decode_document
from frazil.errors import RetuneError
from frazil.limits import LimitsPatch, PickLimits
from frazil.picking import Picks, ScoreMap, find_picks
from frazil.session.outbox.ledger import KeptResult, LedgerReader, checksum
from frazil.session.outbox.score_map import unpack_score_map

__all__ = ["Preview", "preview", "read_document", "read_score_map", "recall_result", "repick"]


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

    The picks are those that the picker would give with the other limits; with an empty patch, those of the document. A
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
    return Preview(document=document, limits=limits, picks=repick(document, read_score_map(kept), limits))


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
    """The picks of a micrograph within other limits.

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
    return find_picks(score_map, limits, pixel_size)
