"""A real ``frazil serve`` in a process of its own, whose log is read as it comes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

__all__ = ["FRAZIL", "DaemonProcess"]

FRAZIL = Path(sys.executable).parent / "frazil"
PATIENCE_SECONDS = 600.0


class DaemonProcess:
    """A daemon that serves as long as this is open.

    Args:
        watched: the directory of the micrographs, or a microscope's root; made if missing, as is the next one.
        out: of picks and ledger.
        options: of the command, beside addresses.
        sessions: pattern of session directories below a root.

    Attributes:
        stream, metrics, page: its addresses.
        lines: its log, each line with the time when it came, by the monotonic clock.
        ready_seconds: from starting the process to its saying that it is ready.
    """

    def __init__(self, watched: Path, out: Path, *options: object, sessions: str = "") -> None:
        self.watched, self.out = watched, out
        for folder in (watched, out):
            folder.mkdir(parents=True, exist_ok=True)
        where = ["--root", watched, "--sessions", sessions] if sessions else ["--watch", watched]
        command = [FRAZIL, "serve", *where, "--out", out, *options]
        self._command = [*map(str, command), "--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
        self.lines: list[tuple[float, str]] = []
        self._waited = 0
        self._ended = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        started = time.monotonic()
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        # Log lines are bytes, so that no codec's time counts.
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, env=environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            at, found = self.wait_for(
                r"ready after .* publishing on ([^\s,]+), metrics on ([^\s,]+), page on ([^\s,]+)"
            )
        except BaseException:
            self.__exit__()
            raise
        self.ready_seconds = at - started
        self.stream, self.metrics, self.page = found.groups()
        self._waited = 0  # what is waited for next may have been logged before
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append((time.monotonic(), line.decode(errors="replace")))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> tuple[float, re.Match[str]]:
        """The last of so many lines that match, after those waited for before: when it came, and what matched.

        Raises:
            RuntimeError: they do not come.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while True:
                for at, line in self.lines[self._waited :]:
                    self._waited += 1
                    if found := re.search(pattern, line):
                        count -= 1
                        if count == 0:
                            return at, found
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    last = "".join(line for _, line in self.lines[-20:])
                    raise RuntimeError(f"the daemon's log: expected {count} more lines with {pattern!r}, found\n{last}")

    def memory_mib(self, field: str = "VmRSS") -> float:
        """What the process holds, or ``VmHWM``, the most that it ever held."""
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def processor_seconds(self) -> tuple[float, float]:
        """Of the daemon itself so far, and of the processes that it started, those that ended included."""
        own, children = 0.0, 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                process, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
                used, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
                own += used * (process == self.process.pid)
                children += waited * (process == self.process.pid) + used * (int(fields[1]) == self.process.pid)
        return own / os.sysconf("SC_CLK_TCK"), children / os.sysconf("SC_CLK_TCK")
