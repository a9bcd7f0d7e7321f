"""Scans: all that is there, and as little work as possible."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.session.intake.scan import Scan, Scanner
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp, stamp_of

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
    monkeypatch.setattr("frazil.session.intake.scan.time.monotonic", lambda: clock)
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


def passed_over(scan: Scan) -> dict[str, int]:
    return {reason: passed.count for reason, passed in scan.inventory.passed_over.items()}


def test_links_are_followed_unless_what_they_lead_to_is_found_without_them(
    root: Path, tmp_path: Path, scanner: Scanner
) -> None:
    touch(root, "a.mrc", "grid/b.mrc", ".store/c.mrc", ".store/blob")
    touch(tmp_path, "outside/d.mrc", "outside/e.part", "elsewhere/f.mrc")
    (root / "loop").symlink_to(root)
    (root / "grid" / "up").symlink_to("..")
    (root / "above").symlink_to(tmp_path)
    (root / "again").symlink_to(root / "grid")
    (root / "again.mrc").symlink_to("a.mrc")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "out.mrc").symlink_to(tmp_path / "elsewhere" / "f.mrc")
    (root / "raw.mrc").symlink_to(tmp_path / "outside" / "e.part")
    (root / "broken.mrc").symlink_to("nowhere")
    (root / "shown").symlink_to(".store")
    (root / "shown.mrc").symlink_to(".store/blob")
    scan = scanner.scan()
    assert new(scan, root) == ["a.mrc", "grid/b.mrc", "out.mrc", "out/d.mrc", "raw.mrc", "shown.mrc", "shown/c.mrc"]
    # link: loop, up, above, again, again.mrc. not_an_image: blob. unfinished: .store, e.part
    assert passed_over(scan) == {"link": 5, "broken_link": 1, "not_an_image": 1, "unfinished": 2}
    for name in ("a.mrc", "shown.mrc", "out.mrc"):
        assert scanner.finds(name)
    for name in ("again.mrc", "broken.mrc", "raw/x.mrc", ".a.mrc"):
        assert not scanner.finds(name)


def test_folders_linked_in_a_circle_outside_are_looked_into_once_and_always_under_the_same_name(
    root: Path, tmp_path: Path, scanner: Scanner
) -> None:
    touch(tmp_path, "disk/one/a.mrc", "disk/two/b.mrc")
    (tmp_path / "disk/one/two").symlink_to("../two")
    (tmp_path / "disk/two/one").symlink_to("../one")
    (tmp_path / "disk/two/up").symlink_to("..")
    (tmp_path / "disk/two/home").symlink_to(root)
    for name in ("y", "z", "x"):
        (root / name).symlink_to(tmp_path / "disk/one")
    for _ in range(3):
        scan = scanner.scan()
        assert new(scan, root) == ["x/a.mrc", "x/two/b.mrc"]
        assert scan.inventory.taken == 2
        # below x/two: one, home, and below up both folders; y and z
        assert passed_over(scan) == {"link": 6}


def test_a_file_that_a_link_waits_for_is_found_by_the_next_scan(root: Path, tmp_path: Path, scanner: Scanner) -> None:
    os.utime(root, (0, 0))
    (root / "late.mrc").symlink_to(tmp_path / "late.mrc")
    scanner.scan()
    touch(tmp_path, "late.mrc")
    assert new(scanner.scan(), root) == ["late.mrc"]


def test_everything_in_the_tree_is_counted_as_taken_or_passed_over_for_a_reason(
    root: Path, scanner: Scanner, known: dict[str, FileStamp]
) -> None:
    touch(
        root,
        "a.mrc",
        "a_PS.mrc",
        "b.mrc",
        "b_DW.mrc",
        "c_DW.mrc",
        "m.tif",
        "m.mrcs",
        "m.dm4",
        "x.xml",
        "h.mrc.part",
        "raw/e.mrc",
    )
    for _ in range(3):  # whether listed, known or remembered
        scan = scanner.scan()
        assert scan.inventory.taken == 3
        assert passed_over(scan) == {
            "companion": 2,
            "excluded": 1,
            "not_included": 1,
            "other_format": 1,
            "movie": 1,
            "not_an_image": 1,
            "unfinished": 1,
        }
        assert scan.inventory.passed_over["excluded"].example == "raw/"
        learn(known, scan, root)
    assert not scanner.finds("b_DW.mrc")
    assert scanner.finds("c_DW.mrc")


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

    monkeypatch.setattr("frazil.session.intake.scan.os.scandir", fails)
    for _ in range(3):
        assert "a.mrc" in new(scanner.scan(), root)
    assert [r.message for r in caplog.records] == [f"cannot list {root}/bad: Input/output error"]
    assert passed_over(scanner.scan()) == {"unreadable": 1}
    monkeypatch.undo()
    scan = scanner.scan()
    assert new(scan, root) == ["a.mrc", "bad/deep/b.mrc"]
    assert passed_over(scan) == {}


def test_a_folder_that_was_removed_is_no_complaint(
    root: Path, scanner: Scanner, caplog: pytest.LogCaptureFixture
) -> None:
    touch(root, "sub/a.mrc")
    assert scanner.scan().inventory.taken == 1
    (root / "sub" / "a.mrc").unlink()
    (root / "sub").rmdir()
    assert new(scanner.scan(), root) == []
    assert caplog.records == []
