"""The stream, as the daemon sees it: a process with the two sockets, and another one when that has ended.

Each session has a channel of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
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
    END_FRAME,
    Bound,
    ChannelState,
    Job,
    Logged,
    Refused,
    Report,
    channel_frame,
    decode_line,
    document_frame,
)

if TYPE_CHECKING:
    from frazil.health.metrics import Metrics
    from frazil.session.outbox.stream.access import Access

__all__ = ["Channel", "Stream"]

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
        metrics: counts.
        replay: where replays are asked for; the port after the other if not given.
        access: who may connect; everybody who reaches the address if not given.
        allow_unencrypted: allow an address that other machines reach though everybody may connect.
        is_microscope: whether there are sessions with names; subscribers are told so even before the first one.

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
        metrics: Metrics,
        replay: str | None = None,
        access: Access | None = None,
        allow_unencrypted: bool = False,
        is_microscope: bool = False,
    ) -> None:
        wanted = replay or replay_address(address)
        for one in (address, wanted):
            check_address(one, allow_others=access is not None or allow_unencrypted)
        self._job = Job(
            publish=address,
            replay=wanted,
            is_microscope=is_microscope,
            channels=0 if is_microscope else 1,
            curve_key=str(access.key) if access else "",
            curve_clients=str(access.clients) if access else "",
            patience_seconds=_PATIENCE_SECONDS,
        )
        self._metrics = metrics
        self._channels: dict[int, Channel] = {}
        self._added = 0
        self._untold: deque[Channel] = deque()
        """Channels that the process does not know of yet ..."""
        self._closed: deque[Channel] = deque()
        """... and those of which it does not know that they are closed."""
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

    def add(
        self,
        session: str,
        *,
        ledger: Path,
        epoch: str,
        published: int,
        generation: str = "",
        on_damage: Callable[[LedgerDamagedError], None] = lambda _: None,
        live: bool = True,
    ) -> Channel:
        """Add the channel of a session, in the place of one of this name that is closed.

        Args:
            session: its name; empty for the only session of a daemon.
            ledger: file of the ledger.
            epoch: its identity.
            published: sequence number of the newest document that was published before.
            generation: of this run of it; empty where subscribers are not to ask what still holds.
            on_damage: is told when the ledger turns out to be damaged, while the channel is open.
            live: whether the session is open. The documents of one that is not can be requested.

        Raises:
            ValueError: there is an open channel of this name, or one without a name beside others.
        """
        since = published + 1
        with self._changed:
            for other in tuple(self._channels.values()):
                if other.session == session and not other.state.live:
                    del self._channels[other.state.number]
                    if other.state.epoch == epoch:  # opened again
                        since = min(since, other.state.since)
                elif other.session == session or not (session and other.session):
                    raise ValueError(f"expected a new name for a session, found {session!r} beside {other.session!r}")
            self._added += 1
            state = ChannelState(
                number=self._added,
                session=session,
                ledger=os.fsencode(ledger),
                epoch=epoch,
                generation=generation,
                since=since,
                published=published,
                live=live,
            )
            channel = self._channels[state.number] = Channel(self, state, on_damage)
            self._untold.append(channel)
            self._changed.notify_all()
        return channel

    def publish(self, channel: Channel, seq: int, topic: bytes, body: bytes) -> None:
        """Send a committed document of a channel; never waits."""
        with self._changed:
            self._documents.append(document_frame(channel.state.number, seq, topic, body))
            channel.state.published = max(seq, channel.state.published)
            self._changed.notify_all()

    def close_channel(self, channel: Channel) -> None:
        """Close a channel, once its documents are sent."""
        with self._changed:
            if channel.state.live:
                channel.state.live = False
                self._closed.append(channel)
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
            self._changed.notify_all()
        self.process.wait(_CLOSE_SECONDS)
        for thread in self._threads:
            thread.join()
        self.process.close()

    # --- the three threads ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Write frames to the process, whichever it is."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: (self._is_open and self._has_frames) or self._closing)
                if not self._is_open:
                    return
                frame, process = self._next_frame(), self.process
            process.send(frame)  # where it has just ended, a replay will bring the document
            if frame is END_FRAME:
                return

    @property
    def _has_frames(self) -> bool:
        return bool(self._untold or self._documents or self._closed)

    def _next_frame(self) -> bytes:
        """A channel comes before its documents, and its end after them."""
        if self._untold:
            return channel_frame(self._untold.popleft().state)
        if self._documents:
            return self._documents.popleft()
        return channel_frame(self._closed.popleft().state) if self._closed else END_FRAME

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
            with self._changed:
                job = msgspec.structs.replace(self._job, channels=max(self._job.channels, len(self._channels)))
            try:
                another = _Process(job)
            except AddressError as error:
                rest = min(2 * rest, _MOST_REST_SECONDS)
                if str(error) != said:
                    said = str(error)
                    log.warning("the stream cannot be opened again as yet: %s", said)
                continue
            with self._changed:
                ended, self.process = self.process, another
                self._untold, self._closed = deque(self._channels.values()), deque()
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
        for session, seq, path in report.damaged:
            metrics.note_damaged(seq, path, session)
        for number, error in report.ledger_damage.items():
            with self._changed:
                channel = self._channels.get(number)
            if channel is not None and channel.state.live:
                channel.on_damage(LedgerDamagedError(error))


class Channel:
    """The documents of one session on a stream: what an outbox publishes to. `Stream.add` makes it.

    Attributes:
        state: what the process of the sockets knows of it; changed by the stream only.
        on_damage: is told when the ledger turns out to be damaged.
    """

    def __init__(self, stream: Stream, state: ChannelState, on_damage: Callable[[LedgerDamagedError], None]) -> None:
        self._stream = stream
        self.state = state
        self.on_damage = on_damage

    @property
    def session(self) -> str:
        """Name of the session; empty for the only one of a daemon."""
        return self.state.session

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send a committed document to whoever subscribed to its topic; never waits. In order of `seq`."""
        self._stream.publish(self, seq, topic, body)

    def close(self) -> None:
        """End its heartbeats, once its documents are sent. They can still be requested until the stream is closed."""
        self._stream.close_channel(self)


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
