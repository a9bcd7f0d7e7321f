"""More files than the kernel's queue of events holds: none lost, none twice."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.session.outbox.ledger import LedgerReader

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]

Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821


def test_files_whose_events_were_dropped_are_found_once(
    serve: Serve,
    blob_model: Path,
    tiny_micrograph: bytes,
    metric: Callable[[str, str], float],
    report: Callable[[str, str], None],
    wait_for: Callable[..., None],
    memory_folder: Path,
    is_long: bool,
) -> None:
    """The daemon is stopped (SIGSTOP) while files drop: nobody reads the queue, and it overflows."""
    count = 20_000 if is_long else 600
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    folders = {"watched": memory_folder / "watched", "out": memory_folder / "out"}
    daemon = serve("--diameter", "48", "--model", blob_model, "--log-level", "debug", "--no-keep-score-maps", **folders)
    wait_for(lambda: metric(daemon.metrics, "frazil_watching_events") == 1, "events")
    folder = daemon.watched / "square"
    folder.mkdir()
    (folder / "first.mrc").write_bytes(tiny_micrograph)
    daemon.wait_log("picked square/first")

    daemon.process.send_signal(signal.SIGSTOP)
    for i in range(count // 2):
        (folder / f"{i:05}.mrc").write_bytes(tiny_micrograph)
    for i in range(limit):  # each makes an event, whatever comes after
        (folder / f"{i}.log").touch()
        (folder / f"{i}.log").unlink()
    daemon.process.send_signal(signal.SIGCONT)
    for i in range(count // 2, count):  # and the rest comes while the daemon finds out
        (folder / f"{i:05}.mrc").write_bytes(tiny_micrograph)

    wait_for(
        lambda: metric(daemon.metrics, "frazil_ledger_sequence") >= count + 1, "all of them", 7200 if is_long else 1200
    )
    overflows = metric(daemon.metrics, "frazil_event_overflows_total")
    by = {b: metric(daemon.metrics, f'frazil_micrographs_found_total{{by="{b}"}}') for b in ("event", "scan")}
    assert daemon.stop() == 0
    assert overflows >= 1
    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        assert reader.counts() == {"picked": count + 1}
        found = Counter(record.path for record in reader.micrographs())
        assert len(list(reader.documents())) == count + 1
    assert set(found.values()) == {1}
    assert len(list((daemon.out / "square").glob("*.star"))) == count + 1

    scans = [
        (float(m[1]), int(m[2]))
        for line in daemon.log
        if (m := re.search(r"scanned in ([\d.]+) s: \d+ folders, (\d+) names", line)) and int(m[2]) > count // 2
    ]
    each = sorted(10_000 * seconds / listed for seconds, listed in scans)
    report(
        "overflow.md",
        f"{count:,} files dropped while the kernel's queue of {limit:,} events overflowed ({overflows:.0f} times): "
        f"each picked once; {by['event']:.0f} were first told of by an event and {by['scan']:.0f} found by a scan.\n\n"
        f"Time of a scan that lists everything, per 10,000 files, beside the picking: median "
        f"{each[len(each) // 2]:.3f} s, {each[0]:.3f} to {each[-1]:.3f} s in {len(each)} scans.",
    )
