"""The request for other limits, left in the ledger for the daemon."""

from __future__ import annotations

import logging

import msgspec

from frazil.errors import RetuneError
from frazil.picking import Tuning
from frazil.session.outbox.ledger import RETUNE_KEY, LedgerReader, update_remembered
from frazil.session.retune.limits import Wanted, limits_of
from frazil.session.retune.repick import pick_again, read_document, read_score_map

__all__ = ["newest_model", "request_retune"]

log = logging.getLogger(__name__)


def request_retune(reader: LedgerReader, tuning: Tuning, *, model_sha256: str = "") -> Wanted:
    """Ask that all micrographs be brought to other limits, and those that follow be picked within them.

    A running daemon grants it within a second or so, another at its start. What was asked for and not yet granted
    is added to, not lost.

    Args:
        reader: of the session's ledger.
        tuning: the limits wanted.
        model_sha256: of the model that the threshold is for; without one, that of the newest result.

    Returns:
        What was asked for.

    Raises:
        RetuneError: nothing was picked yet, or there are no scores so near to the edges.
        OutputError: the ledger cannot be written.
    """
    kept = reader.newest_result()
    if kept is None:
        raise RetuneError(f"{reader.file}: expected a result to tune by, found none as yet", "no_result")
    document = read_document(kept)
    if kept.score_map is not None:  # what cannot be told of the newest cannot be told of any
        pick_again(document, read_score_map(kept), tuning.over(limits_of(document)))
    wanted = Wanted.of(tuning, model_sha256 or document.model.sha256)
    update_remembered(reader.file, RETUNE_KEY, lambda text: _encode(wanted.over(decode_wanted(text))))
    return wanted


def newest_model(reader: LedgerReader) -> str:
    """The sha256 of the model that made the newest result; empty where there is none."""
    kept = reader.newest_result()
    return "" if kept is None else read_document(kept).model.sha256


def decode_wanted(text: str) -> Wanted:
    """What was asked for, from the ledger's text; nothing from an empty one, or from one that is damaged."""
    try:
        return msgspec.json.decode(text, type=Wanted) if text else Wanted()
    except ValueError as error:
        log.warning("passed over a request to tune that is damaged in the ledger: %s", error)
        return Wanted()


def _encode(wanted: Wanted) -> str:
    return msgspec.json.encode(wanted).decode()
