"""The receiver: takes results that ``frazil repick`` has left beside the ledger, and commits each as a revision."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

import msgspec

from frazil.documents import directory_of
from frazil.errors import LedgerDamagedError, OutputError, RetuneError
from frazil.picking import PickingSettings
from frazil.session.outbox.file_stamp import stamp_of
from frazil.session.outbox.handover import HandedOver, Handover, HandoverRun, handover_file
from frazil.session.outbox.ledger import HANDOVER_KEY, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune.repick import read_document, recall_result, unpack_score_map
from frazil.session.retune.reviser import Reviser

__all__ = ["Receiver"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Between looks for results, while there are none."""


class Receiver:
    """Takes results from the handover beside the ledger one by one; it belongs to the thread that writes results.

    A result is committed if its file is as it was when it was picked, and has not been picked otherwise meanwhile. The
    commit also records which result it was. So one is committed once, whenever the daemon is killed.

    Args:
        ledger: of the session.
        outbox: commits and delivers results.
        reviser: knows the limits in force, within which the picks are made.
        settings: of the operator.
        root: the watched directory, by the name that the user gave it.
        keep_score_maps: whether score maps are kept in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        reviser: Reviser,
        settings: PickingSettings,
        root: Path,
        *,
        keep_score_maps: bool,
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._reviser = reviser
        self._settings = settings
        self._root = root
        self._keep_score_maps = keep_score_maps
        self._file = handover_file(ledger.file)
        self._reader = LedgerReader(ledger.file)
        self._handover: Handover | None = None
        self._run: HandoverRun | None = None
        self._refusal = ""
        self._next_look = 0.0
        self._is_damaged = False

    def close(self) -> None:
        """Close the handover, and the view of the ledger."""
        self._forget()
        self._reader.close()

    def wait_seconds(self, longest: float) -> float:
        """Time until the next look, at most `longest`."""
        return min(longest, max(0.0, self._next_look - time.monotonic()))

    def take_next(self) -> None:
        """Take one result, if there is one.

        Raises:
            Stopped: the daemon is to stop.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        try:
            if (handover := self._find()) is None or self._refusal:
                return
            if (result := handover.next()) is not None:
                self._take(handover, result)
                self._next_look = 0.0
        except (sqlite3.Error, OSError) as error:
            if not self._is_damaged:
                log.warning("%s: the results of frazil repick cannot be taken: %s", self._file, error)
            self._is_damaged = True
            self._forget()

    def _find(self) -> Handover | None:
        """The handover, once the run in it has its answer; None where there is none."""
        if self._handover is not None and not self._handover.is_in_place():
            self._forget()
        if self._handover is None:
            if not self._file.exists():
                return None
            self._handover = Handover(self._file)
            self._is_damaged = False
        handover = self._handover
        run = handover.run()
        if run is None:
            return None
        if run != self._run or handover.answer()[0] != self._ledger.generation:
            self._run, self._refusal = run, self._refusal_of(run)
            handover.say(self._ledger.generation, self._refusal)
            if self._refusal:
                log.warning("nothing is taken of frazil repick: %s", self._refusal)
            else:
                log.info("results are taken of frazil repick, from %s", self._file)
        return handover

    def _refusal_of(self, run: HandoverRun) -> str:
        """Why nothing of a run is taken, in one line; empty where it is."""
        if run.epoch != self._ledger.epoch:
            return f"expected results for the ledger {self._ledger.epoch[:8]}, found some for {run.epoch[:8]}"
        try:
            theirs = msgspec.json.decode(run.settings, type=PickingSettings)
        except ValueError as error:
            return f"expected settings of picking: {error}"
        ours = msgspec.structs.asdict(self._settings)
        unlike = [
            f"{name.removesuffix('_angstrom').replace('_', '-')} {ours[name]} (found {value})"
            for name, value in msgspec.structs.asdict(theirs).items()
            if value != ours[name]
        ]
        return f"expected the settings of the session's daemon, {', '.join(unlike)}" if unlike else ""

    def _take(self, handover: Handover, result: HandedOver) -> None:
        taken = f"{handover.id} {result.id}"
        try:
            if self._ledger.recall(HANDOVER_KEY) == taken:  # it was killed between the commit and this note
                why, picks = "", len(read_document(recall_result(self._reader, result.key)).picks.score)
            else:
                why, picks = self._commit(result, taken)
        except LedgerDamagedError:
            raise
        except (RetuneError, OutputError, ValueError) as error:
            why, picks = str(error), 0
        except sqlite3.Error as error:  # the fault of this record alone; the outbox retries all others
            why, picks = f"the ledger does not take it: {error}", 0
        if why:
            log.info("not taken of frazil repick: %s: %s", result.key, why)
        handover.decide(result.id, picks, why)

    def _commit(self, result: HandedOver, taken: str) -> tuple[str, int]:
        """Commit a result; why not, or empty, and the number of picks."""
        key, path = result.key, self._root / result.key
        record = self._reader.micrograph(key)
        if record is None or record.state != "picked" or record.seq is None:
            return "the daemon has no result of it, or is about to pick it itself", 0
        if record.picked_at != result.picked_at:
            return "the daemon has picked it meanwhile", 0
        try:
            is_same = stamp_of(path) == result.handled.stamp
        except OSError:
            is_same = False
        if not is_same or record.fingerprint != result.handled.fingerprint:
            return "its file has changed since it was picked", 0
        score_map = result.score_map
        document = self._reviser.within_limits(result.document, lambda: unpack_score_map(score_map or b""))
        document = msgspec.structs.replace(
            document,
            epoch="",
            seq=0,
            supersedes=record.seq,
            micrograph=path.name,
            path=str(path),
            directory=directory_of(key),
            session="",
        )
        seq = self._outbox.commit(
            document,
            key=key,
            revises=record.seq,
            score_map=score_map if self._keep_score_maps else None,
            remember=(HANDOVER_KEY, taken),
        )
        picks = len(document.picks.score)
        log.info("repicked %s: %d picks (sequence number %d)", key, picks, seq)
        return "", picks

    def _forget(self) -> None:
        if self._handover is not None:
            self._handover.close()
        self._handover = self._run = None
        self._refusal = ""
