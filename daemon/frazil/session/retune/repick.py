"""What was kept of a micrograph: its newest document and score map, from which its picks are made again."""

from __future__ import annotations

from dataclasses import dataclass

from frazil.documents import MicrographDocument, decode_document
from frazil.errors import RetuneError
from frazil.picking import PickLimits, Picks, ScoreMap, Tuning, find_picks
from frazil.session.outbox.ledger import KeptResult, LedgerReader, checksum
from frazil.session.outbox.score_map import unpack_score_map
from frazil.session.retune.limits import limits_of

__all__ = ["Preview", "pick_again", "preview", "read_document", "read_score_map", "recall_result"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preview:
    """A micrograph's picks within other limits."""

    document: MicrographDocument
    """As it is now."""
    limits: PickLimits
    picks: Picks
    """Within those limits, best first."""


def preview(reader: LedgerReader, path: str, tuning: Tuning) -> Preview:
    """Pick a micrograph again from its kept score map.

    With limits as they were, these are the picks that the document has; with others, those that picking it with
    them would give. A score exactly at the threshold counts. Scores are whole steps of 1/65535, so thresholds within
    one step of each other cut alike.

    Args:
        reader: of the session's ledger.
        path: of the micrograph, as the ledger has it.
        tuning: the limits wanted. Diameter and pixel size are those with which it was picked.

    Raises:
        RetuneError: there is no result or no score map, or there are no scores so near to the edges.
        OutputError: the ledger cannot be read.
    """
    kept = recall_result(reader, path)
    document = read_document(kept)
    limits = tuning.over(limits_of(document))
    return Preview(document=document, limits=limits, picks=pick_again(document, read_score_map(kept), limits))


def recall_result(reader: LedgerReader, path: str) -> KeptResult:
    """The newest result of a micrograph.

    Raises:
        RetuneError: there is none.
    """
    kept = reader.result(path)
    if kept is None:
        raise RetuneError(f"{path}: expected a micrograph with a result in {reader.file}, found none", "no_result")
    return kept


def read_document(kept: KeptResult) -> MicrographDocument:
    """The document of a result.

    Raises:
        RetuneError: it is none.
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


def pick_again(document: MicrographDocument, score_map: ScoreMap, limits: PickLimits) -> Picks:
    """The picks of a micrograph within other limits.

    Raises:
        RetuneError: there are no scores so near to the edges.
    """
    pixel_size, margin_px = document.pixel_size_angstrom, score_map.margin_px
    if margin_px is None:
        margin_px = limits_of(document).edge_margin_angstrom / pixel_size
    if limits.edge_margin_angstrom / pixel_size < margin_px:
        raise RetuneError(
            f"{document.path}: expected an edge margin of at least {margin_px * pixel_size:g} Å, where its kept scores "
            f"begin, found {limits.edge_margin_angstrom:g} (set edge_margin in the settings and restart; frazil "
            "requeue then picks it anew)",
            "margin",
        )
    return find_picks(score_map, limits, pixel_size)
