"""Scans: all that is there, and as little work as possible."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.service.stamp import FileStamp, stamp_of
from frazil.service.watch import Scan, Scanner, Selection

Make = Callable[..., Scanner]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def known() -> dict[str, FileStamp]:
    return {}


@pytest.fixture
def scanner(root: Path, known: dict[str, FileStamp]) -> Scanner:
    return Scanner(root, Selection(exclude=["raw"]), known)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def new(scan: Scan, root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in scan.new)


def learn(known: dict[str, FileStamp], scan: Scan, root: Path) -> None:
    known.update({str(path.relative_to(root)): stamp_of(path) for path in scan.new})


def test_files_are_found_in_every_folder_that_is_entered(root: Path, scanner: Scanner) -> None:
    touch(root, "a.mrc", "b.txt", "grid/c.mrc", "grid/square/d.mrc", "raw/e.mrc", ".hid/f.mrc", ".g.mrc", "h.mrc.part")
    assert new(scanner.scan(), root) == ["a.mrc", "grid/c.mrc", "grid/square/d.mrc"]


def test_known_files_are_not_named_again_and_later_folders_are_found(
    root: Path, scanner: Scanner, known: dict[str, FileStamp]
) -> None:
    touch(root, "a.mrc")
    learn(known, scanner.scan(), root)
    touch(root, "new/deep/b.mrc")
    assert new(scanner.scan(), root) == ["new/deep/b.mrc"]


def test_an_unchanged_folder_is_not_listed_again_once_its_time_can_hide_nothing(
    root: Path, scanner: Scanner, known: dict[str, FileStamp], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("frazil.service.watch.scan.time.monotonic", lambda: clock)
    touch(root, *(f"{i}.mrc" for i in range(5)))
    learn(known, scanner.scan(), root)
    clock += 1  # within the grain of a folder's time: a file may have come without a trace
    assert scanner.scan().listed == 5
    clock += 2
    assert scanner.scan().listed == 5
    clock += 2
    assert scanner.scan().listed == 0
    touch(root, "late.mrc")
    assert new(scanner.scan(), root) == ["late.mrc"]
    clock += 60  # and from time to time nothing is believed
    assert scanner.scan().listed == 6


def test_rewritten_missing_and_returned_files_are_noticed_without_a_listing(
    root: Path, scanner: Scanner, known: dict[str, FileStamp]
) -> None:
    touch(root, "a.mrc", "b.mrc")
    learn(known, scanner.scan(), root)
    (root / "a.mrc").write_bytes(b"new")
    (root / "b.mrc").rename(root / "b.away")
    scan = scanner.scan()
    assert (scan.changed, scan.missing, scan.returned) == ([root / "a.mrc"], ["b.mrc"], [])
    scan = scanner.scan()
    assert (scan.missing, scan.returned) == ([], [])
    (root / "b.away").rename(root / "b.mrc")
    scan = scanner.scan()
    assert (scan.missing, scan.returned) == ([], ["b.mrc"])


def test_the_sweep_comes_round_to_every_known_file(root: Path, known: dict[str, FileStamp]) -> None:
    touch(root, "real.mrc")
    known |= {f"gone{i}.mrc": FileStamp(size=0, mtime_ns=0) for i in range(4500)}
    scanner = Scanner(root, Selection(), known)
    missing: list[str] = []
    rounds = 0
    while len(missing) < 4500:
        missing += scanner.scan().missing
        rounds += 1
        assert rounds < 100
    assert sorted(missing) == sorted(known)
    assert rounds >= 3


def test_links_are_followed_inside_the_tree_and_never_twice_or_out_of_it(
    root: Path, tmp_path: Path, scanner: Scanner
) -> None:
    touch(root, "a.mrc", "grid/b.mrc", ".store/c.mrc", ".store/blob")
    touch(tmp_path, "outside/d.mrc")
    (root / "loop").symlink_to(root)
    (root / "grid" / "up").symlink_to("..")
    (root / "again").symlink_to(root / "grid")
    (root / "again.mrc").symlink_to("a.mrc")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "out.mrc").symlink_to(tmp_path / "outside" / "d.mrc")
    (root / "broken.mrc").symlink_to("nowhere")
    (root / "shown").symlink_to(".store")
    (root / "shown.mrc").symlink_to(".store/blob")
    found = new(scanner.scan(), root)
    assert [name for name in found if name != "broken.mrc"] == ["a.mrc", "grid/b.mrc", "shown.mrc", "shown/c.mrc"]
    for name in ("a.mrc", "shown.mrc"):
        assert scanner.finds(name)
    for name in ("again.mrc", "out.mrc", "out/d.mrc", "raw/x.mrc", ".a.mrc"):
        assert not scanner.finds(name)


def test_a_folder_that_cannot_be_looked_into_is_reported_once_and_keeps_what_it_had(
    root: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(root, "a.mrc", "bad/deep/b.mrc")
    assert new(scanner.scan(), root) == ["a.mrc", "bad/deep/b.mrc"]
    real = os.scandir

    def fails(path: Path) -> object:
        if Path(path).name == "bad":
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr("frazil.service.watch.scan.os.scandir", fails)
    for _ in range(3):
        assert "a.mrc" in new(scanner.scan(), root)
    assert [r.message for r in caplog.records] == [f"cannot list {root}/bad: Input/output error"]
    monkeypatch.undo()
    assert new(scanner.scan(), root) == ["a.mrc", "bad/deep/b.mrc"]


def test_a_folder_that_was_removed_is_no_complaint(
    root: Path, scanner: Scanner, caplog: pytest.LogCaptureFixture
) -> None:
    touch(root, "sub/a.mrc")
    scanner.scan()
    (root / "sub" / "a.mrc").unlink()
    (root / "sub").rmdir()
    assert new(scanner.scan(), root) == []
    assert caplog.records == []
