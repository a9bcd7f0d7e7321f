"""The sessions of a daemon: which are open, and why the others are not.

A daemon with a watched directory has one session. One with a root finds a session in each directory that matches its
pattern, and opens those in which something changed of late.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from frazil.errors import FrazilError
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.state import SessionState
from frazil.microscope.judge import Judge, NotOpen
from frazil.microscope.registry import REGISTRY_NAME, Registry, SessionRecord, Wish
from frazil.microscope.suggestions import Suggestions
from frazil.paths import absolute_path
from frazil.record import MicrographReader
from frazil.session.models import Models
from frazil.session.outbox.ledger import LedgerReader, request_requeue
from frazil.session.outbox.stream import Stream
from frazil.session.pick.junk_model import JunkModel
from frazil.session.pick.turns import Turns
from frazil.session.session import Session, title_of
from frazil.settings import ServeSettings

__all__ = ["Sessions"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LEDGER_SECONDS = 600.0
"""Longest time to open a ledger. One of an earlier version is rewritten."""
_MODEL_SECONDS = 600.0
"""Longest time to load a model and warm it up, on a GPU that is slow to wake."""
_RETRY_SECONDS = 10.0
"""Time after which a session that could not be opened is tried again, though nothing has changed."""
_CLOSE_SECONDS = 60.0
"""Longest time that a session gets to finish the work in hand when it is closed."""


class Sessions:
    """Opens and closes sessions as the registry, the directories and their settings files say.

    All but `states`, `open_sessions`, `change` and `dead_thread` belongs to one thread at a time.

    Args:
        settings: of the daemon.
        metrics: of the daemon.
        models: loads and checks models, for all sessions.
        tell: is told what is begun, and how many seconds that may take.
        clock: Unix time.
        junk_model: finds junk, for all sessions. Default: that is not looked for.

    Attributes:
        started_at: when the first session had started, or none was to be opened, in seconds of Unix time; 0 before.
        read_micrograph: reads a micrograph of any session, within the limits of memory and time in the settings.
    """

    def __init__(
        self,
        settings: ServeSettings,
        metrics: Metrics,
        models: Models,
        tell: Callable[[str, float], None],
        clock: Callable[[], float] = time.time,
        junk_model: JunkModel | None = None,
    ) -> None:
        self.started_at = 0.0
        if settings.root is not None:  # names and records hold wherever a command is typed
            settings = msgspec.structs.replace(
                settings, root=absolute_path(settings.root), out=absolute_path(settings.out)
            )
        self._settings = settings
        self._metrics = metrics
        self._models = models
        self._junk_model = junk_model
        self._turns = Turns()
        self._tell = tell
        self._clock = clock
        self.read_micrograph = MicrographReader(
            largest_bytes=settings.max_micrograph_bytes, timeout_seconds=settings.read_timeout_seconds
        )
        self._suggestions = Suggestions(models, self._turns, self.read_micrograph)
        self.registry = Registry(settings.out.expanduser().resolve() / REGISTRY_NAME)
        self._open: dict[str, Session] = {}
        self._judge = Judge(settings, self._open, clock)
        self._states: dict[str, SessionState] = {}
        """Of the sessions that are not open."""
        self._failed: dict[str, tuple[float, ServeSettings, str]] = {}
        """When opening a session failed, with which settings, and why."""
        self._thread: threading.Thread | None = None

    @property
    def is_microscope(self) -> bool:
        """Whether there is a root, below which sessions come and go."""
        return self._settings.root is not None

    @property
    def root_fault(self) -> str:
        """Why the root cannot be seen; empty while it can."""
        return self._judge.root_fault

    # --- what others ask, from any thread ---------------------------------------------------------------------------

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions that are open."""
        return list(self._open.values())

    @property
    def default_name(self) -> str:
        """The session that is meant where none is named; empty where there is none."""
        if not self.is_microscope:
            return title_of(absolute_path(self._settings.watch))
        return next((state.name for state in self.states), "")

    def ledger_file(self, name: str) -> Path | None:
        """The ledger of a session, open or not; None where no such session is known. It need not be there as yet."""
        if not self.is_microscope:
            return self._settings.ledger_file.expanduser().resolve() if name == self.default_name else None
        if name in self._open:
            return self._open[name].ledger_file
        known = name in self._states
        return msgspec.structs.replace(self._settings, out=self._settings.out / name).ledger_file if known else None

    def settings_of(self, name: str) -> dict[str, Any] | None:
        """The settings in force of an open session, by name; None where it is not open."""
        session = self._open.get(name)
        return None if session is None else session.own_settings

    def change(self, name: str, wish: Wish | None, settings: Mapping[str, Any], *, repick: bool = False) -> None:
        """Wish something of a known session, and set some of its settings; arguments and errors as for the registry."""
        directory = next((Path(state.directory) for state in self.all_states if state.name == name), Path())
        self.registry.change(name, directory, wish, settings, repick=repick, base=self._settings)

    @property
    def states(self) -> tuple[SessionState, ...]:
        """The open sessions, then those that wait to be opened; closed ones are only counted."""
        waiting = [state for state in self._not_open if state.status in ("waiting", "paused")]
        return (*(session.state for session in self.open_sessions), *waiting)

    @property
    def closed_count(self) -> int:
        """Number of sessions that are known, and neither open nor waiting."""
        return sum(state.status not in ("waiting", "paused") for state in self._not_open)

    @property
    def all_states(self) -> tuple[SessionState, ...]:
        """Every session that is known, the open ones first."""
        return (*(session.state for session in self.open_sessions), *self._not_open)

    @property
    def _not_open(self) -> list[SessionState]:
        return [state for name, state in list(self._states.items()) if name not in self._open]

    def dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""
        if self._thread is not None and not self._thread.is_alive():
            return self._thread.name
        return next((dead for session in self.open_sessions if (dead := session.dead_thread())), None)

    # --- the life of the daemon ---------------------------------------------------------------------------------------

    def begin(self, stream: Stream, page_url: str) -> None:
        """Open the sessions that are to be open.

        Args:
            stream: of the daemon; has a channel for each session.
            page_url: of the daemon's page.

        Raises:
            FrazilError: the only session of a daemon without a root cannot be opened.
        """
        self._stream, self._page_url = stream, page_url
        if self.is_microscope:
            with contextlib.suppress(FrazilError):  # it is for the command line alone
                self.registry.note_page(page_url)
        self.look(raises=not self.is_microscope)
        self.started_at = self.started_at or self._clock()

    def run_until(self, stop: threading.Event) -> None:
        """Begin to look each second, in a thread of its own."""

        def run() -> None:
            self._keep_readable()
            while not stop.wait(_LOOK_SECONDS):
                try:
                    self.look()
                except FrazilError as error:  # the registry cannot be read at present
                    log.warning("the sessions stay as they are: %s", error)
                except Exception:  # the edge of one look
                    log.exception("the sessions stay as they are")

        self._thread = threading.Thread(target=run, name="frazil-sessions", daemon=True)
        self._thread.start()
        if self.is_microscope:
            measuring = threading.Thread(
                target=self._suggestions.run, args=(stop,), name="frazil-suggestions", daemon=True
            )
            measuring.start()

    def _keep_readable(self) -> None:
        """Have the stream answer for the sessions of earlier runs, for subscribers that were away when they ended."""
        with contextlib.suppress(FrazilError):
            for name, record in self.registry.records().items():
                if record.opened_at is not None:
                    self._keep_one_readable(name)

    def _keep_one_readable(self, name: str) -> None:
        file = self.ledger_file(name)
        if file is None or name in self._open:
            return
        with contextlib.suppress(FrazilError, ValueError), LedgerReader(file) as reader:
            self._stream.add(
                name,
                ledger=file,
                epoch=reader.epoch,
                generation=next((generation.id for generation in reversed(reader.generations())), ""),
                published=reader.head(),
                live=False,
            )

    def stop(self, deadline: float) -> bool:
        """Stop every session, once the daemon stops; none of them is closed by that.

        Args:
            deadline: latest time to wait until, on the monotonic clock.

        Returns:
            Whether the work in hand was finished in time.
        """
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        stopping = self.open_sessions
        for session in stopping:
            session.request_stop()
        finished = [session.stop(deadline) for session in stopping]
        return all(finished)

    def close(self) -> None:
        """Close the ledgers."""
        for session in self.open_sessions:
            session.close()
        self._open.clear()

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self, *, raises: bool = False) -> None:
        """Open and close what is to be opened and closed now.

        Args:
            raises: whether a session that cannot be opened raises its fault, and is not waited for.

        Raises:
            FrazilError: the registry cannot be read.
        """
        self._judge.discover()
        records = self.registry.records()
        lacking: dict[str, ServeSettings] = {}
        for name, session in list(self._open.items()):
            if self.is_microscope and session.fault:
                self._failed[name] = time.monotonic(), session.settings, str(session.fault)
                self._stop_one(name)
                self._note_waiting(name, NotOpen("waiting", str(session.fault)), records.get(name))
            elif name not in records and name not in self._judge.found:
                self._close(name, NotOpen("closed", "it is no longer known"))
        for name in dict.fromkeys([*self._judge.found, *records]):
            record = records.get(name)
            try:
                wanted = self._judge.judge(name, record)
            except NotOpen as waits:
                is_news = name not in self._states
                self._note_waiting(name, waits, record)
                if name in self._open:
                    self._close(name, waits)
                elif is_news and record is not None:
                    self._finish_close(name, waits, record)
                if waits.without_diameter is not None:
                    lacking[name] = waits.without_diameter
                continue
            if name in self._open and self._open[name].settings != wanted:
                log.info("session %s: its settings have changed", name, extra=event("session_settings", session=name))
                self._states[name] = SessionState(
                    name=name, directory=str(wanted.watch), status="waiting", says="it opens again with other settings"
                )
                self._stop_one(name)
            if name not in self._open:
                self._try_open(name, wanted, record, raises=raises)
            elif record is not None and record.repick:
                self._repick(name, self._open[name])
        self._suggestions.want(lacking)

    # --- opening and closing ------------------------------------------------------------------------------------------

    def _try_open(self, name: str, settings: ServeSettings, record: SessionRecord | None, *, raises: bool) -> None:
        failed = self._failed.get(name)
        if failed is not None and failed[1] == settings and time.monotonic() - failed[0] < _RETRY_SECONDS:
            return
        session = None
        try:
            session = self._make(settings, name if self.is_microscope else "")
            self._connect(session)
            if record is not None and record.repick:
                self._repick(name, session)
            self._start(session)
        except (FrazilError, OSError, sqlite3.Error) as error:
            if session is not None:
                with contextlib.suppress(FrazilError, OSError, sqlite3.Error):
                    session.stop(time.monotonic())
                    session.close()
            if raises:
                raise
            if failed is None or failed[2] != str(error):
                log.warning("session %s cannot be opened: %s", name, error, extra=event("session_fault", session=name))
            self._failed[name] = time.monotonic(), settings, str(error)
            self._note_waiting(name, NotOpen("waiting", str(error)), record)
            return
        self._failed.pop(name, None)
        self._open[name] = session
        self._states.pop(name, None)
        if self.is_microscope:
            if record is None or record.opened_at is None or record.closed_at is not None:
                self._record(name, session.watch, self.registry.note_opened)
            log.info("session %s is open: watching %s", name, session.watch, extra=event("session_open", session=name))

    def _make(self, settings: ServeSettings, name: str) -> Session:
        return Session(settings, self._metrics, self._models, self._turns, name=name, junk_model=self._junk_model)

    def _connect(self, session: Session) -> None:
        """Open a session's ledger, and connect it to the stream."""
        session.outputs.prepare()
        self._tell("opening the ledger", _LEDGER_SECONDS)
        session.open()
        session.connect(self._stream, self._page_url)

    def _start(self, session: Session) -> None:
        """Load the model of a session, and begin to pick."""
        self._tell(f"loading the model {session.settings.model}", _MODEL_SECONDS)
        model = session.load()
        self._tell(f"warming up the model {model.identity.short}", _MODEL_SECONDS)
        session.start(session.warm_up(model))
        self.started_at = self.started_at or self._clock()
        session.note_daemon(self.started_at)

    def _repick(self, name: str, session: Session) -> None:
        """Ask of a session that runs, or is about to, to pick again what was picked."""
        try:
            count = request_requeue(session.ledger_file, states=["picked"])
            self.registry.note_repicked(name)
        except FrazilError as error:  # it is tried again at the next look
            log.warning("session %s: what was picked cannot be picked again as yet: %s", name, error)
            return
        log.info("session %s: %d micrographs are picked again, the newest first", name, count)

    def _close(self, name: str, waits: NotOpen) -> None:
        log.info("session %s: %s", name, str(waits) or waits.status, extra=event("session_closed", session=name))
        goes_on = waits.status in ("paused", "waiting")
        session = self._stop_one(name, "paused" if goes_on else "closed")
        if session is not None and self.is_microscope and not goes_on:
            self._record(name, session.watch, self.registry.note_closed)

    def _record(self, name: str, directory: Path, note: Callable[[str], None]) -> None:
        """Note in the registry what became of a session. No result depends on it."""
        try:
            self.registry.add(name, directory)
            note(name)
        except FrazilError as error:
            log.warning("%s", error)

    def _finish_close(self, name: str, waits: NotOpen, record: SessionRecord) -> None:
        """Announce the end of a session that was open when an earlier run was killed, or that was closed meanwhile."""
        if not self.is_microscope or record.opened_at is None or record.closed_at is not None:
            return
        if waits.status == "waiting":
            return
        settings = msgspec.structs.replace(
            self._settings,
            root=None,
            watch=Path(record.directory),
            out=self._settings.out / name,
            diameter_angstrom=1.0,
        )
        with contextlib.suppress(FrazilError, sqlite3.Error):
            session = self._make(settings, name)
            try:
                self._connect(session)
                session.announce_end("paused" if waits.status == "paused" else "closed")
            finally:
                session.close()
        if waits.status != "paused":
            self._record(name, Path(record.directory), self.registry.note_closed)

    def _stop_one(self, name: str, announced: Literal["paused", "closed"] | None = None) -> Session | None:
        """Stop a session, say what it is from now on, if anything, and close it.

        Returns:
            The session; None if it does not end. Then it hangs, and stays, so that the watchdog sees it.
        """
        session = self._open.pop(name)  # first: its threads end now, and that is no fault
        if not session.stop(time.monotonic() + _CLOSE_SECONDS):
            log.error("session %s does not end within %.0f s", name, _CLOSE_SECONDS)
            self._open[name] = session
            return None
        if announced is not None:
            session.announce_end(announced)
        session.close()
        return session

    def _note_waiting(self, name: str, waits: NotOpen, record: SessionRecord | None) -> None:
        state = SessionState(
            name=name,
            directory=str(self._judge.directory(name, record)),
            status=waits.status,
            says=str(waits),
            needs_diameter=waits.without_diameter is not None,
            suggested=self._suggestions.of(name),
        )
        before = self._states.get(name)
        self._states[name] = state
        if waits.status == "waiting" and (before is None or before.says != state.says):
            log.warning("session %s waits: %s", name, waits, extra=event("session_waits", session=name))
