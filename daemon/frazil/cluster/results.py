"""Results: where those of a run go, to a ledger that this process holds, or to the daemon that holds it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from frazil.cluster.live import LiveResults
from frazil.cluster.own import OwnResults
from frazil.cluster.sink import Results, Sink
from frazil.errors import InUseError, OutputError
from frazil.health.heartbeat import Beat
from frazil.outputs import OutputFolder
from frazil.paths import is_same_file
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import LedgerReader

__all__ = ["open_results"]


def open_results(ledger: Path, out: Path, watch: Path, root: Path, sink: Sink, beat: Beat) -> Results:
    """Claim a ledger and its output directory, or hand over to the daemon that has them.

    Args:
        ledger: the ledger.
        out: the output directory.
        watch: the watched directory, with links resolved.
        root: the same, by the name that the user gave it.
        sink: is told what has become of each result.
        beat: called every second or so while it waits.

    Raises:
        OutputError: they are of another directory, or another process has them that takes no results.
    """
    OutputFolder(out).prepare()
    try:
        return OwnResults(ledger, out, watch, root, sink, beat)
    except InUseError:
        if not _is_of_daemon(ledger, watch):
            raise
        return LiveResults(ledger, sink, beat)


def _is_of_daemon(ledger: Path, watch: Path) -> bool:
    """Whether it is a daemon that has this ledger of this directory."""
    with contextlib.suppress(OutputError), LedgerReader(ledger) as reader:
        info = DaemonInfo.of(reader)
        return info is not None and info.stopped_at is None and is_same_file(Path(info.watch), watch)
    return False
