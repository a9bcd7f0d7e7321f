"""The service manager's side door: systemd is told what the daemon is at, over a datagram socket that it names.

The protocol is that of ``sd_notify``: lines of ``KEY=value``. Elsewhere nobody is told, and nothing fails.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

from frazil.errors import printable

__all__ = ["Notifier"]

log = logging.getLogger(__name__)

_SEND_SECONDS = 1.0


class Notifier:
    """Tells the service manager. Its methods may be called from any thread.

    Args:
        environment: names the socket and how often the watchdog wants to hear. Both are taken out of it, so that no
            process of ours speaks in our name.

    Attributes:
        watchdog_seconds: the manager ends a daemon that it has not heard of for so long; None where it does not watch.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_usec, watched_pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self.watchdog_seconds: float | None = None
        if watchdog_usec.isdecimal() and int(watchdog_usec) and watched_pid in ("", str(os.getpid())):
            self.watchdog_seconds = int(watchdog_usec) / 1e6
        # A leading @ stands for a socket without a file.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_SECONDS)

    def starting(self, step: str, *, within_seconds: float) -> None:
        """A step of the start begins, which may take so long whatever the unit allows for the whole."""
        self._send(f"STATUS=starting: {step}", f"EXTEND_TIMEOUT_USEC={within_seconds * 1e6:.0f}")

    def ready(self) -> None:
        """Everything runs: after the start, and after each `reloading`."""
        self._send("READY=1")

    def status(self, line: str) -> None:
        """What ``systemctl status`` shows."""
        self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1", "STATUS=finishing the work in hand")

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            text = "\n".join(printable(" ".join(line.split())) for line in lines)
            self._socket.sendto(text.encode(errors="backslashreplace"), self._address)
        except OSError as error:
            log.debug("the service manager cannot be told %s: %s", lines[0], error)
