"""The file system under the watched tree: its kind, and its going away."""

from __future__ import annotations

from pathlib import Path

import pytest

from frazil.session.intake.file_system import FileSystem, check_root

MOUNTS = r"""22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:50 / /data rw - nfs4 server:/export rw,vers=4.2
41 40 0:51 / /data/local rw - xfs /dev/sdb rw
42 27 0:52 / /mnt/with\040space rw shared:5 master:1 - fuse.sshfs me@host: rw
43 27 0:53 / /over rw - autofs systemd-1 rw
44 43 0:54 / /over rw - cifs //host/share rw
45 27 0:55 / /pool rw - zfs pool rw
malformed line
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS)
    return file


@pytest.mark.parametrize(
    ("path", "kind", "is_network", "exact_times"),
    [
        ("/home/x", "ext4", False, True),
        ("/data/session", "nfs4", True, True),
        ("/data/local/session", "xfs", False, True),
        ("/database", "ext4", False, True),
        ("/mnt/with space/a", "fuse.sshfs", True, False),
        ("/over/session", "cifs", True, False),
    ],
)
def test_the_mount_nearest_above_a_path_tells_its_kind(
    mounts: Path, path: str, kind: str, is_network: bool, exact_times: bool
) -> None:
    found = FileSystem.of(Path(path), mounts)
    assert (found.kind, found.is_network, found.has_exact_folder_times) == (kind, is_network, exact_times)


def test_a_file_system_that_makes_holes_of_zeros_says_so(mounts: Path) -> None:
    assert not FileSystem.of(Path("/pool/x"), mounts).shows_holes
    assert FileSystem.of(Path("/home"), mounts).shows_holes


def test_without_a_table_of_mounts_the_file_system_counts_as_local(tmp_path: Path) -> None:
    assert not FileSystem.of(tmp_path, tmp_path / "none").is_network


def test_an_empty_mount_point_is_no_empty_directory(tmp_path: Path) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    check_root(root, FileSystem.of(root).mount_point)
    with pytest.raises(OSError, match=f"nothing is mounted on {root}"):
        check_root(root, str(root))
    (root / "file").touch()  # somebody uses it as an ordinary directory
    check_root(root, str(root))
