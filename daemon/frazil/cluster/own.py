"""Results that this process writes itself: to a ledger that it holds as a daemon does."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from frazil.cluster.run import RepickRun, session_of
from frazil.cluster.sink import Sink, is_of_model, newest_run
from frazil.cluster.work import Picked
from frazil.errors import MicrographError, OutputError
from frazil.health.heartbeat import Beat
from frazil.health.metrics import Metrics
from frazil.picking import Picker
from frazil.session.outbox.daemon_info import DaemonInfo, open_ledger
from frazil.session.outbox.handover import Handover, handover_file
from frazil.session.outbox.ledger import DAEMON_KEY, REPICK_KEY, Handled, LedgerReader, explain
from frazil.session.outbox.outbox import Outbox

__all__ = ["OwnResults"]


class OwnResults:
    """A ledger that this process holds as a daemon does."""

    is_live = False
    waiting: Collection[str] = frozenset()

    def __init__(self, ledger: Path, out: Path, watch: Path, root: Path, sink: Sink, beat: Beat) -> None:
        self._file, self._out, self._watch, self._sink = ledger, out, watch, sink
        self._ledger, self._witness = open_ledger(ledger, watch=watch, out=out)
        self._outbox = Outbox(
            self._ledger,
            _Nowhere(session_of(ledger)),
            Metrics(CollectorRegistry()),
            root,
            out,
            threading.Event(),
            beat,
        )
        self._of_models: LedgerReader | None = None
        self._held: set[str] | None = None

    @property
    def waits_for(self) -> str:
        """What the outbox waits for."""
        return self._outbox.waits_for

    @property
    def head(self) -> int:
        """The newest sequence number."""
        return self._ledger.head

    def recall(self, key: str) -> str:
        """What the ledger remembers."""
        return self._ledger.recall(key)

    def remember(self, key: str, value: str) -> None:
        """Have the ledger remember a value."""
        self._outbox.remember(key, value)

    def earlier(self) -> RepickRun | None:
        """The run that was begun last, by this ledger or what lies beside it."""
        handover = None
        if (file := handover_file(self._file)).exists():
            with contextlib.suppress(sqlite3.DatabaseError):
                handover = Handover(file)
        try:
            return newest_run(self._ledger.recall(REPICK_KEY), handover)
        finally:
            if handover is not None:
                handover.close()

    def begin(self, run: RepickRun, picker: Picker) -> None:
        """Note the run in the ledger, and deliver what an earlier run committed."""
        if not self._ledger.recall(DAEMON_KEY):  # else the ledger is a daemon's, and says so
            info = DaemonInfo(
                pid=os.getpid(),
                started_at=time.time(),
                stopped_at=time.time(),
                watch=str(self._watch),
                out=str(self._out),
                stream="",
                metrics="",
                model=picker.model.identity.short,
                provider=picker.model.provider,
            )
            self._outbox.remember(DAEMON_KEY, info.encode())
        self._outbox.remember(REPICK_KEY, run.encode())
        Handover.discard(handover_file(self._file))  # what waits there is picked again
        self._run = run
        self._of_models = LedgerReader(self._file) if run.beside_daemon else None
        self._outbox.deliver()  # what an earlier run committed

    def done(self, keys: Sequence[str]) -> set[str]:
        """Those with a result of the run."""
        later = self._ledger.results_after(self._run.after_seq, keys)
        if self._of_models is None:
            return later
        return {key for key in later if is_of_model(self._of_models, key, self._run)}

    def given_up(self) -> set[str]:
        """Those that the run has given up."""
        return self._ledger.given_up_after(self._run.after_seq)

    def left_alone(self, keys: Sequence[str], *, holds: bool) -> set[str]:
        """Those that the ledger holds."""
        if holds and self._held is None:
            self._held = set(self._ledger.held())
        return self._held.intersection(keys) if holds and self._held else set()

    def write(self, picked: Picked, path: Path) -> None:
        """Commit and deliver a result."""
        key = picked.key
        self._outbox.check_namesakes(path, key)
        self._outbox.commit(picked.document, key=key, handled=picked.handled, score_map=picked.score_map)
        self._sink.written(key, len(picked.document.picks.score))

    def fail(
        self,
        error: MicrographError,
        key: str,
        handled: Handled,
        *,
        max_attempts: int,
        on_commit: Callable[[int, bool], None],
    ) -> None:
        """Commit a failure."""
        self._outbox.fail(error, key, handled, max_attempts=max_attempts, on_commit=on_commit)

    def look(self) -> None:
        """See that the ledger is still this process's."""
        self._ledger.look()
        self._witness.beat()

    def finish(self) -> None:
        """All is written."""

    def fault(self, error: Exception) -> OutputError:
        """What an error means for the user."""
        if self._ledger.fault is not None:
            return self._ledger.fault
        if isinstance(error, sqlite3.Error):
            return explain(self._file, error)
        return OutputError(f"{self._file}: cannot be written")

    def close(self) -> None:
        """Let others have the ledger."""
        if self._of_models is not None:
            self._of_models.close()
        self._ledger.close()
        self._witness.close()


class _Nowhere:
    """Where messages go without a stream: subscribers get these documents out of the ledger, from the next daemon."""

    def __init__(self, session: str) -> None:
        self.session = session

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send nothing."""
