"""cryoSPARC's ``.cs`` files: one NumPy array of records, a record for each particle, in the ``.npy`` format.

A job writes what it made (``particles_selected.cs``) and, beside it, what its input had already
(``passthrough_particles_selected.cs``). Places, micrographs and shifts may be in either, so that files which are given
together are joined by the particles' ``uid``; a file of the micrographs is joined by ``location/micrograph_uid``. Only
particles that are in every file count.

``location/center_x_frac`` and ``location/center_y_frac`` are fractions of the micrograph's width and height, counted
from the first column and the first row of its MRC file: cryoSPARC draws that row at the bottom.
docs/reference/formats.md names the sources.

Files come from elsewhere, and nothing in them is trusted: no object is unpickled, and everything is bounded before
memory is asked for it.
"""

from __future__ import annotations

import ast
import io
import re
import struct
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import descr_to_dtype
from numpy.typing import NDArray

from frazil.errors import FrazilError, printable
from frazil.files import open_regular
from frazil.picking.coordinates.table import CoordinateTable
from frazil.picking.picks import Picks

__all__ = ["CsRecords", "read_cs", "read_records"]

_MAGIC, _STREAM_MAGIC = b"\x93NUMPY", b"\x95CSDAT"
_LARGEST_HEADER_BYTES = 1 << 18
_LARGEST_RECORD_BYTES = 1 << 16
_LARGEST_FILE_BYTES = 1 << 34
_MOST_RECORDS = 20_000_000
_MOST_MICROGRAPHS = 200_000
_LARGEST_TEXT_BYTES = 1 << 14
_BLOCK_BYTES = 1 << 24
_FOUND_LETTERS = 60
_HEADER_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, SyntaxError),
    *(ArithmeticError, RecursionError, MemoryError),
)
"""What Python and NumPy raise of a header that is none."""

_UID, _MICROGRAPH_UID = "uid", "location/micrograph_uid"
_X, _Y = "location/center_x_frac", "location/center_y_frac"
_PATH, _SHAPE, _PIXEL_SIZE = "location/micrograph_path", "location/micrograph_shape", "location/micrograph_psize_A"
_SCORE = "pick_stats/ncc_score"
_IMAGE_PIXEL_SIZE = "blob/psize_A"
_ALIGNMENTS = ("alignments3D", "alignments2D")
"""Those whose shifts are applied: the first that is there."""
_SHIFT = re.compile(r"alignments\w*/shift")
_OF_MICROGRAPHS = {
    "micrograph_blob/path": _PATH,
    "micrograph_blob/shape": _SHAPE,
    "micrograph_blob/psize_A": _PIXEL_SIZE,
}
"""Fields of a file of micrographs, and what they are called beside a particle."""

_UIDS = (_UID, _MICROGRAPH_UID)
_TEXTS = (_PATH, "micrograph_blob/path")
_PAIRS = (_SHAPE, "micrograph_blob/shape", *(f"{name}/shift" for name in _ALIGNMENTS))
_NUMBERS = (
    *(_X, _Y, _PIXEL_SIZE, "micrograph_blob/psize_A", _SCORE, _IMAGE_PIXEL_SIZE),
    *(f"{name}/psize_A" for name in _ALIGNMENTS),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsRecords:
    """What is needed of a file, or of several that were joined."""

    path: Path
    count: int
    columns: dict[str, NDArray[np.generic]]
    """By field, (n,) or (n, 2). Paths are indices into `names`."""
    names: dict[str, list[str]]
    """The values of the fields that hold paths."""

    @property
    def is_of_micrographs(self) -> bool:
        """Whether the records are micrographs, not particles."""
        return any(name in self.columns for name in _OF_MICROGRAPHS) and _X not in self.columns

    def select(self, rows: NDArray[np.intp]) -> CsRecords:
        """The records at the given indices."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return CsRecords(path=self.path, count=len(rows), columns=columns, names=dict(self.names))

    def uids(self, name: str) -> NDArray[np.uint64]:
        """(n,) the identifiers in a field.

        Raises:
            FrazilError: there is no such field.
        """
        if name not in self.columns:
            raise FrazilError(f"{self.path}: expected a field {name} to join it with the other files, found none")
        return self.columns[name].astype(np.uint64)

    def _as_floats(self, name: str) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a NaN that signals
            return self.columns[name].astype(np.float64)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(n,) or (n, 2) a field's numbers.

        Raises:
            FrazilError: one is not finite.
        """
        values = self._as_floats(name)
        if not np.isfinite(values).all():
            wrong = int(np.argwhere(~np.isfinite(values))[0, 0])
            found = f"{name} {values[wrong].tolist()} in record {wrong + 1}"
            raise FrazilError(f"{self.path}: expected numbers as coordinates, found {found}")
        return values

    def sizes(self, name: str) -> NDArray[np.float64] | None:
        """(n,) or (n, 2) a field's sizes, not a number where none was filled in; None without the field."""
        if name not in self.columns:
            return None
        values = self._as_floats(name)
        return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def read_cs(paths: Sequence[Path]) -> CoordinateTable:
    """Read particles from a ``.cs`` file, or from several that say different things of them.

    Raises:
        FrazilError: a file cannot be read, is no array of records, or holds Python objects; places are in none or in
            two of them; they have no particles in common; particles were aligned, and it is not clear how far from
            their places they lie.
    """
    particles = _join([read_records(path) for path in paths])
    micrographs = None
    if _PATH in particles.columns:
        names = particles.names[_PATH]
        micrographs = tuple(names[i] for i in particles.columns[_PATH].tolist())
    elif len(np.unique(particles.columns.get(_MICROGRAPH_UID, np.zeros(0)))) > 1:
        raise FrazilError(
            f"{particles.path}: expected the field {_PATH}, found particles of several micrographs without their "
            "names: give the file that has them too, such as passthrough_particles.cs"
        )
    shapes = particles.sizes(_SHAPE)
    return CoordinateTable(
        picks=Picks(
            y=particles.numbers(_Y),
            x=particles.numbers(_X),
            score=particles.numbers(_SCORE) if _SCORE in particles.columns else np.ones(particles.count),
        ),
        micrographs=micrographs,
        origins_angstrom=_origins(particles),
        pixel_sizes_angstrom=particles.sizes(_PIXEL_SIZE),
        pixel_size_name=_PIXEL_SIZE,
        fractions_of_px=np.full((particles.count, 2), np.nan) if shapes is None else shapes,
    )


def _join(files: Sequence[CsRecords]) -> CsRecords:
    """The particles that are in every file, with what the files say of them, in the order of the one with places."""
    with_places = [one for one in files if _X in one.columns and _Y in one.columns]
    if not with_places:
        where = "it" if len(files) == 1 else f"{len(files)} files"
        raise FrazilError(
            f"{files[0].path}: expected the fields {_X} and {_Y}, found none in {where}: give the other file of the "
            "particles too, such as passthrough_particles.cs beside particles.cs"
        )
    if len(with_places) > 1:
        names = " and ".join(one.path.name for one in with_places[:3])
        raise FrazilError(f"{with_places[0].path}: expected one file with {_X}, found {len(with_places)} ({names})")
    (particles,) = with_places
    for other in sorted(files, key=lambda one: one.is_of_micrographs):  # whose uids a file of particles may tell
        if other is not with_places[0]:
            particles = _add(particles, other)
    return particles


def _add(particles: CsRecords, other: CsRecords) -> CsRecords:
    """The particles that another file knows, or whose micrographs it knows, with what it says of them."""
    of_micrographs = other.is_of_micrographs
    own, known = particles.uids(_MICROGRAPH_UID if of_micrographs else _UID), other.uids(_UID)
    for path, uids in ((other.path, known), *([] if of_micrographs else [(particles.path, own)])):
        if len(np.unique(uids)) < len(uids):
            raise FrazilError(f"{path}: expected each uid once, to join it with the other files, found one twice")
    order = np.argsort(known)
    at = np.searchsorted(known, own, sorter=order)
    rows = np.flatnonzero(at < len(known))
    rows = rows[known[order[at[rows]]] == own[rows]]
    if len(rows) == 0 and particles.count:
        whose = "the micrographs" if of_micrographs else "the particles"
        raise FrazilError(
            f"{other.path}: expected {whose} of {particles.path.name}, found no uid of theirs: give files of one job"
        )
    more, particles = other.select(order[at[rows]]), particles.select(rows)
    for name, values in more.columns.items():
        its_name = _OF_MICROGRAPHS.get(name) if of_micrographs else name
        if its_name is not None and its_name not in particles.columns:
            particles.columns[its_name] = values
            if name in more.names:
                particles.names[its_name] = more.names[name]
    return particles


def _origins(particles: CsRecords) -> NDArray[np.float64] | None:
    """(n, 2) y, x by which each particle lies before its place, in Å, as its alignment found; None without one."""
    alignment = next((name for name in _ALIGNMENTS if f"{name}/shift" in particles.columns), None)
    if alignment != _ALIGNMENTS[0]:
        others = [name for name in particles.columns if _SHIFT.fullmatch(name) and name != f"{alignment}/shift"]
        moved = [name for name in others if particles.numbers(name).any()]
        if moved:
            raise FrazilError(
                f"{particles.path}: expected particles of one alignment, found shifts for each class ({moved[0]}): "
                "give the particles of one class"
            )
    if alignment is None:
        return None
    shifts = particles.numbers(f"{alignment}/shift")
    sizes = particles.sizes(f"{alignment}/psize_A")
    sizes = particles.sizes(_IMAGE_PIXEL_SIZE) if sizes is None else sizes
    sizes = np.full(particles.count, np.nan) if sizes is None else sizes
    moved_rows = shifts.any(axis=1)
    if np.isnan(sizes[moved_rows]).any():
        raise FrazilError(
            f"{particles.path}: {alignment}/shift moves particles by pixels of the aligned images; expected "
            f"{alignment}/psize_A or {_IMAGE_PIXEL_SIZE} to tell how large these are"
        )
    origins: NDArray[np.float64] = np.zeros((particles.count, 2))
    origins[moved_rows] = shifts[moved_rows][:, ::-1] * sizes[moved_rows, np.newaxis]
    return origins


def read_records(path: Path, more_numbers: Sequence[str] = (), *, most_records: int = _MOST_RECORDS) -> CsRecords:
    """Read what is needed of one file, block by block: it may be larger than the memory.

    Args:
        path: of the file.
        more_numbers: further fields of numbers that are kept where they are there.
        most_records: a file with more is refused.

    Raises:
        FrazilError: it cannot be read, is no array of records, or holds Python objects.
    """
    try:
        with io.BufferedReader(open_regular(path)) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _read_open(path, file, size, (*_NUMBERS, *more_numbers), most_records)
    except OSError as error:
        raise FrazilError(f"{path}: expected coordinates, cannot read them: {error.strerror}") from error


def _read_open(path: Path, file: io.BufferedIOBase, size: int, numbers: Sequence[str], most_records: int) -> CsRecords:
    if size > _LARGEST_FILE_BYTES:
        raise FrazilError(f"{path}: expected at most {_LARGEST_FILE_BYTES >> 30} GiB, found {size / 2**30:.1f} GiB")
    dtype, count = _read_header(path, file, most_records)
    expected = file.tell() + count * dtype.itemsize
    if size < expected:
        raise FrazilError(f"{path}: expected {expected} bytes for {count} records, found {size}: the file is cut short")
    wanted = _wanted_fields(path, dtype, numbers)
    blocks: dict[str, list[NDArray[np.generic]]] = {name: [] for name in wanted}
    codes: dict[str, dict[bytes | str, int]] = {name: {} for name in wanted if name in _TEXTS}
    in_block = max(1, _BLOCK_BYTES // dtype.itemsize)
    for start in range(0, max(1, count), in_block):
        records = min(in_block, count - start)
        content = bytearray(records * dtype.itemsize)
        if file.readinto(content) < len(content):
            raise FrazilError(f"{path}: expected {count} records, found the end of the file: it was cut short")
        rows = np.ndarray((records,), dtype, buffer=content)
        for name, found in blocks.items():
            values = rows[name]
            found.append(_encode(path, name, values, codes[name]) if name in codes else values.copy())
    return CsRecords(
        path=path,
        count=count,
        columns={name: np.concatenate(found) for name, found in blocks.items()},
        names={name: [_readable(text) for text in of_field] for name, of_field in codes.items()},
    )


def _read_header(path: Path, file: io.BufferedIOBase, most_records: int) -> tuple[np.dtype[np.void], int]:
    """The type of a record and the number of them; the file is at the first one then.

    Raises:
        FrazilError: it is no array of records, or one that cannot be read safely.
    """
    magic = file.read(len(_MAGIC))
    if magic == _STREAM_MAGIC:
        raise FrazilError(f"{path}: expected a NumPy array (.npy), found cryoSPARC's CSDAT stream: save it as an array")
    if magic != _MAGIC:
        raise FrazilError(f"{path}: expected cryoSPARC's records, a NumPy array (.npy), found other bytes")
    version = file.read(2)
    length_format = {b"\x01\x00": "<H", b"\x02\x00": "<I"}.get(version)
    if length_format is None:
        found = ".".join(map(str, version))
        raise FrazilError(f"{path}: expected version 1.0 or 2.0 of the .npy format, found {found or 'none'}")
    length_bytes = file.read(struct.calcsize(length_format))
    length = struct.unpack(length_format, length_bytes)[0] if len(length_bytes) == struct.calcsize(length_format) else 0
    if length > _LARGEST_HEADER_BYTES:
        raise FrazilError(f"{path}: expected a header of at most {_LARGEST_HEADER_BYTES} bytes, found {length}")
    header = file.read(length)
    if len(header) < length or not length:
        raise FrazilError(f"{path}: expected the header of a NumPy array, found the end of the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about what stands in the header
            said = ast.literal_eval(header.decode("latin-1").strip())
            descr, shape = said["descr"], said["shape"]
            dtype = descr_to_dtype(descr)
    except _HEADER_ERRORS as error:
        raise FrazilError(f"{path}: expected the header of a NumPy array, cannot read it") from error
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise FrazilError(
            f"{path}: expected numbers and text, found Python objects, which are never unpickled: "
            "save it with cryosparc-tools (Dataset.save)"
        )
    if dtype.names is None or not (isinstance(shape, tuple) and len(shape) == 1 and type(shape[0]) is int):
        raise FrazilError(f"{path}: expected a list of records with named fields, found another array")
    if not 0 < dtype.itemsize <= _LARGEST_RECORD_BYTES:
        raise FrazilError(
            f"{path}: expected records of 1 to {_LARGEST_RECORD_BYTES} bytes, found {dtype.itemsize} bytes"
        )
    if not 0 <= shape[0] <= most_records:
        raise FrazilError(f"{path}: expected at most {most_records} records, found {shape[0]}")
    return dtype, shape[0]


def _wanted_fields(path: Path, dtype: np.dtype[np.void], numbers: Sequence[str]) -> dict[str, np.dtype[np.generic]]:
    """The types of those fields that matter, by name.

    Raises:
        FrazilError: one is of another type than cryoSPARC's.
    """
    wanted = {}
    for name in dtype.names or ():
        shape: tuple[int, ...] | None = ()
        if name in _UIDS:
            kinds, what = "iu", "whole numbers"
        elif name in _TEXTS:
            kinds, what = "SU", "text"
        elif name in numbers:
            kinds, what = "iuf", "numbers"
        elif name in _PAIRS:
            kinds, what, shape = "iuf", "pairs of numbers", (2,)
        elif _SHIFT.fullmatch(name):
            kinds, what, shape = "iuf", "numbers", None
        else:
            continue
        found = dtype[name]
        is_long = found.base.kind in "SU" and found.itemsize > _LARGEST_TEXT_BYTES
        if found.base.kind not in kinds or (shape is not None and found.shape != shape) or is_long:
            raise FrazilError(f"{path}: expected {what} in {name}, found {str(found)[:_FOUND_LETTERS]}")
        wanted[name] = found
    return wanted


def _encode(path: Path, name: str, values: NDArray[np.generic], codes: dict[bytes | str, int]) -> NDArray[np.intp]:
    """(n,) an index for each text; new texts are added to the indices."""
    if values.dtype.kind == "U" and values.dtype.itemsize:
        # NumPy would make strings of code points that there are not, and Python may crash on these.
        points = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if points.max(initial=0) > sys.maxunicode:
            raise FrazilError(f"{path}: expected text in {name}, found something else")
    found, inverse = np.unique(values, return_inverse=True)
    texts: list[bytes | str] = found.tolist()
    index = np.array([codes.setdefault(text, len(codes)) for text in texts], np.intp)
    if len(codes) > _MOST_MICROGRAPHS:
        raise FrazilError(f"{path}: expected at most {_MOST_MICROGRAPHS} micrographs in {name}, found more")
    of_each: NDArray[np.intp] = index[inverse.reshape(-1)]
    return of_each


def _readable(text: bytes | str) -> str:
    """A path as it can be shown; files that cryoSPARC exported have a > before it."""
    path = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return printable(path.removeprefix(">"))
