"""Outputs: a folder of files, each named after a micrograph, and the faults of writing them.

The daemon, ``frazil pick`` and ``frazil listen --to`` name files by one rule: the tree below the folder mirrors the
watched one, and a file is named after its micrograph without the ending. So ``a.mrc``, ``a.MRC`` and ``a.tif`` share
one name.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from frazil.errors import MicrographError, OutputError, printable
from frazil.faults import is_waited_for, prove_writable, reason_of
from frazil.files import PickFileFormat
from frazil.paths import is_utf8
from frazil.picking import MICROGRAPH_ENDINGS, micrograph_stem

__all__ = ["PICK_FILE_ENDINGS", "OutputFolder", "namesakes"]

PICK_FILE_ENDINGS: dict[PickFileFormat, str] = {
    "star": "_picks.star",
    "relion": "_autopick.star",
    "box": ".box",
    "cbox": ".cbox",
    "topaz": ".txt",
    "csv": ".csv",
    "json": ".json",
}
"""Ending of the pick file of a micrograph, after the micrograph's stem. ``cryosparc`` has one file for all."""

_LONGEST_NAME_BYTES = 255
_LONGEST_PATH_BYTES = 4095


class OutputFolder:
    """A folder for files of one kind. A micrograph is named by its key, its path below the watched directory.

    Args:
        path: the folder. It is made when the first file is written.
        ending: ending of the files, after the micrograph's stem.
    """

    def __init__(self, path: Path, ending: str = PICK_FILE_ENDINGS["star"]) -> None:
        self.path = path
        self._ending = ending

    def prepare(self) -> None:
        """Make the folder, and check that it can be written.

        Raises:
            OutputError: the folder cannot be made or written.
        """
        try:
            prove_writable(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: expected a directory that can be written: {reason_of(error)}") from error

    def file_of(self, key: str) -> Path:
        """The pick file of a micrograph."""
        below = Path(key)
        return self.path / below.with_name(f"{micrograph_stem(below.name)}{self._ending}")

    def check_name(self, micrograph: Path, key: str) -> None:
        """Check, before a micrograph is picked, that a file with the name of its pick file can exist.

        Raises:
            MicrographError: the key is no file name in UTF-8, or too long.
        """
        if not Path(key).name:
            raise MicrographError(micrograph, "not_a_file", "expected a file, found a directory")
        if not is_utf8(key):
            raise MicrographError(micrograph, "name", "expected a file name in UTF-8")
        file = self.file_of(key)
        limit = _longest_name_bytes(self.path)
        longest = max(len(os.fsencode(part)) for part in file.relative_to(self.path).parts)
        if longest > limit:
            raise MicrographError(
                micrograph,
                "name",
                f"expected a name whose file of picks has at most {limit} bytes in its name in {self.path}, "
                f"found one of {longest}: shorten the micrograph's name",
            )
        if (found := len(os.fsencode(file))) > _LONGEST_PATH_BYTES:
            raise MicrographError(
                micrograph,
                "name",
                f"expected a path of at most {_LONGEST_PATH_BYTES} bytes for its file of picks, found one of {found}",
            )

    def write(self, micrograph: Path, file: Path, write: Callable[[Path], None]) -> None:
        """Write the file of a micrograph, and make the folders above it.

        Raises:
            MicrographError: this file can never be written, but others can.
            OSError: no file can be written at present.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            other = _taken_for(file)
            if other is None:
                write(file)
        except OSError as error:
            if is_waited_for(error, self.path):
                raise
            raise MicrographError(
                micrograph,
                "output",
                f"its picks cannot be written to {file}: {_describe(error, file)}; mend that, then frazil requeue",
            ) from error
        except ValueError as error:  # names from the network may hold what no file system takes
            raise MicrographError(micrograph, "output", f"its picks cannot be written to {file}: {error}") from error
        if other is not None:
            raise MicrographError(
                micrograph,
                "output",
                f"expected a name of its own, found that the file system takes {printable(file.name)} for {other}",
            )


def namesakes(key: str) -> list[str]:
    """The keys of all other micrographs that would have the same pick file."""
    above, slash, name = key.rpartition("/")
    stem = micrograph_stem(name)
    return [other for ending in _ENDINGS if (other := f"{above}{slash}{stem}{ending}") != key]


_ENDINGS = tuple(
    "".join(letters)
    for ending in MICROGRAPH_ENDINGS
    for letters in itertools.product(*({c, c.upper()} for c in ending))
)
"""In every mixture of small letters and capitals."""


def _longest_name_bytes(folder: Path) -> int:
    """Longest name that the file system allows; some allow less than others (eCryptfs 143)."""
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        return _LONGEST_NAME_BYTES
    return limit if limit > 0 else _LONGEST_NAME_BYTES


def _describe(error: OSError, file: Path) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"expected a folder at {file.parent}, found something else"
    return reason_of(error)


def _taken_for(file: Path) -> str | None:
    """Name of another file that a case-insensitive file system takes for this one; None as a rule."""
    if not file.exists() or not file.with_name(file.name.swapcase()).exists():
        return None
    same = [name for name in os.listdir(file.parent) if name.casefold() == file.name.casefold()]  # noqa: PTH208
    return None if file.name in same else next(iter(same), None)
