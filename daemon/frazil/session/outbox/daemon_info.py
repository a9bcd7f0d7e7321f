"""The daemon's record of itself in the ledger, from which ``frazil status`` finds it."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import msgspec

from frazil.errors import OutputError
from frazil.paths import is_same_file, path_below
from frazil.session.outbox.ledger import DAEMON_KEY, Ledger, LedgerReader

__all__ = ["DaemonInfo", "check_watch", "ledger_key", "move_watch"]

_LOOKED_FOR = 100

_ANSWER_SECONDS = 2.0


class DaemonInfo(msgspec.Struct, frozen=True, kw_only=True):
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
    metrics: str
    """URL of its metrics."""
    page: str = ""
    """URL of its page."""
    model: str
    provider: str
    precision: str = "float32"
    """Precision in which the model computes."""

    def encode(self) -> str:
        """Encode as text for the ledger."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> DaemonInfo | None:
        """Decode the ledger's text; None if it cannot be decoded."""
        try:
            return msgspec.json.decode(text, type=cls)
        except ValueError:
            return None

    def stopped(self) -> DaemonInfo:
        """A copy that is stopped now."""
        return msgspec.structs.replace(self, stopped_at=time.time())

    def ask(self) -> dict[str, float] | None:
        """Ask the daemon for its metrics.

        Returns:
            Values by name, such as ``name{label=value}``; None if the daemon does not answer.
        """
        if self.stopped_at is not None:
            return None
        import urllib.request  # here, with the parser: most commands need neither, and importing them takes time

        from prometheus_client.parser import text_string_to_metric_families

        try:
            with urllib.request.urlopen(self.metrics, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - our own URL
                text = answer.read().decode()
        except (OSError, ValueError):
            return None
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        # Another program, or another daemon, may have the address by now.
        return samples if samples.get("frazil_start_time_seconds") == self.started_at else None


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
        info = DaemonInfo.decode(reader.meta().get(DAEMON_KEY, ""))
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
