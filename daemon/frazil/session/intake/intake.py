"""Intake: decides which files are complete and new.

A file is complete when its size is what its own header demands and two looks at it agree. A file that its writer
closed is read between the two looks: the reading stage looks last. A file is new when the ledger does not know its
content under its key. Every other file waits, and is reported when it has waited too long. One that is unlike its
session's is held until it is requested.
"""

from __future__ import annotations

import heapq
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.health.metrics import Metrics
from frazil.health.state import IntakeState
from frazil.session.intake.completeness import prove_complete
from frazil.session.intake.likeness import Likeness
from frazil.session.intake.notes import Notes
from frazil.session.intake.watcher import FoundBy, Hint, Sightings
from frazil.session.outbox.file_stamp import FileStamp, sample, stamp_of
from frazil.session.outbox.ledger import UNLIKE, Handled, Ledger, Note

__all__ = ["Arrival", "Intake", "Known"]

log = logging.getLogger(__name__)

Known = dict[str, FileStamp]
"""Stamps, by key, of the files that need no look while they do not change: picked, or given up."""

_CLOSED_SETTLE_SECONDS = 0.03
"""Time from the first look at a file whose writer closed it to the last look, after it was read."""
_CLOSED_REST_SECONDS = 0.012
"""Time before such a file is read. It is longer than the grain of the kernel's clock, so that a later write changes the
file's time."""
_AT_REST_SECONDS = 1.0
"""A file of the backlog that has not changed for this time needs no second look."""
_RECHECK_SECONDS = 0.5
_LONGEST_RECHECK_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 0.5
_REQUESTS_SECONDS = 1.0
"""Time between looks for requests in the ledger."""
_FEW_REQUESTED = 20
"""So many requests at once are granted before all else, since somebody waits for them. More come after new files."""
_BACKLOG_SECONDS = 0.1
"""Longest time spent on the backlog at a stretch, while a new file may wait for its look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A micrograph that is complete and new."""

    path: Path
    key: str
    """Path below the watched directory: the micrograph's name in the ledger."""
    stamp: FileStamp
    closed_at_monotonic: float
    """Last known activity of its writer: when the file changed or was closed."""
    complete_at_monotonic: float
    """When the file was known to be complete."""
    settled_at_monotonic: float = 0.0
    """Earliest time of the last look at the file, after it was read."""
    backlog: bool = False
    """Whether it was there when the daemon started."""
    requeued: bool = False
    """Whether it has a result already, and nobody waits for another one."""


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A file that waits for its second look."""

    path: Path
    stamp: FileStamp
    unchanged_since: float
    closed_at_monotonic: float
    """Last known activity of its writer: when the file changed or was closed."""
    due: float
    settled_at_monotonic: float = 0.0
    by: FoundBy
    backlog: bool
    incomplete: IncompleteMicrograph | None = None
    """Found in reading, which sees more than the header shows. It holds while the file does not change."""
    noted: str = ""
    """The last note on this file in the ledger."""

    def is_stalled(self, now: float, stall_seconds: float) -> bool:
        return now - self.unchanged_since >= stall_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Return:
    """An arrival that the pipeline gives back."""

    arrival: Arrival
    handled: Handled | None = None
    incomplete: IncompleteMicrograph | None = None
    rest_seconds: float = 0.0


class Intake:
    """Follows candidates until they are arrivals, failures, or gone.

    `run` belongs to one thread; `tell`, `finish`, `retry` and `await_growth` may be called from any.

    Args:
        ledger: the session's ledger, which knows the files that were handled before.
        known: stamps of the files that were handled; kept up to date here.
        metrics: counts files by how they were found.
        root: the watched directory.
        settle_seconds: time between the two looks at a file that nobody is known to have closed.
        stall_seconds: time without change after which an incomplete file is reported.
        shows_holes: whether a hole in a file means that this part was never written.
        accept: called with each arrival.
        refuse: called with each file that cannot be picked, and the error.
        check_name: called with a file's path and key; raises `MicrographError` if its pick file cannot have its name.
        likeness: knows the kinds of micrograph that the session has; None holds none.
        held: keys of the files that are held; kept up to date here.
        requeued: keys of the files that have a result, and are to be picked again; kept up to date here.
        beat: called with each file that is looked at.
    """

    def __init__(
        self,
        ledger: Ledger,
        known: Known,
        metrics: Metrics,
        root: Path,
        *,
        settle_seconds: float,
        stall_seconds: float,
        shows_holes: bool = True,
        accept: Callable[[Arrival], None],
        refuse: Callable[[Arrival, MicrographError], None],
        check_name: Callable[[Path, str], None],
        likeness: Likeness | None = None,
        held: set[str] | None = None,
        requeued: set[str] | None = None,
        beat: Beat = no_heartbeat,
    ) -> None:
        self._inbox: SimpleQueue[Hint | Sightings | _Return] = SimpleQueue()
        self._ledger = ledger
        self._known = known
        self._metrics = metrics
        self._root = root
        self._settle_seconds = settle_seconds
        self._stall_seconds = stall_seconds
        self._shows_holes = shows_holes
        self._accept = accept
        self._refuse = refuse
        self._check_name = check_name
        self._likeness = likeness
        self._held = set() if held is None else held
        self._requeued = set() if requeued is None else requeued
        self._requested: set[str] = set(self._requeued)
        self._beat = beat
        self._candidates: dict[str, _Candidate] = {}
        self._looks: list[tuple[float, str]] = []
        self._backlog: SimpleQueue[Hint] = SimpleQueue()
        self._in_backlog: set[Path] = set()
        self._in_hand: dict[str, float] = {}
        self._closed_in_hand: set[str] = set()
        """Keys of files that were closed by a writer while the pipeline had them. Their stamp may hide a change."""
        self._notes = Notes(ledger)
        self._next_requests = 0.0

    @property
    def state(self) -> IntakeState:
        """The files that wait now. May be read from any thread."""
        in_hand = list(self._in_hand.items())  # a copy, made in one step
        since = [at for key, at in in_hand if key not in self._requeued]
        requeued = len(self._requeued)
        told = max(0, self._backlog.qsize() - requeued + len(in_hand) - len(since))
        return IntakeState(
            incomplete=len(self._candidates),
            backlog=len(since) + told,
            backlog_seconds=time.monotonic() - min(since) if since else 0.0,
            requeued=requeued,
        )

    def settle(self, seconds: float, *, shows_holes: bool) -> None:
        """Adapt to another file system, which was mounted meanwhile; arguments as for the class."""
        self._settle_seconds, self._shows_holes = seconds, shows_holes

    def run(self, stop: threading.Event) -> None:
        """Take in files until `stop` is set."""
        while not stop.is_set():
            self._beat()
            self._look_at_due()
            self._look_at_backlog()
            self._take_requests()
            self._notes.write()
            wait = 0.0 if not self._backlog.empty() else _LONGEST_WAIT_SECONDS
            if self._looks:
                wait = min(wait, self._looks[0][0] - time.monotonic())
            self._empty_inbox(max(0.0, wait))

    def tell(self, news: Hint | Sightings) -> None:
        """Take a hint or sightings from the watcher."""
        if not isinstance(news, Hint):
            self._inbox.put(news)
        elif news.backlog:
            self._in_backlog.add(news.path)
            self._backlog.put(news)
        elif news.by == "event" or news.path not in self._in_backlog:  # a later scan adds nothing to a hint that waits
            self._inbox.put(news)

    def finish(self, arrival: Arrival, handled: Handled) -> None:
        """Take back an arrival that was picked, or given up."""
        self._inbox.put(_Return(arrival=arrival, handled=handled))

    def retry(self, arrival: Arrival, rest_seconds: float = 0.0) -> None:
        """Take back an arrival that has to be looked at again, after a rest."""
        self._inbox.put(_Return(arrival=arrival, rest_seconds=rest_seconds))

    def await_growth(self, arrival: Arrival, error: IncompleteMicrograph) -> None:
        """Take back an arrival that reading found incomplete. It waits like any other incomplete file."""
        self._inbox.put(_Return(arrival=arrival, incomplete=error))

    # --- the inbox ------------------------------------------------------------------------------------------------

    def _empty_inbox(self, timeout_seconds: float) -> None:
        try:
            news = self._inbox.get(timeout=timeout_seconds)
            while True:
                if isinstance(news, _Return):
                    self._take_back(news)
                elif isinstance(news, Hint):
                    self._note(news)
                else:
                    self._notes.add_sightings(news)
                news = self._inbox.get_nowait()
        except Empty:
            pass

    def _take_back(self, returned: _Return) -> None:
        arrival = returned.arrival
        self._in_hand.pop(arrival.key, None)
        closed = arrival.key in self._closed_in_hand
        self._closed_in_hand.discard(arrival.key)
        if closed and returned.handled is not None:
            closed = not _holds(arrival.path, returned.handled.fingerprint)
        if returned.handled is not None:
            self._known[arrival.key] = returned.handled.stamp
            self._requeued.discard(arrival.key)
        # It may have changed while the pipeline had it, when nobody looked.
        self._note(Hint(path=arrival.path, closed=closed, backlog=arrival.backlog), returned)

    def _note(self, hint: Hint, returned: _Return | None = None) -> None:
        # Not through pathlib: it interns every part of a path, so that thousands of keys would never be freed.
        key = os.path.relpath(hint.path, self._root)
        if key in self._in_hand:
            if hint.closed:
                self._closed_in_hand.add(key)
            return
        known = self._candidates.get(key)
        self._beat(f"looking at {key}")
        try:
            stamp = stamp_of(hint.path)
        except (FileNotFoundError, NotADirectoryError):
            if self._candidates.pop(key, None) is not None:
                self._notes.add_gone(key)
            return
        except OSError:
            stamp = FileStamp(size=-1, mtime_ns=0)  # a stamp that no file has: the next look finds it changed
        if known is None and self._known.get(key) == stamp and not (returned and hint.closed):
            return
        now = time.monotonic()
        if known is None:
            known = _Candidate(
                path=hint.path,
                stamp=stamp,
                unchanged_since=now,
                closed_at_monotonic=now,
                due=now,
                by=hint.by,
                backlog=hint.backlog,
            )
            self._candidates[key] = known
            if returned is not None:
                self._note_return(key, known, returned, closed=hint.closed)
                return
            self._tell_ledger(key, known, "seen")
            if hint.backlog and time.time() - stamp.mtime_ns / 1e9 > _AT_REST_SECONDS:
                self._look(key, known)
            else:
                self._look_again(key, known, self._settle_seconds)
        elif known.stamp != stamp:
            self._restart(key, known, stamp)
        if hint.closed:
            self._note_closed(key, known, now)

    def _note_closed(self, key: str, candidate: _Candidate, now: float) -> None:
        candidate.closed_at_monotonic = now
        candidate.settled_at_monotonic = now + _CLOSED_SETTLE_SECONDS
        self._look_again(key, candidate, _CLOSED_REST_SECONDS)

    def _note_return(self, key: str, candidate: _Candidate, returned: _Return, *, closed: bool) -> None:
        as_it_was = candidate.stamp == returned.arrival.stamp
        if closed and (returned.handled is not None or not as_it_was):  # otherwise there is a reason to wait
            self._note_closed(key, candidate, time.monotonic())
            return
        if as_it_was and returned.incomplete is not None:
            candidate.incomplete = returned.incomplete
            self._look_again(key, candidate, _RECHECK_SECONDS)
        else:
            self._look_again(key, candidate, returned.rest_seconds if as_it_was else self._settle_seconds)

    def _restart(self, key: str, candidate: _Candidate, stamp: FileStamp) -> None:
        """Begin again with a file that has changed: earlier findings no longer hold."""
        candidate.stamp, candidate.unchanged_since = stamp, time.monotonic()
        candidate.closed_at_monotonic = candidate.unchanged_since
        candidate.incomplete = None
        self._look_again(key, candidate, self._settle_seconds)

    def _look_again(self, key: str, candidate: _Candidate, seconds: float) -> None:
        candidate.due = time.monotonic() + seconds
        heapq.heappush(self._looks, (candidate.due, key))

    # --- looking --------------------------------------------------------------------------------------------------

    def _look_at_due(self) -> None:
        now = time.monotonic()
        while self._looks and self._looks[0][0] <= now:
            due, key = heapq.heappop(self._looks)
            candidate = self._candidates.get(key)
            if candidate is not None and candidate.due == due:  # otherwise the look was moved to another time
                self._look(key, candidate)

    def _look_at_backlog(self) -> None:
        deadline = time.monotonic() + _BACKLOG_SECONDS
        while not self._backlog.empty() and time.monotonic() < deadline:
            hint = self._backlog.get()
            self._note(hint)
            self._in_backlog.discard(hint.path)
            key = os.path.relpath(hint.path, self._root)
            if key in self._requested:
                self._note_if_gone(key)

    def _look(self, key: str, candidate: _Candidate) -> None:
        """Look at a candidate for the second time, and decide."""
        self._beat(f"looking at {key}")
        now = time.monotonic()
        stalled = candidate.is_stalled(now, self._stall_seconds)
        try:
            stamp = stamp_of(candidate.path)
            if stamp != candidate.stamp:
                self._restart(key, candidate, stamp)
                return
            self._prove(key, candidate, stalled=stalled)
        except (FileNotFoundError, NotADirectoryError):
            del self._candidates[key]
            self._notes.add_gone(key)
        except IncompleteMicrograph as incomplete:
            if stalled:
                self._give_up(key, candidate, incomplete)
            else:
                self._tell_ledger(key, candidate, "waiting", incomplete.reason, str(incomplete))
                self._wait(key, candidate, now)
        except MicrographError as error:
            self._give_up(key, candidate, error)
        except OSError as error:
            # The fault belongs to the mount or the permissions, not to the file: it is retried without limit.
            message = f"{candidate.path}: cannot be read: {error.strerror or error}"
            if stalled and candidate.noted != message:
                log.warning("%s; it is retried until it can be read", message)
                self._tell_ledger(key, candidate, "waiting", "unreadable", message)
            self._wait(key, candidate, now)
        except sqlite3.Error:
            self._wait(key, candidate, now)  # the ledger cannot be read at present

    def _prove(self, key: str, candidate: _Candidate, *, stalled: bool) -> None:
        self._check_name(candidate.path, key)
        if candidate.incomplete is not None:
            raise candidate.incomplete
        claims = prove_complete(candidate.path, shows_holes=self._shows_holes)
        found = sample(candidate.path)
        if found.has_empty_blocks and not stalled:
            self._tell_ledger(
                key, candidate, "waiting", "", "blocks of nothing but zeros: it may be still to be filled"
            )
            self._wait(key, candidate, time.monotonic())
            return
        stamp = stamp_of(candidate.path)
        if stamp != candidate.stamp:  # its last bytes were written during this look
            self._restart(key, candidate, stamp)
            return
        touched = self._is_touched(key, candidate.stamp, found.fingerprint)
        unlike = ""
        if self._likeness is not None and not touched:
            unlike = self._likeness.judge(key, claims, requested=key in self._requested)
        del self._candidates[key]  # only now: if the ledger cannot be read, the look is repeated
        if touched:
            return
        if unlike:
            self._hold(key, candidate, unlike)
            return
        self._tell_ledger(key, candidate, "seen")
        self._metrics.found.labels(by=candidate.by).inc()
        arrival = self._take_in_hand(key, candidate)
        log.debug("complete: %s", key)
        self._accept(arrival)

    def _wait(self, key: str, candidate: _Candidate, now: float) -> None:
        """Look again later: soon after a recent change, less often as time passes."""
        age = now - candidate.unchanged_since
        self._look_again(key, candidate, min(max(_RECHECK_SECONDS, age / 4), _LONGEST_RECHECK_SECONDS))

    def _hold(self, key: str, candidate: _Candidate, why: str) -> None:
        self._known[key] = candidate.stamp
        self._held.add(key)
        self._tell_ledger(key, candidate, "waiting", UNLIKE, why)

    def _give_up(self, key: str, candidate: _Candidate, error: MicrographError) -> None:
        del self._candidates[key]
        self._refuse(self._take_in_hand(key, candidate), error)

    def _take_in_hand(self, key: str, candidate: _Candidate) -> Arrival:
        self._held.discard(key)
        self._requested.discard(key)
        now = self._in_hand[key] = time.monotonic()
        return Arrival(
            path=candidate.path,
            key=key,
            stamp=candidate.stamp,
            closed_at_monotonic=candidate.closed_at_monotonic,
            complete_at_monotonic=now,
            settled_at_monotonic=candidate.settled_at_monotonic,
            backlog=candidate.backlog,
            requeued=candidate.backlog and key in self._requeued,
        )

    def _is_touched(self, key: str, stamp: FileStamp, fingerprint: str) -> bool:
        """Whether the file was handled before, and only its time has changed (a copy may set times last)."""
        if key not in self._known or self._ledger.fingerprint(key) != fingerprint:
            return False
        self._ledger.restamp(key, stamp)
        self._known[key] = stamp
        return True

    # --- the ledger -----------------------------------------------------------------------------------------------

    def _tell_ledger(
        self, key: str, candidate: _Candidate, state: Literal["seen", "waiting"], reason: str = "", message: str = ""
    ) -> None:
        """Write a candidate's state to the ledger, if it is news."""
        noted = message or state
        if candidate.noted != noted:
            candidate.noted = noted
            self._notes.add(Note(key=key, stamp=candidate.stamp, state=state, reason=reason, message=message))

    def _take_requests(self) -> None:
        """Grant the requests that the ledger holds."""
        now = time.monotonic()
        if now < self._next_requests:
            return
        self._next_requests = now + _REQUESTS_SECONDS
        try:
            keys = self._ledger.take_requests()
        except sqlite3.Error as error:
            log.debug("requests cannot be granted (%s); this is retried", error)
            return
        are_few = sum(keys.values()) <= _FEW_REQUESTED
        for key, is_awaited in keys.items():
            self._known.pop(key, None)
            self._held.discard(key)
            self._requested.add(key)
            if is_awaited and are_few:
                self._note(Hint(path=self._root / key))
                self._note_if_gone(key)
            else:
                self._requeued.add(key)
                self.tell(Hint(path=self._root / key, backlog=True))
        if self._requeued:
            log.info("%d micrographs are picked again, behind all others", len(self._requeued))

    def _note_if_gone(self, key: str) -> None:
        """Note that the file of a request is no longer there, unless it was found."""
        if key not in self._candidates and key not in self._in_hand:
            self._requeued.discard(key)
            self._notes.add_gone(key)


def _holds(path: Path, fingerprint: str) -> bool:
    """Whether a file still has the content with this fingerprint; True if that is unknown."""
    try:
        return not fingerprint or sample(path).fingerprint == fingerprint
    except (OSError, MicrographError):
        return True
