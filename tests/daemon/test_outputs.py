"""Outputs: which name a micrograph's file has, and who is at fault when it cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil import files
from frazil.errors import MicrographError
from frazil.faults import is_waited_for
from frazil.files import write_atomically
from frazil.outputs import OutputFolder, namesakes

MACHINE = ("ENOSPC", "EDQUOT", "EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "ENETDOWN", "EHOSTDOWN")
MACHINE += ("EMFILE", "ENFILE", "ENOMEM", "EAGAIN")
FILE = ("ENAMETOOLONG", "ENOTDIR", "EEXIST", "EISDIR", "EINVAL", "EILSEQ", "ELOOP", "EACCES", "EPERM")
FILE += ("EROFS", "ENOENT", "EBUSY", "EOPNOTSUPP")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody, not even root, can write."""
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("needs a file system whose folders can be made immutable, since root writes where it likes")
    yield folder
    subprocess.run(["chattr", "-i", folder], check=True)


@pytest.mark.parametrize("name", MACHINE)
def test_what_is_the_machines_is_waited_for(tmp_path: Path, name: str) -> None:
    assert is_waited_for(OSError(getattr(errno, name), ""), tmp_path)


@pytest.mark.parametrize("name", FILE)
def test_what_is_the_files_is_not_waited_for_while_the_folder_can_be_written(tmp_path: Path, name: str) -> None:
    assert not is_waited_for(OSError(getattr(errno, name), ""), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR"])
def test_it_is_the_sessions_where_the_whole_folder_cannot_be_written(locked: Path, name: str) -> None:
    assert is_waited_for(OSError(getattr(errno, name), ""), locked)


def test_a_sub_folder_that_cannot_be_written_is_the_files_own_fault(locked: Path, tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path)
    for key in ("locked/a.mrc", "locked/deeper/a.mrc"):
        with pytest.raises(MicrographError, match=r"a_picks\.star: (Operation not permitted|Permission denied)") as it:
            outputs.write(Path(key), outputs.file_of(key), lambda file: write_atomically(file, "picks"))
        assert it.value.reason == "output"
    with pytest.raises(OSError, match="locked"):
        OutputFolder(locked).write(Path("a.mrc"), locked / "a.star", lambda file: write_atomically(file, "picks"))


def test_a_name_is_refused_from_the_first_byte_on_that_does_not_fit(tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path)
    longest = 255 - len("_picks.star")
    for name in ("a" * longest + ".mrc", "é" * (longest // 2) + ".mrc"):
        outputs.check_name(Path(name), f"x/{name}")
        outputs.write(
            Path(name), outputs.file_of(f"x/{name}"), lambda file: write_atomically(file, "")
        )  # nor is the temporary name too long
    for key in ("a" * (longest + 1) + ".mrc", "é" * (longest // 2 + 1) + ".mrc"):
        with pytest.raises(MicrographError, match=r"at most 255 bytes .* found one of 25[67]: shorten") as refused:
            outputs.check_name(Path(key), key)
        assert refused.value.reason == "name"
    with pytest.raises(MicrographError, match="a path of at most 4095 bytes"):
        outputs.check_name(Path("a"), "/".join(["d" * 200] * 20 + ["a.mrc"]))
    with pytest.raises(MicrographError, match="expected a file name in UTF-8"):
        outputs.check_name(Path("a"), "\udcff.mrc")


@pytest.mark.parametrize("name", ["a.mrc", "a.mrc.gz", "a.MRC.BZ2", "a.tif", "a.TIFF"])
def test_the_star_file_is_named_after_the_micrograph_whatever_its_format(name: str) -> None:
    assert OutputFolder(Path("out")).file_of(f"grid/{name}") == Path("out/grid/a_picks.star")


@given(st.text(min_size=1, max_size=90))
def test_the_temporary_name_is_short_and_hidden(name: str) -> None:
    aside = files._aside_name(f"{name}_picks.star")
    assert len(os.fsencode(aside)) <= len(f"{name}_picks.star".encode(errors="surrogateescape"))
    assert aside.startswith(".")
    assert aside.endswith(".tmp")


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.star").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "a.star", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.star"]


@given(
    st.text(alphabet="ab.Ä ", min_size=1, max_size=8),
    st.sampled_from([".mrc", ".MRC", ".Mrc", ".mrc.gz", ".MRC.gz", ".mrc.BZ2", ".tif", ".TIFF"]),
    st.sampled_from(["", "d/", "d/e.mrc/"]),
)
def test_namesakes_are_all_and_only_those_that_have_the_same_file(stem: str, ending: str, above: str) -> None:
    outputs = OutputFolder(Path("out"))
    key = f"{above}{stem}{ending}"
    others = namesakes(key)
    assert key not in others
    assert len(set(others)) == len(others)
    file = outputs.file_of(key)
    assert {outputs.file_of(other) for other in others} == {file}
    for other_ending in (".mrc", ".MRC", ".mRc", ".mrc.gz", ".MRC.GZ", ".tif", ".tiff", ".mrc.bz2"):
        other = f"{above}{stem}{other_ending}"
        assert (other in others) == (other != key)
    assert f"{above}{stem}x{ending}" not in others
