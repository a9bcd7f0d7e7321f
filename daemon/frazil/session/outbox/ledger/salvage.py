"""Salvage: every row that can still be read from a damaged ledger.

SQLite reads a table from its root down: one damaged page hides all that lies below it. The rows themselves lie in pages
that can be read each for itself, as https://www.sqlite.org/fileformat2.html describes them; so that is done here. What
was changed last lies in the write-ahead log.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Row", "read_rows"]

Row = tuple[object, ...]
"""The values of a row. That of a table with row numbers begins with its number, in place of the column that is one."""

_PAGE_BYTES = 4096
"""Of a ledger whose header does not say."""
_HEADER_BYTES = 100
_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MOST_BYTES = 1 << 28
"""No row is larger: what says so is damaged."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of a whole number, by its type."""


def read_rows(file: Path) -> Iterator[Row]:
    """Every row that can be read, of all tables and indexes, in the order of the pages."""
    pages = _Pages(file)
    skipped = pages.free_pages()
    for number in range(1, pages.count + 1):
        if number not in skipped and not pages.is_map(number):
            yield from _rows_of_page(pages, number)


class _Pages:
    """The pages of a database file, as they are with the committed ones of its write-ahead log."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as opened:
            is_empty = opened.seek(0, 2) == 0
            self._content = b"" if is_empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        log = file.with_name(f"{file.name}-wal")
        wal = log.read_bytes() if log.is_file() else b""
        self.size = self._page_bytes(wal)
        self.count = len(self._content) // self.size
        self._newer = self._committed(wal)

    def __getitem__(self, number: int) -> bytes:
        page = self._newer.get(number) or self._content[(number - 1) * self.size : number * self.size]
        if number < 1 or len(page) != self.size:
            raise ValueError(f"no page {number}")
        return page

    def free_pages(self) -> set[int]:
        """Pages that are in no use; what they hold was deleted."""
        free: set[int] = set()
        try:
            trunk = int.from_bytes(self[1][32:36])
            while trunk and trunk not in free:
                free.add(trunk)
                page = self[trunk]
                count = min(int.from_bytes(page[4:8]), self.size // 4 - 2)
                free.update(struct.unpack_from(f">{count}I", page, 8))
                trunk = int.from_bytes(page[:4])
        except ValueError:
            pass
        return free

    def is_map(self, number: int) -> bool:
        """Whether a page says of others what they are for."""
        return number >= 2 and (number - 2) % (self.size // 5 + 1) == 0

    def _page_bytes(self, wal: bytes) -> int:
        said = int.from_bytes(self._content[16:18])
        for size in (65536 if said == 1 else said, int.from_bytes(wal[8:12])):
            if 512 <= size <= 65536 and size & (size - 1) == 0:
                return size
        return _PAGE_BYTES

    def _committed(self, wal: bytes) -> dict[int, bytes]:
        newer: dict[int, bytes] = {}
        pending: dict[int, bytes] = {}
        salts = wal[16:24]
        step = _FRAME_HEADER_BYTES + self.size
        for at in range(_WAL_HEADER_BYTES, len(wal) - step + 1, step):
            number, pages_after_commit = struct.unpack_from(">II", wal, at)
            if wal[at + 8 : at + 16] != salts:
                continue  # of an earlier round of the log, or damaged
            pending[number] = wal[at + _FRAME_HEADER_BYTES : at + step]
            if pages_after_commit:
                newer.update(pending)
                pending.clear()
                self.count = pages_after_commit  # what lies behind was given back
        return newer


def _rows_of_page(pages: _Pages, number: int) -> Iterator[Row]:
    try:
        page = pages[number]
    except ValueError:
        return
    header = _HEADER_BYTES if number == 1 else 0
    kind = page[header]
    if kind not in (_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
        return
    pointers = header + (12 if kind == _INDEX_INTERIOR else 8)
    count = min(int.from_bytes(page[header + 3 : header + 5]), (pages.size - pointers) // 2)
    for cell in struct.unpack_from(f">{count}H", page, pointers):
        try:
            yield _row(pages, page, cell, kind)
        except (ValueError, IndexError, struct.error):
            continue


def _row(pages: _Pages, page: bytes, at: int, kind: int) -> Row:
    if kind == _INDEX_INTERIOR:
        at += 4
    length, at = _varint(page, at)
    row_number: Row = ()
    if kind == _LEAF:
        number, at = _varint(page, at)
        row_number = (number,)
    values = _values(_payload(pages, page, at, length, kind))
    # The column that is the number of the row is stored as nothing.
    return row_number + values[1:] if row_number and values and values[0] is None else values


def _payload(pages: _Pages, page: bytes, at: int, length: int, kind: int) -> bytes:
    """The bytes of a row; what does not fit into its page goes on in others, each naming the next."""
    if length > _MOST_BYTES:
        raise ValueError("too long")
    size = pages.size
    most = size - 35 if kind == _LEAF else (size - 12) * 64 // 255 - 23
    if length <= most:
        return page[at : at + length]
    least = (size - 12) * 32 // 255 - 23
    here = least + (length - least) % (size - 4)
    here = here if here <= most else least
    parts = [page[at : at + here]]
    left = length - here
    following = int.from_bytes(page[at + here : at + here + 4])
    while left > 0:
        page = pages[following]
        parts.append(page[4 : 4 + left])
        left -= size - 4
        following = int.from_bytes(page[:4])
    return b"".join(parts)


def _values(payload: bytes) -> Row:
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[object] = []
    for kind in kinds:
        size = 0
        if kind in _INTEGERS:
            size = _INTEGERS[kind]
            values.append(int.from_bytes(payload[at : at + size], signed=True))
        elif kind == 7:
            size = 8
            values.append(struct.unpack_from(">d", payload, at)[0])
        elif kind >= 12:
            size = (kind - 12) // 2
            content = payload[at : at + size]
            values.append(content.decode() if kind % 2 else content)
        elif kind in (8, 9):
            values.append(kind - 8)
        else:
            values.append(None)
        at += size
    if at != len(payload):
        raise ValueError("not a row")
    return tuple(values)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number of one to nine bytes, and where it ends."""
    value = 0
    for i in range(8):
        byte = content[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | content[at + 8], at + 9
