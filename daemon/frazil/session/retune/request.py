"""The request to change limits, left in the ledger for the daemon."""

from __future__ import annotations

import logging

import msgspec

from frazil.errors import RetuneError, SettingsError
from frazil.limits import LimitsPatch
from frazil.session.outbox.ledger import RETUNE_KEY, LedgerReader, update_remembered
from frazil.session.retune.limits import LimitsChange
from frazil.session.retune.repick import read_document, read_score_map, repick

__all__ = ["decode_request", "newest_model", "request_change"]

log = logging.getLogger(__name__)


def request_change(reader: LedgerReader, patch: LimitsPatch, *, model_sha256: str = "") -> LimitsChange:
    """Request other limits for all micrographs of a session: results are revised, and new ones picked so.

    A running daemon grants the request within a second or so; else the next one does when it starts. The request is
    merged with earlier ones that were not granted yet.

    Args:
        reader: of the session's ledger.
        patch: the limits to change.
        model_sha256: of the model that the threshold is for. Default: that of the newest result.

    Returns:
        The requested change.

    Raises:
        RetuneError: there is no result yet, or its score map does not reach to the edge margin.
        OutputError: the ledger cannot be written.
    """
    kept = reader.newest_result()
    if kept is None:
        raise RetuneError(f"{reader.file}: expected a result to tune by, found none as yet", "no_result")
    document = read_document(kept)
    if kept.score_map is not None:  # a change that fails for the newest result would fail for all
        repick(document, read_score_map(kept), patch.over(document.limits))
    change = LimitsChange.of(patch, model_sha256 or document.model.sha256)
    update_remembered(reader.file, RETUNE_KEY, lambda text: _encode(change.over(decode_request(text))))
    return change


def newest_model(reader: LedgerReader) -> str:
    """The sha256 of the model that made the newest result; empty where there is none."""
    kept = reader.newest_result()
    return "" if kept is None else read_document(kept).model.sha256


def decode_request(text: str) -> LimitsChange:
    """The requested change, from the ledger's text; an empty change where there is none, or it is damaged."""
    try:
        return msgspec.json.decode(text, type=LimitsChange) if text else LimitsChange()
    except (ValueError, SettingsError) as error:
        log.warning("passed over a request to tune that is damaged in the ledger: %s", error)
        return LimitsChange()


def _encode(change: LimitsChange) -> str:
    return msgspec.json.encode(change).decode()
