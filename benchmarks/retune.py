"""Tune a session: how long a preview, the counts and the revision of all take, and whether picking waits for it.

One simulated micrograph is picked and its result put into a ledger again and again, as a session of that many. Then a
daemon picks smaller micrographs that come one by one, alone and while it revises that session; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from frazil.client import PickStream
from frazil.documents import MicrographDocument, encode_document
from frazil.limits import LimitsPatch
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, read_micrograph
from frazil.record import record_picks
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import TUNED_KEY, Handled, Ledger, LedgerReader
from frazil.session.retune import LimitsChange, RevisionProgress, count, preview, request_change
from frazil.session.retune.repick import pack_score_map
from frazil.settings import default_model_path
from frazil_trainer.simulate import SimulationSettings
from frazil_trainer.simulate.series import write_series

BIN = Path(sys.executable).parent
DIAMETER_ANGSTROM = 191.0
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
STREAMED = 12
"""Micrographs in each turn of the stream."""
STREAMED_SIDE_PX = 1024
TURNS = 3
PATIENCE_SECONDS = 300.0


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--micrographs", type=int, default=1000, help="of the session (default 1000)")
    parser.add_argument("--size", type=int, default=4096, help="side of its micrograph in pixels (default 4096)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), args.micrographs, args.size)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(folder: Path, micrographs: int, size: int) -> dict[str, object]:
    """All figures."""
    watched, out = folder / "watched", folder / "out"
    watched.mkdir()
    out.mkdir()
    (whole,) = write_series(folder / "whole", SimulationSettings(shape=(size, size)), count=1, seed=1)
    shape = (STREAMED_SIDE_PX, STREAMED_SIDE_PX)
    (small,) = write_series(folder / "small", SimulationSettings(shape=shape), count=1, seed=2)
    ledger = out / "frazil-ledger.sqlite"
    scores, picks = make_session(ledger, watched, whole, micrographs)
    report: dict[str, object] = {
        "micrographs": micrographs,
        "scores": scores,
        "picks": picks,
        "cores": len(os.sched_getaffinity(0)),
    }
    with LedgerReader(ledger) as reader:
        for threshold in (0.43, 0.1, 0.0):
            report[f"preview_seconds_at_{threshold:g}"] = summary(
                [
                    timed(
                        lambda key=key, t=threshold: preview(
                            reader, key, LimitsPatch(threshold=t, edge_margin_angstrom=60)
                        )
                    )
                    for key in reader.results()[:100]
                ]
            )
        sha256 = preview(reader, "0.mrc", LimitsPatch()).document.model.sha256
        change = LimitsChange(min_distance_angstrom=80.0)
        report["count_seconds_per_1000"] = round(
            timed(lambda: list(count(reader, change, model_sha256=sha256, thresholds=THRESHOLDS))) * 1000 / micrographs,
            2,
        )
        request_change(reader, LimitsPatch(threshold=0.3))
    return report | stream(ledger, watched, out, small, micrographs)


def make_session(ledger: Path, watched: Path, source: Path, micrographs: int) -> tuple[int, int]:
    """Scores in a map and picks of the one micrograph of which the session is made."""
    picker = Picker(load_model(default_model_path(), "cpu"), PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM))
    record = record_picks(picker, read_micrograph(source), read_seconds=0, since=time.monotonic())
    packed = pack_score_map(record.score_map)
    with closing(Ledger(ledger)) as opened:
        for number in range(micrographs):
            name = f"{number}.mrc"
            document = msgspec.structs.replace(record.document, micrograph=name, path=str(watched / name))

            def body_at(epoch: str, seq: int, _: int, document: MicrographDocument = document) -> bytes:
                return encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))

            handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=name)
            opened.commit_picked(name, handled, body_at, score_map=packed)
        opened.mark_delivered(opened.head)
    return record.score_map.scores.size, len(record.picks)


def stream(ledger: Path, watched: Path, out: Path, small: Path, micrographs: int) -> dict[str, object]:
    """How long the revision of all takes when nothing else is to be done, and what it does to the latency."""
    command = [BIN / "frazil", "serve", "--watch", watched, "--out", out, "--diameter", DIAMETER_ANGSTROM]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--scan", 600]
    alone: list[float] = []
    beside: list[float] = []
    with subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            address = next(found[1] for line in daemon.stderr if (found := re.search(r"publishing on ([^\s,]+)", line)))
            started = time.monotonic()
            revised_all = wait_revised(ledger) - started
            with PickStream(address) as picks:
                assert picks.wait_connected(PATIENCE_SECONDS)
                for turn in range(TURNS):
                    alone += latencies(picks, small, watched, f"alone{turn}")
                    with LedgerReader(ledger) as reader:
                        request_change(reader, LimitsPatch(threshold=0.31 + 0.01 * turn))
                    wait_for(lambda: not is_done(ledger))
                    beside += latencies(picks, small, watched, f"beside{turn}")
                    assert not is_done(ledger), "the session was too small: it was revised before the stream had ended"
                    wait_revised(ledger)
        finally:
            daemon.terminate()
    return {
        "revise_seconds_per_1000": round(revised_all * 1000 / micrographs, 1),
        "latency_seconds_alone": summary(alone),
        "latency_seconds_beside_revisions": summary(beside),
        "latency_ratio": round(statistics.median(beside) / statistics.median(alone), 2),
    }


def latencies(picks: PickStream, small: Path, watched: Path, name: str) -> list[float]:
    """From a file closed to its document received, of micrographs that come one by one."""
    found = []
    for number in range(STREAMED):
        aside = watched / ".aside"
        shutil.copyfile(small, aside)
        aside.rename(watched / f"{name}_{number}.mrc")
        started = time.monotonic()
        while True:
            document = picks.receive(PATIENCE_SECONDS)
            assert document is not None
            if document.micrograph == f"{name}_{number}.mrc":
                break
        found.append(time.monotonic() - started)
    return found


def is_done(ledger: Path) -> bool:
    """Whether all results are within the changed limits."""
    with LedgerReader(ledger) as reader:
        tuned = RevisionProgress.decode(reader.meta()[TUNED_KEY])
    return tuned is not None and tuned.is_done


def wait_revised(ledger: Path) -> float:
    """Until they are; when that was, by the monotonic clock."""
    wait_for(lambda: is_done(ledger))
    return time.monotonic()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for {PATIENCE_SECONDS:g} s in vain")
        time.sleep(0.02)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def summary(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(float(np.median(values)), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
