"""Assessments written: committed and delivered as every document is, in the thread that writes."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

import msgspec

from frazil.documents import QualityDocument
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.session.assess.assessor import Assessed
from frazil.session.outbox.outbox import Outbox

__all__ = ["QualityWriter"]

log = logging.getLogger(__name__)


class QualityWriter:
    """Commits assessments. All of it belongs to the thread that writes results.

    Args:
        outbox: commits and delivers documents.
        metrics: counts assessments.
        follow: called with each assessment that was committed, numbered.
    """

    def __init__(self, outbox: Outbox, metrics: Metrics, follow: Callable[[QualityDocument], None]) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._follow = follow

    def write(self, assessed: Assessed) -> None:
        """Commit and deliver an assessment.

        Raises:
            Stopped: the daemon is to stop; what is not committed is assessed again after the next start.
        """
        document = assessed.document
        try:
            seq = self._outbox.commit(
                document,
                key=assessed.key,
                fingerprint=assessed.fingerprint,
                on_commit=lambda _: self._metrics.note_quality(document),
            )
        except sqlite3.Error as error:  # of this record alone; the outbox retries all others
            log.warning("the assessment of %s cannot be written: %s", assessed.key, error)
            return
        finally:
            assessed.settled.set()
        log.info(
            "assessed %s: %s%s (sequence number %d)",
            assessed.key,
            document.grade,
            f", {document.category}" if document.category else "",
            seq,
            extra=event("assessed", micrograph=assessed.key, seq=seq, grade=document.grade, category=document.category),
        )
        self._follow(msgspec.structs.replace(document, seq=seq))
