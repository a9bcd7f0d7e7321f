"""The stream, as the daemon sees it: a process with the two sockets, and another one when that has ended."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import msgspec

from frazil.addresses import check_address, replay_address
from frazil.errors import AddressError, LedgerDamagedError
from frazil.health.logs import event
from frazil.session.outbox.stream.messages import (
    Bound,
    Job,
    Logged,
    Refused,
    Report,
    decode_line,
    encode_document_frame,
)

if TYPE_CHECKING:
    from frazil.health.metrics import Metrics
    from frazil.session.outbox.stream.access import Access

__all__ = ["Stream"]

log = logging.getLogger(__name__)

_WAITING = 5000
"""Documents kept for the process; when it is not there, the oldest are left to replays."""
_START_SECONDS = 60.0
_PATIENCE_SECONDS = 1.0
"""For an address that a process which has just ended still holds."""
_SILENT_LOOKS = 30
"""The process speaks once a second; after so many seconds without a word it counts as hanging."""
_CLOSE_SECONDS = 5.0
_REST_SECONDS, _MOST_REST_SECONDS = 0.1, 30.0
"""Before the next process is started; doubled each time that one lived shortly."""
_SHORT_LIFE_SECONDS = 60.0
_LAST_WORDS = 20


class Stream:
    """A publisher and a replayer at addresses of their own, in a process of their own.

    Whatever clients do to that process, the daemon goes on: it starts another one at the same addresses. What was
    published meanwhile, subscribers ask for.

    Args:
        address: where documents are published, such as ``tcp://127.0.0.1:5556``; port 0 takes a free one.
        ledger: file of the ledger.
        epoch: its identity.
        generation: of this run of it; empty where subscribers are not to ask what still holds.
        on_damage: is told when the ledger turns out to be damaged.
        published: sequence number of the newest document that was published before.
        metrics: counts.
        replay: where replays are asked for; the port after the other if not given.
        access: who may connect; everybody who reaches the address if not given.
        allow_unencrypted: allow an address that other machines reach though everybody may connect.

    Attributes:
        address, replay: the addresses really bound.
        process: that has the sockets.
        subscribers: connections to the first one.
        restarts: times that the process ended and was started again.

    Raises:
        AddressError: an address is malformed, taken, or not of this machine alone.
    """

    def __init__(
        self,
        address: str,
        *,
        ledger: Path,
        epoch: str,
        published: int,
        metrics: Metrics,
        generation: str = "",
        on_damage: Callable[[LedgerDamagedError], None] = lambda _: None,
        replay: str | None = None,
        access: Access | None = None,
        allow_unencrypted: bool = False,
    ) -> None:
        wanted = replay or replay_address(address)
        for one in (address, wanted):
            check_address(one, allow_others=access is not None or allow_unencrypted)
        self._job = Job(
            publish=address,
            replay=wanted,
            ledger=str(ledger),
            epoch=epoch,
            generation=generation,
            published=published,
            curve_key=str(access.key) if access else "",
            curve_clients=str(access.clients) if access else "",
            patience_seconds=_PATIENCE_SECONDS,
        )
        self._metrics = metrics
        self._on_damage = on_damage
        self._documents: deque[bytes] = deque(maxlen=_WAITING)
        self._changed = threading.Condition()
        self._closing = False
        self.process = _Process(self._job)
        bound = self.process.bound
        self.address, self.replay = bound.publish, bound.replay
        self._job = msgspec.structs.replace(self._job, publish=bound.publish, replay=bound.replay)
        self._is_open, self._silent_looks = True, 0
        self.subscribers = self.restarts = 0
        self._threads = [
            threading.Thread(target=target, name=f"frazil-stream-{name}", daemon=True)
            for name, target in (("send", self._send), ("hear", self._hear), ("look", self._look))
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send a committed document to whoever subscribed to its topic; never waits. In order of `seq`."""
        with self._changed:
            self._documents.append(encode_document_frame(seq, topic, body))
            self._job = msgspec.structs.replace(self._job, published=max(seq, self._job.published))
            self._changed.notify_all()

    def dead_thread(self) -> str | None:
        """Name of a thread that has died, which none should."""
        return next((thread.name for thread in self._threads if not thread.is_alive()), None)

    def close(self) -> None:
        """Close both sockets; what was sent gets a second to leave."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._documents.append(encode_document_frame(0, b"", b""))
            self._changed.notify_all()
        self.process.wait(_CLOSE_SECONDS)
        for thread in self._threads:
            thread.join()
        self.process.close()

    # --- the three threads ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Write documents to the process, whichever it is."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: (self._documents and self._is_open) or self._closing)
                if not (self._documents and self._is_open):
                    return
                frame, process = self._documents.popleft(), self.process
            process.send(frame)  # where it has just ended, a replay will bring the document

    def _hear(self) -> None:
        """Take what the process says; start another when it has ended."""
        rest = _REST_SECONDS
        while True:
            started = time.monotonic()
            for message in self.process.messages():
                self._silent_looks = 0
                if isinstance(message, Report):
                    self._count(message)
            with self._changed:
                self._is_open = False
                if self._closing:
                    return
            how = self.process.how_it_ended()
            self.subscribers = 0
            self.restarts += 1
            self._metrics.stream_restarts.inc()
            if time.monotonic() - started > _SHORT_LIFE_SECONDS:
                rest = _REST_SECONDS
            log.error(
                "the process of the stream ended (%s); picking goes on, and another process is started in %g s",
                how,
                rest,
                extra=event("stream_ended", reason=how),
            )
            if not self._start_another(rest):
                return
            rest = min(2 * rest, _MOST_REST_SECONDS)

    def _start_another(self, rest: float) -> bool:
        """Start another process at the same addresses, as soon as that can be done; False when told to close."""
        said = ""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, rest):
                    return False
            try:
                another = _Process(self._job)
            except AddressError as error:
                rest = min(2 * rest, _MOST_REST_SECONDS)
                if str(error) != said:
                    said = str(error)
                    log.warning("the stream cannot be opened again as yet: %s", said)
                continue
            with self._changed:
                ended, self.process = self.process, another
                self._is_open, self._silent_looks = True, 0
                self._changed.notify_all()
            ended.close()
            if self._closing:
                another.kill()
                return False
            log.info("the stream is open again at %s", self.address, extra=event("stream_open"))
            return True

    def _look(self) -> None:
        """End a process that hangs."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, 1.0):
                    return
            self._silent_looks += 1  # not by the clock, which goes on while the daemon is stopped
            if self._is_open and self._silent_looks == _SILENT_LOOKS:
                log.error("the process of the stream said nothing for %d s and is ended", _SILENT_LOOKS)
                self.process.kill()

    def _count(self, report: Report) -> None:
        metrics = self._metrics
        self.subscribers = report.subscribers
        metrics.refused.inc(report.refused)
        metrics.overflows.inc(report.overflows)
        metrics.replayed.inc(report.replayed)
        for outcome, count in report.requests.items():
            metrics.replay_requests.labels(outcome=outcome).inc(count)
        for seq, path in report.damaged:
            metrics.note_damaged(seq, path)
        if report.ledger_damage:
            self._on_damage(LedgerDamagedError(report.ledger_damage))


class _Process:
    """One process with the sockets; it is there when it says that they are open.

    Args:
        job: what it is to do.

    Attributes:
        bound: the addresses.
        pid: of the process.

    Raises:
        AddressError: an address cannot be bound, or the process cannot be started.
    """

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-P", "-m", "frazil.session.outbox.stream", msgspec.json.encode(job).decode()]
        try:
            # It ends when its stdin does, so that it cannot outlive a daemon that was killed.
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,  # no Ctrl-C; not a session, since priorities count within one (sched_autogroup)
            )
        except OSError as error:
            raise AddressError(f"{job.publish}: no process can be started for the stream: {error.strerror}") from error
        self.pid = self._process.pid
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        timer = threading.Timer(_START_SECONDS + job.patience_seconds, self.kill)
        timer.start()
        try:
            self.bound = self._wait_bound(job)
        except AddressError:
            self.kill()
            self.close()
            raise
        finally:
            timer.cancel()

    def messages(self) -> Iterator[Bound | Refused | Report]:
        """What it says, until it ends. What it logs goes to the daemon's log."""
        for line in cast("IO[bytes]", self._process.stdout):
            match decode_line(line):
                case Logged() as logged:
                    logging.getLogger(logged.logger).log(logged.level, "%s", logged.message)
                case None:
                    self._last_words.append(line.decode("utf-8", "replace").strip())
                case message:
                    yield message

    def send(self, frame: bytes) -> None:
        """Write to it; when it has ended, nothing happens."""
        with contextlib.suppress(OSError, ValueError):
            stdin = cast("IO[bytes]", self._process.stdin)
            stdin.write(frame)
            stdin.flush()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end, and bring that about when it does not come in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """Its status, and its last words that were for people; it has ended."""
        status = self._process.wait()
        is_signal = -status in list(signal.Signals)
        name = signal.Signals(-status).name if is_signal else f"status {status}"
        return f"{name}: {' '.join(self._last_words) or 'it said nothing'}"

    def close(self) -> None:
        """Close the pipes of one that has ended."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it was still to get
                cast("IO[bytes]", pipe).close()

    def _wait_bound(self, job: Job) -> Bound:
        for message in self.messages():
            if isinstance(message, Bound):
                return message
            if isinstance(message, Refused):
                raise AddressError(message.error)
        raise AddressError(f"{job.publish}: the process of the stream ended at its start ({self.how_it_ended()})")
