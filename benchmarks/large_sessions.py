"""Long sessions: many files in the tree, a million rows in the ledger, thousands of micrographs in one run.

python benchmarks/large_sessions.py --json docs/reference/speed/large-sessions.json --markdown FILE

Ledgers are made through the real schema, with documents that the daemon could have written, and asked through the
classes that the daemon, its page and the commands use. Daemons are real processes.
Parts can be chosen: ``--parts scans ledger start backlog``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from daemon_process import FRAZIL, DaemonProcess
from figures import markdown_table, seconds_of
from micrographs import write_micrograph
from published import make_document

import frazil
from frazil.documents import encode_document
from frazil.model import load_model
from frazil.page.series import Series
from frazil.page.session import Session
from frazil.picking import Picker, PickingSettings, read_micrograph, write_star
from frazil.record import record_picks
from frazil.session.intake.scan import Scanner
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader

PARTS = ("scans", "ledger", "start", "backlog")
PER_FOLDER = 500
DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM = 191.0, 0.9
SMALL = Path(__file__).resolve().parents[1] / "exported_models" / "mlp"
"""Picks a small micrograph in milliseconds, so that what else the daemon does for each one shows."""
COMMITS = 200
BEGAN = 1_750_000_000.0
PICKS = 12
"""Few in each document, to spare the disk."""


class Table:
    """Rows of what was measured, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, part: str, what: str, value: float, unit: str = "s") -> None:
        """One more row."""
        self.rows.append({"part": part, "what": what, "value": value, "unit": unit})
        print(f"| {part} | {what} | {shown(value)} {unit} |", flush=True)

    def time(self, part: str, what: str, work: Callable[[], object], repeats: int = 3) -> None:
        """Median time of some work."""
        self.add(part, what, statistics.median(seconds_of(work) for _ in range(repeats)))


def shown(value: float) -> str:
    """Three digits of it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def name(i: int) -> str:
    """The path of a micrograph, as long as they are."""
    return f"GridSquare_{i // PER_FOLDER:05}/Data/FoilHole_{i:08}_fractions_aligned.mrc"


# --- scans ------------------------------------------------------------------------------------------------------


def make_tree(folder: Path, files: int) -> None:
    """Many small files."""
    for i in range(files):
        path = folder / name(i)
        if i % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()


def measure_scans(table: Table, files: int) -> None:
    """Scan a tree of empty files."""
    part = f"scan of {files:,} files"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_tree(folder, files)
        known: dict[str, FileStamp] = {}
        scanner = Scanner(folder, Selection(), known)
        table.time(part, "the first", scanner.scan, 1)
        known |= {name(i): FileStamp(size=0, mtime_ns=0) for i in range(files)}
        table.time(part, "every folder listed, all files known", scanner.scan, 1)
        time.sleep(2.1)  # longer than the grain of a folder's time
        scanner.scan()
        table.time(part, "no folder has changed", scanner.scan)
        (folder / "GridSquare_00001" / "Data" / "new.mrc").touch()
        table.time(part, "one folder has", scanner.scan, 1)


# --- the ledger -------------------------------------------------------------------------------------------------


def fill(file: Path, micrographs: int, stamp: Callable[[int], FileStamp] | None = None) -> None:
    """Make a ledger of so many micrographs: all but a few hundred of them picked."""
    stamp = stamp or (lambda i: FileStamp(67109888, 1_750_000_000_000_000_000 + i))
    Ledger(file).close()
    sample = encode_document(make_document(name(0), PICKS, 0))

    def body(i: int) -> bytes:
        if i < micrographs - 10_000:
            return sample
        return encode_document(msgspec.structs.replace(make_document(name(i), PICKS, i % 97), seq=i + 1))

    def record(i: int) -> tuple[object, ...]:
        state = "quarantined" if i % 2500 == 7 else "picked"
        reason = "truncated" if state == "quarantined" else ""
        at = BEGAN + 4.0 * i
        times = (at, at + 0.1, at + 0.5, at + 0.6) if state == "picked" else (at, None, None, None)
        seq = i + 1 if state == "picked" else None
        return (name(i), state, *stamp(i), f"{i:032x}", reason, "", 1, *times, seq)

    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA synchronous=OFF")
        with database:
            database.executemany(
                f"INSERT INTO micrographs VALUES ({', '.join('?' * 13)})", (record(i) for i in range(micrographs))
            )
            database.executemany(
                "INSERT INTO documents (seq, topic, path, body, committed_at) VALUES (?, ?, ?, ?, ?)",
                (
                    (i + 1, "failed" if i % 2500 == 7 else "picks", name(i), body(i), BEGAN + 4.0 * i)
                    for i in range(micrographs)
                ),
            )
            database.execute("UPDATE meta SET value = ? WHERE key = 'delivered'", (str(micrographs),))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measure_ledger(table: Table, micrographs: int) -> None:
    """Open a ledger of so many micrographs, ask it all that is asked, and commit to it."""
    part = f"ledger of {micrographs:,}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frazil-ledger.sqlite"
        fill(file, micrographs)
        table.add(part, "its size", file.stat().st_size / 1e6, "MB")
        table.time(part, "open", lambda: Ledger(file).close())
        ledger = Ledger(file)
        table.time(part, "all known files", ledger.known)
        tracemalloc.start()
        known = ledger.known()
        table.add(part, "memory of each known file", tracemalloc.get_traced_memory()[0] / max(1, len(known)), "bytes")
        tracemalloc.stop()
        del known
        table.time(part, "files that are missing", ledger.missing)
        table.time(part, "fingerprint of one", lambda: ledger.fingerprint(name(micrographs // 2)))
        table.time(part, "frazil status, as a process", lambda: run("status", "--ledger", file))
        table.time(part, "frazil ledger show, as a process", lambda: run("ledger", "show", name(7), "--ledger", file))
        with LedgerReader(file) as reader:
            table.time(part, "count the states", reader.counts)
            table.time(part, "failed and waiting", lambda: list(reader.micrographs(["failed", "waiting"], limit=5)))
            table.time(part, "the newest failures", lambda: reader.newest_failures(8))
            table.time(part, "results of one micrograph", lambda: reader.history(name(11)))
            table.time(part, "neighbours of one", lambda: reader.neighbours(name(micrographs // 2)))
            table.time(part, "the newest result", reader.newest_result)
            table.time(part, "replay of the last 1,000", lambda: list(reader.documents(after=micrographs - 1000)))
            table.time(part, "list, first page", lambda: reader.search("", limit=100))
            table.time(part, "list, those that hold some words", lambda: reader.search("hole_0000", limit=100))
        session, series = Session(file), Series()
        table.time(part, "overview: how things stand, first", lambda: session.standing(9), 1)
        table.time(part, "overview: how things stand, again", lambda: session.standing(9))
        table.time(part, "plots: all results read", lambda: read_all(series, session), 1)
        table.time(part, "plots: drawn again", series.plot)
        tracemalloc.start()
        series = Series()
        read_all(series, session)
        table.add(part, "plots: memory of each result", tracemalloc.get_traced_memory()[0] / micrographs, "bytes")
        tracemalloc.stop()
        times = [seconds_of(lambda i=i: commit(ledger, i)) for i in range(micrographs, micrographs + COMMITS)]
        table.add(part, "commit of a result, median", statistics.median(times))
        table.add(part, "commit of a result, 99th percentile", float(np.percentile(times, 99)))
        table.time(part, "overview: how things stand, after a commit", lambda: session.standing(9))
        session.close()
        ledger.close()


def read_all(series: Series, session: Session) -> None:
    """As the page does for the first browser, in one go."""
    series.advance(session)
    while not series.complete:
        series.advance(session)


def commit(ledger: Ledger, i: int) -> None:
    """Commit one more result, with a score map of usual size, and note its delivery."""
    document = make_document(name(i), PICKS, i % 97)
    seq, _ = ledger.commit_picked(
        name(i),
        Handled(stamp=FileStamp(67109888, i), fingerprint=f"{i:032x}"),
        lambda epoch, seq, supersedes: encode_document(
            msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=supersedes)
        ),
        score_map=b"\x55" * 100_000,
        complete_at_unix=time.time(),
    )
    ledger.mark_delivered(seq)


def run(*arguments: object) -> None:
    """Run a command of frazil."""
    subprocess.run([FRAZIL, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


# --- daemons ----------------------------------------------------------------------------------------------------


def serve(watch: Path, out: Path, *options: object) -> DaemonProcess:
    """A daemon for these micrographs, which revises none of them."""
    given = ("--diameter", DIAMETER_ANGSTROM, "--pixel-size", PIXEL_SIZE_ANGSTROM, "--no-choose-threshold")
    return DaemonProcess(watch, out, *given, *options)


def measure_start(table: Table, files: int, repeats: int = 3) -> None:
    """Start a daemon in an empty directory, and in one with many files that the ledger knows."""
    for part, many in (("start, nothing known", 0), (f"start, {files:,} files known", files)):
        with tempfile.TemporaryDirectory() as folder:
            watch, out = Path(folder) / "watch", Path(folder) / "out"
            watch.mkdir()
            out.mkdir()
            make_tree(watch, many)
            stamps = {}
            for i in range(many):
                status = (watch / name(i)).stat()
                stamps[i] = FileStamp(status.st_size, status.st_mtime_ns)
            fill(out / "frazil-ledger.sqlite", many, stamps.__getitem__)
            ready, processor, memory = [], [], []
            for _ in range(repeats):
                with serve(watch, out) as daemon:
                    ready.append(daemon.ready_seconds)
                    processor.append(daemon.processor_seconds()[0])
                    memory.append(daemon.memory_mib() * 2**20 / 1e6)
            table.add(part, "process started to ready, median", statistics.median(ready))
            table.add(part, "process started to ready, longest", max(ready))
            table.add(part, "processor time until ready", statistics.median(processor))
            table.add(part, "memory when ready", statistics.median(memory), "MB")


def pick_alone(picker: Picker, file: Path) -> None:
    """One micrograph without a daemon: read, picked, STAR file written."""
    record = record_picks(picker, read_micrograph(file), read_seconds=0.0, since=time.monotonic())
    write_star(file.with_suffix(".star"), record.picks)


def measure_backlog(table: Table, micrographs: int, side: int, rows: int) -> None:
    """Pick a backlog of small micrographs, with an empty ledger and with one of many rows."""
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.mrc"
        diameter_px = DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM
        write_micrograph(one, (side, side), "float32", pixel_size_angstrom=PIXEL_SIZE_ANGSTROM, diameter_px=diameter_px)
        picker = Picker(load_model(SMALL, "cpu"), PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM))
        alone = statistics.median(seconds_of(lambda: pick_alone(picker, one)) for _ in range(50))
        table.add(f"backlog of {micrographs:,}, {side} x {side}", "picking alone, a micrograph", 1000 * alone, "ms")
        for says, many in (("empty ledger", 0), (f"ledger of {rows:,}", rows)):
            part = f"backlog of {micrographs:,}, {side} x {side}, {says}"
            watch, out = Path(folder) / f"watch-{many}", Path(folder) / f"out-{many}"
            watch.mkdir()
            out.mkdir()
            for i in range(micrographs):
                shutil.copyfile(one, watch / f"new_{i:06}.mrc")
            fill(out / "frazil-ledger.sqlite", many)
            with serve(watch, out, "--model", SMALL, "--scan", 5) as daemon:
                before, _ = daemon.processor_seconds()
                daemon.wait_for("picked new_", micrographs)
                processor = daemon.processor_seconds()[0] - before
                at = [when for when, line in daemon.lines if "picked new_" in line]
                quarter = micrographs // 4
                first, last = (np.diff(part_of).mean() * 1000 for part_of in (at[:quarter], at[-quarter:]))
                table.add(part, "process started to ready", daemon.ready_seconds)
                table.add(part, "a micrograph", 1000 * (at[-1] - at[0]) / (micrographs - 1), "ms")
                table.add(part, "a micrograph, first quarter", first, "ms")
                table.add(part, "a micrograph, last quarter", last, "ms")
                table.add(part, "last quarter / first quarter", last / first, "")
                table.add(part, "processor time of each", 1000 * processor / micrographs, "ms")
                table.add(part, "memory at the end", daemon.memory_mib() * 2**20 / 1e6, "MB")
            shutil.rmtree(watch)
            shutil.rmtree(out)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000, help="in a tree")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in the largest ledger")
    parser.add_argument("--micrographs", type=int, default=2_000, help="in a backlog")
    parser.add_argument("--side", type=int, default=512, help="of each, in pixels")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    table = Table()
    if "scans" in arguments.parts:
        measure_scans(table, arguments.files)
    if "ledger" in arguments.parts:
        for micrographs in (arguments.files, arguments.rows):
            measure_ledger(table, micrographs)
    if "start" in arguments.parts:
        measure_start(table, arguments.files)
    if "backlog" in arguments.parts:
        measure_backlog(table, arguments.micrographs, arguments.side, arguments.rows)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        machine = (
            f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
        )
        about = {"frazil": frazil.__version__, "machine": machine, "sqlite": sqlite3.sqlite_version}
        arguments.json.write_text(json.dumps({**about, "rows": table.rows}, indent=1) + "\n", "utf-8")
    if arguments.markdown:
        rows = [(row["part"], row["what"], f"{shown(row['value'])} {row['unit']}") for row in table.rows]
        arguments.markdown.write_text(markdown_table(("part", "what", ""), rows, right=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
