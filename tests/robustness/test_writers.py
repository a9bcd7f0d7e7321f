"""Every way in which files get written, on a watched directory and on a polled one: no partial read, no miss."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from frazil.documents import MicrographDocument, decode_document
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, Picks, read_micrograph
from frazil.session.outbox.ledger import LedgerReader

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
PIECES = 9
PAUSE_SECONDS = 0.3


def pieces(content: bytes) -> Iterator[tuple[int, bytes]]:
    step = len(content) // PIECES // 4096 * 4096
    for i in range(PIECES):
        yield i * step, content[i * step : (i + 1) * step if i < PIECES - 1 else None]


def slow(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for _, piece in pieces(content):
            file.write(piece)
            time.sleep(PAUSE_SECONDS)


def opened_anew_for_each_piece(path: Path, content: bytes) -> None:
    for _, piece in pieces(content):
        with path.open("ab") as file:
            file.write(piece)
        time.sleep(PAUSE_SECONDS)


def sparse(path: Path, content: bytes) -> None:
    """Space set aside, the header first, then the end before the middle."""
    parts = list(pieces(content))
    with path.open("wb", buffering=0) as file:
        file.truncate(len(content))
        for start, piece in (parts[0], *reversed(parts[1:])):
            file.seek(start)
            file.write(piece)
            time.sleep(PAUSE_SECONDS)


def allocated(path: Path, content: bytes) -> None:
    """Space set aside with fallocate, which takes it on the disk."""
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, len(content))
        for start, piece in pieces(content):
            file.seek(start)
            file.write(piece)
            time.sleep(PAUSE_SECONDS)


def renamed(path: Path, content: bytes) -> None:
    for aside in (path.with_name(f".{path.name}.Xy12ab"), path.with_name(f"{path.name}.part")):
        slow(aside, content)
        aside.rename(path)


def linked(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.aside")
    slow(aside, content)
    os.link(aside, path)
    aside.unlink()


def forbidden_then_granted(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(content)
    aside.chmod(0)
    aside.rename(path)
    time.sleep(3.0)
    path.chmod(0o644)


WRITERS = (slow, opened_anew_for_each_piece, sparse, allocated, renamed, linked, forbidden_then_granted)


@pytest.mark.parametrize("watch_by", ["events", "poll"])
def test_no_partial_read_and_no_miss(
    serve: Serve,
    blob_model: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
    wait_for: Callable[..., None],
    report: Callable[[str, str], None],
    without_root_rights: list[str],
    tmp_path: Path,
    watch_by: str,
    is_long: bool,
) -> None:
    rounds = 10 if is_long else 1
    picker = Picker(load_model(blob_model, "cpu", 1), PickingSettings(diameter_angstrom=48))

    def micrograph(seed: int) -> tuple[bytes, Picks]:
        whole = write_mrc(tmp_path / "whole.mrc", make_scene(seed=seed).pixels, 2.0)  # type: ignore[attr-defined]
        return whole.read_bytes(), picker.pick(read_micrograph(whole))

    options = ["--diameter", "48", "--model", blob_model, "--watch-by", watch_by, "--scan", "0.5", "--stall", "2.5"]
    daemon = serve(*options, prefix=without_root_rights)
    expected: dict[str, list[Picks]] = {}
    threads = []
    for i in range(rounds):
        for seed, writer in enumerate(WRITERS, start=100 * i):
            content, picks = micrograph(seed)
            name = f"{writer.__name__}{i}.mrc"
            expected[name] = [picks]
            threads.append(threading.Thread(target=writer, args=(daemon.watched / name, content)))
        # Written again, once what was there is picked.
        (first, first_picks), (second, second_picks) = micrograph(100 * i + 50), micrograph(100 * i + 51)
        name = f"rewritten{i}.mrc"
        expected[name] = [first_picks, second_picks]

        def write_twice(path: Path = daemon.watched / name, first: bytes = first, second: bytes = second) -> None:
            slow(path, first)
            wait_for((daemon.out / f"{path.stem}_picks.star").is_file, f"the picks of {path.name}")
            slow(path, second)

        threads.append(threading.Thread(target=write_twice))
        (daemon.watched / f"truncated{i}.mrc").write_bytes(first[:-1000])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(rounds):  # two names of one file
        os.link(daemon.watched / f"slow{i}.mrc", daemon.watched / f"hard_linked{i}.mrc")
        expected[f"hard_linked{i}.mrc"] = expected[f"slow{i}.mrc"]
    results = sum(len(generations) for generations in expected.values())

    def picked() -> list[MicrographDocument]:
        with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
            documents = [decode_document(body) for _, body in reader.documents()]
        return [document for document in documents if isinstance(document, MicrographDocument)]

    wait_for(lambda: len(picked()) >= results, f"{results} results")
    daemon.wait_log(r"failed \(truncated\)")
    assert daemon.stop() == 0

    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        truncated = list(reader.micrographs(["quarantined"]))
    assert [(t.path, t.reason) for t in truncated] == [
        (f"truncated{i}.mrc", "truncated") for i in sorted(range(rounds))
    ]
    found: dict[str, list[MicrographDocument]] = {}
    for document in picked():
        found.setdefault(document.micrograph, []).append(document)
    assert sorted(found) == sorted(expected)
    for name, generations in expected.items():
        assert len(found[name]) == len(generations), name
        assert [d.supersedes for d in found[name]] == [0, *(d.seq for d in found[name][:-1])]
        for document, picks in zip(found[name], generations, strict=True):
            assert np.allclose(document.picks.y, picks.y, atol=1e-3), name
            assert np.allclose(document.picks.x, picks.x, atol=1e-3), name
    ways = ", ".join(writer.__name__.replace("_", " ") for writer in WRITERS)
    report(
        f"writers-{watch_by}.md",
        f"Found by {watch_by}: {results} of {results} results have the picks of the whole file, {rounds} of {rounds} "
        f"truncated files were reported and never read. Ways of writing: {ways}, rewritten, hard linked, truncated.",
    )
