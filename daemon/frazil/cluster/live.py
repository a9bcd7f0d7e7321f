"""Results that a daemon writes: they are left beside its ledger, and it goes on picking what is new meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from frazil.cluster.run import RepickRun
from frazil.cluster.sink import Sink, is_of_model, newest_run
from frazil.cluster.work import Picked
from frazil.errors import MicrographError, OutputError
from frazil.faults import is_transient
from frazil.health.heartbeat import Beat
from frazil.picking import Picker
from frazil.session.outbox.handover import MOST_WAITING, HandedOver, Handover, HandoverRun, handover_file
from frazil.session.outbox.ledger import REPICK_KEY, Handled, LedgerReader

__all__ = ["LiveResults"]

_ANSWER_SECONDS = 60.0
"""For a daemon to look for a run. One that does much else takes its time."""
_PAUSE_SECONDS = 0.05
_RETRY_SECONDS = 1.0


class LiveResults:
    """A daemon's ledger: results are left beside it, and the daemon commits them.

    A micrograph without a result is left to the daemon, as is the failure of one that has a result: the result holds.
    """

    is_live = True
    waits_for = ""

    def __init__(self, ledger: Path, sink: Sink, beat: Beat) -> None:
        self._sink, self._beat = sink, beat
        self._file = handover_file(ledger)
        self._attempts: dict[str, int] = {}
        self.waiting: set[str] = set()
        with contextlib.ExitStack() as closing:
            self._reader = closing.enter_context(LedgerReader(ledger))
            closing.enter_context(Handover.claim(self._file))
            try:
                self._handover = Handover(self._file)
            except sqlite3.DatabaseError:  # it is damaged: what waited there is picked again
                Handover.discard(self._file)
                self._handover = Handover(self._file)
            closing.callback(self._handover.close)
            self._closing = closing.pop_all()

    @property
    def head(self) -> int:
        """The newest sequence number."""
        return self._reader.head()

    def recall(self, key: str) -> str:
        """What the ledger remembers."""
        return self._reader.meta().get(key, "")

    def remember(self, key: str, value: str) -> None:
        """Nothing: the ledger is the daemon's."""

    def earlier(self) -> RepickRun | None:
        """The run that was begun last, by the ledger or what lies beside it."""
        return newest_run(self.recall(REPICK_KEY), self._handover)

    def begin(self, run: RepickRun, picker: Picker) -> None:  # noqa: ARG002 - the daemon has its own
        """Have the daemon agree to the run."""
        self._run = run
        self._handover.begin(
            HandoverRun(epoch=self._reader.epoch, settings=msgspec.json.encode(run.settings).decode(), run=run.encode())
        )
        self._handover.verdicts()  # of an earlier process: the ledger knows what is done
        self.waiting = self._handover.waiting()
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not self._has_answer():
            if time.monotonic() > deadline:
                raise OutputError(
                    f"{self._file}: expected the daemon of this session to take results from it, found that it does "
                    "not: it may be an earlier frazil; stop it meanwhile, or give another --out"
                )
            time.sleep(_PAUSE_SECONDS)

    def _has_answer(self) -> bool:
        answer, refusal = self._handover.answer()
        if refusal:
            raise OutputError(f"{self._file}: the session's daemon takes no results of this run: {refusal}")
        return bool(answer)

    def done(self, keys: Sequence[str]) -> set[str]:
        """Those with a result of the run."""
        return {key for key in keys if is_of_model(self._reader, key, self._run)}

    def given_up(self) -> set[str]:
        """None but those that this process has given up."""
        return set()

    def left_alone(self, keys: Sequence[str], *, holds: bool) -> set[str]:  # noqa: ARG002 - all that have no result
        """Those of which the daemon has no result: it picks them itself."""
        records = {key: self._reader.micrograph(key) for key in keys}
        return {
            key for key, record in records.items() if record is None or record.state != "picked" or record.seq is None
        }

    def write(self, picked: Picked, path: Path) -> None:
        """Hand over a result, once few enough wait."""
        while len(self.waiting) >= MOST_WAITING:
            self._wait_for_daemon()
        record = self._reader.micrograph(picked.key)
        if record is None:
            raise MicrographError(path, "internal", "expected a micrograph that the daemon knows, found none")
        result = HandedOver(
            key=picked.key,
            picked_at=record.picked_at,
            handled=picked.handled,
            document=picked.document,
            score_map=picked.score_map,
        )
        while True:
            try:
                self._handover.put(result)
            except sqlite3.OperationalError as error:  # the disk is full, as a rule
                self.waits_for = f"cannot write {self._file} ({error}): all waits until it can"
                self._beat()
                time.sleep(_RETRY_SECONDS)
            else:
                break
        self.waits_for = ""
        self.waiting.add(picked.key)

    def fail(
        self,
        error: MicrographError,
        key: str,
        handled: Handled,  # noqa: ARG002 - the daemon has its own
        *,
        max_attempts: int,
        on_commit: Callable[[int, bool], None],
    ) -> None:
        """Count an attempt: the result that there is stays."""
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        on_commit(attempt, is_transient(error) and attempt < max_attempts)

    def look(self) -> None:
        """Take the daemon's verdicts."""
        try:
            self._has_answer()
            verdicts = self._handover.verdicts()
        except sqlite3.OperationalError:  # the disk is full, or the daemon writes: the next look finds them
            return
        for verdict in verdicts:
            self.waiting.discard(verdict.key)
            if verdict.refused:
                self._sink.refused(verdict.key, verdict.refused)
            else:
                self._sink.written(verdict.key, verdict.picks)

    def finish(self) -> None:
        """Wait for the daemon's last verdict."""
        while self.waiting:
            self._wait_for_daemon()

    def _wait_for_daemon(self) -> None:
        self.look()
        self.waits_for = f"the daemon, which has {len(self.waiting)} results to take" if self.waiting else ""
        self._beat()
        if self.waiting:
            time.sleep(_PAUSE_SECONDS)

    def fault(self, error: Exception) -> OutputError:
        """What an error means for the user."""
        return OutputError(f"{self._file}: {error}")

    def close(self) -> None:
        """Let another run have it."""
        self._closing.close()
