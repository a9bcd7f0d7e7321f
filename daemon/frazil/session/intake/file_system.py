"""The file system of the watched directory: its type, and whether it is still mounted."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileSystem", "check_root"]

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb3|smbfs|fuse(\..*)?|gpfs|lustre|9p|virtiofs|vboxsf|prl_fs|ceph|afs|beegfs|orangefs|pvfs2|panfs"
    r"|wekafs|gfs2|ocfs2|ncpfs|coda"
)
"""Types on which a file written by another machine makes no event here."""
_EXACT_FOLDER_TIMES = re.compile(r"nfs\d?|gpfs|lustre|ceph")
"""Those of them on which a folder's time changes whenever a name in it appears or disappears."""
_FILLS_HOLES_BY_ITSELF = re.compile(r"zfs")
"""Types that store zeros as holes, so that a hole does not mean "not yet written"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """A mounted file system."""

    kind: str
    """The kernel's name of the type: ``ext4``, ``nfs4``, ``fuse.sshfs`` ..."""
    mount_point: str

    @classmethod
    def of(cls, path: Path, mounts: Path = _MOUNTS) -> FileSystem:
        """The file system of a path; an unknown local one if the table of mounts cannot be read.

        Args:
            path: absolute path without links.
            mounts: the system's table of mounts.
        """
        found = cls(kind="unknown", mount_point="/")
        try:
            lines = os.fsdecode(mounts.read_bytes()).splitlines()
        except OSError:
            return found
        for line in lines:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            if len(fields) < 5 or not after:
                continue
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            # Of several mounts on one mount point, the last one is visible.
            if path.is_relative_to(point) and len(point) >= len(found.mount_point):
                found = cls(kind=after.split(" ")[0], mount_point=point)
        return found

    @property
    def is_network(self) -> bool:
        """Whether files can appear without an event."""
        return _NETWORK.fullmatch(self.kind) is not None and self.kind != "fuseblk"

    @property
    def has_exact_folder_times(self) -> bool:
        """Whether an unchanged time of a folder proves that its names are unchanged."""
        return not self.is_network or _EXACT_FOLDER_TIMES.fullmatch(self.kind) is not None

    @property
    def shows_holes(self) -> bool:
        """Whether a hole in a file means that this part was never written."""
        return _FILLS_HOLES_BY_ITSELF.fullmatch(self.kind) is None


def check_root(root: Path, usual_mount_point: str) -> os.stat_result:
    """Check that the watched directory is there, on its usual file system.

    Args:
        root: the watched directory.
        usual_mount_point: mount point of its usual file system; empty if unknown.

    Returns:
        The status of the directory.

    Raises:
        OSError: the directory is missing or cannot be listed, or its file system is no longer mounted, so that only
            an empty mount point is left.
    """
    status = root.stat()
    with os.scandir(root) as entries:
        is_empty = next(entries, None) is None
    if is_empty:
        now = FileSystem.of(root).mount_point
        if len(now) < len(usual_mount_point):
            raise OSError(errno.ENOTCONN, f"nothing is mounted on {usual_mount_point}")
    return status
