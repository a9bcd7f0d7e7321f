"""The daemon's record of itself in the ledger, from which ``frazil status`` finds it."""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from frazil.errors import OutputError
from frazil.health.samples import START_TIME, parse_samples
from frazil.health.state import DaemonState
from frazil.paths import is_same_file, path_below
from frazil.session.outbox.ledger import DAEMON_KEY, Ledger, LedgerReader, Remembered, Witness

__all__ = ["DaemonInfo", "ask_page", "check_watch", "ledger_key", "move_watch", "open_ledger"]

T = TypeVar("T")

_LOOKED_FOR = 100

_ANSWER_SECONDS = 2.0


class DaemonInfo(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """A daemon that uses the ledger, or used it last."""

    pid: int
    started_at: float
    """In seconds of Unix time."""
    stopped_at: float | None = None
    """When it ended in order; None while it runs, or if it was killed."""
    watch: str
    out: str
    stream: str
    """ZeroMQ address of its pick stream."""
    server_key: str = ""
    """File of its public key; empty where the stream is not encrypted."""
    metrics: str
    """URL of its metrics."""
    page: str = ""
    """URL of its page."""
    model: str
    provider: str
    precision: str = "float32"
    """Precision in which the model computes."""

    @classmethod
    def of(cls, reader: LedgerReader) -> DaemonInfo | None:
        """The daemon of a ledger; None if there was none yet."""
        return cls.decode(reader.meta().get(DAEMON_KEY, ""))

    def stopped(self) -> DaemonInfo:
        """A copy that is stopped now."""
        return msgspec.structs.replace(self, stopped_at=time.time())

    def ask(self) -> DaemonState | None:
        """The daemon's present state, with the session of this ledger; None if it does not answer.

        An earlier version gives little of it.
        """
        if self.stopped_at is not None:
            return None
        answer = _get(f"{self.page}api/state") if self.page else b""
        if answer is None:
            return None
        with contextlib.suppress(msgspec.DecodeError):
            state = msgspec.json.decode(answer, type=DaemonState)
            # Another program, or another daemon, may have the address by now.
            return state.of_directory(self.watch) if state.started_at == self.started_at else None
        is_it = self.samples().get(START_TIME) == self.started_at
        return DaemonState(started_at=self.started_at) if is_it else None

    def samples(self) -> dict[str, float]:
        """The daemon's metrics by name, such as ``name{label=value}``; empty if it does not answer."""
        try:
            return parse_samples((_get(self.metrics) or b"").decode())
        except ValueError:
            return {}


def ask_page(page: str, below: str, kind: type[T]) -> T | None:
    """What a daemon's page answers, decoded from JSON; None where it gives no such answer.

    Args:
        page: URL of the page.
        below: path of what is asked for, below it.
        kind: type of the answer.
    """
    try:
        return msgspec.json.decode(_get(f"{page.rstrip('/')}/{below}") or b"", type=kind)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _get(url: str) -> bytes | None:
    """The answer at a URL, which may be empty; None if nobody answers in HTTP."""
    import urllib.request  # here: most commands do not need it, and importing it takes time
    from http.client import HTTPException
    from urllib.error import HTTPError

    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - our own URL
            return bytes(answer.read())
    except HTTPError as error:
        error.close()
        return b""
    except (OSError, ValueError, HTTPException):
        return None


def open_ledger(file: Path, *, watch: Path, out: Path) -> tuple[Ledger, Witness]:
    """Claim an output directory and open its ledger, to write to both.

    Args:
        file: the ledger; made if missing.
        watch: the watched directory, with links resolved.
        out: the output directory, likewise.

    Raises:
        OutputError: another process has them, they cannot be written, or the ledger is of another directory.
    """
    epoch = ""
    with contextlib.suppress(OutputError), LedgerReader(file) as reader:
        epoch = reader.epoch
    witness = Witness(out, watch=watch, ledger=file, ledger_epoch=epoch)
    try:
        ledger = Ledger(file, witness)
    except OutputError:
        witness.close()
        raise
    try:
        check_watch(ledger, watch)
    except OutputError:
        witness.disown()
        ledger.close()
        witness.close()
        raise
    return ledger, witness


def check_watch(ledger: Ledger, watch: Path) -> None:
    """Check that a ledger belongs to the watched directory, since its keys are paths below that directory.

    Raises:
        OutputError: the ledger belongs to another directory.
    """
    info = DaemonInfo.decode(ledger.recall(DAEMON_KEY))
    if info is None or info.watch == str(watch) or not ledger.knows_any():
        return
    if is_same_file(Path(info.watch), watch):
        return  # the same directory under another name, such as another mount
    raise OutputError(
        f"{ledger.file}: expected a ledger of {watch}, found that of {info.watch}: give another --out, or another "
        f"--ledger; if that directory is now called {watch}, say so with "
        f"`frazil ledger set-watch {watch} --ledger {ledger.file}`"
    )


def move_watch(file: Path, watch: Path, *, force: bool = False) -> str:
    """Change the watched directory of a ledger, after it was moved, renamed or mounted elsewhere.

    Args:
        file: the ledger; no daemon may use it.
        watch: present path of the directory.
        force: whether to change it even if none of the ledger's micrographs is in the directory.

    Returns:
        The earlier path of the directory.

    Raises:
        OutputError: no daemon has used the ledger yet, one uses it now, or its micrographs are not in that directory.
    """
    with LedgerReader(file) as reader:
        info = DaemonInfo.of(reader)
        known = [record.path for record in reader.micrographs(["picked", "quarantined"], limit=_LOOKED_FOR)]
    if info is None:
        raise OutputError(
            f"{file}: expected a ledger that a daemon has used, found one that belongs to no directory yet"
        )
    if not watch.is_dir():
        raise OutputError(f"{watch}: expected the watched directory, found none")
    if known and not force and not any((watch / path).exists() for path in known):
        raise OutputError(
            f"{watch}: expected the micrographs of {info.watch}, found none of {len(known)} that the ledger knows, "
            f"such as {known[0]} (--force if they are really gone)"
        )
    with closing(Ledger(file)) as ledger:
        ledger.remember(DAEMON_KEY, msgspec.structs.replace(info, watch=str(watch)).encode())
    return info.watch


def ledger_key(path: Path, info: DaemonInfo | None) -> str:
    """The key of a micrograph: its path below the watched directory; the path itself if it lies elsewhere."""
    below = None if info is None else path_below(Path(info.watch), path)
    return str(path if below is None else below)
