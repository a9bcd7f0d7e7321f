"""How scans and the ledger take many files: 100,000 in the tree, a million in the ledger.

python benchmarks/many_files.py
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from frazil.service.ledger import Ledger, LedgerReader
from frazil.service.watch import FileStamp, Scanner, Selection

PER_FOLDER = 500


def timed(what: str, work: Callable[[], object]) -> object:
    """Print how long something takes."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    print(f"| {what} | {time.perf_counter() - wall:.3f} | {time.process_time() - processor:.3f} |")
    return result


def name(i: int) -> str:
    """The path of a micrograph, as long as they are."""
    return f"GridSquare_{i // PER_FOLDER:05}/Data/FoilHole_{i:08}_fractions_aligned.mrc"


def scans(folder: Path, files: int) -> None:
    """Scan a tree of empty files."""
    for i in range(files):
        path = folder / name(i)
        if i % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    known: dict[str, FileStamp] = {}
    scanner = Scanner(folder, Selection(), known)
    timed(f"first scan of {files:,} files", scanner.scan)
    known |= {name(i): FileStamp(size=0, mtime_ns=0) for i in range(files)}
    timed("scan that lists every folder, all files known", scanner.scan)
    time.sleep(2.1)  # longer than the grain of a folder's time
    scanner.scan()
    timed("scan in which no folder has changed", scanner.scan)
    (folder / "GridSquare_00001" / "Data" / "new.mrc").touch()
    timed("scan in which one folder has", scanner.scan)


def ledger(file: Path, micrographs: int) -> None:
    """Open and ask a ledger of so many micrographs."""
    Ledger(file).close()
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.executemany(
            "INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, attempts, seq) "
            "VALUES (?, 'picked', 67109888, 1795377631000000000, ?, 1, ?)",
            ((name(i), "f" * 32, i + 1) for i in range(micrographs)),
        )
        database.executemany(
            "INSERT INTO documents (seq, topic, path, body) VALUES (?, 'picks', ?, ?)",
            ((i + 1, name(i), b"x" * 200) for i in range(micrographs)),
        )
    database.close()

    def open_and_know() -> int:
        opened = Ledger(file)
        count = len(opened.known())
        opened.close()
        return count

    timed(f"open a ledger and know {micrographs:,} files", open_and_know)
    with LedgerReader(file) as reader:
        timed("count the states", reader.counts)
        timed("all that is in quarantine", lambda: list(reader.micrographs(["quarantined"])))
        timed("one micrograph", lambda: reader.micrograph(name(7)))
        timed("the last 1,000 documents", lambda: list(reader.documents(after=micrographs - 1000)))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--largest", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print("| what | seconds | of the processor |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        scans(Path(folder) / "tree", arguments.files)
    for micrographs in (arguments.files, arguments.largest):
        with tempfile.TemporaryDirectory() as folder:
            ledger(Path(folder) / "ledger.sqlite", micrographs)


if __name__ == "__main__":
    main()
