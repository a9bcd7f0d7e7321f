"""What EPU writes down of an exposure: the grid square and foil hole in its names, and the XML beside each image.

EPU's tree is ``Images-Disc1/GridSquare_<id>/Data/FoilHole_<hole>_Data_<area>_<image>_<date>_<time>.xml``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, iterparse

from frazil.documents import Place
from frazil.files import open_regular

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["data_folders", "exposure_name", "hole_of", "read_exposure", "square_of"]

_LARGEST_XML_BYTES = 1 << 20
"""EPU's are of 10 to 100 kB."""
_MOST_ELEMENTS = 20_000
_DEEPEST = 64
"""EPU's lie some ten elements inside each other."""
# EPU before 2.0 gave hours and minutes alone, and the frames a number behind a hyphen, which the XML has not.
_EXPOSURE = re.compile(r"FoilHole_([0-9]{1,20})_Data_[0-9]{1,20}_[0-9]{1,20}_[0-9]{8}_(?:[0-9]{6}|[0-9]{4}(?![0-9]))")
_SQUARE = re.compile(r"GridSquare_([0-9]{1,20})")
_MOST_FOLDERS = 5_000
_FARTHEST_UM = 5_000.0
"""A stage moves by a millimetre and a half; a number beyond this is no position."""


def exposure_name(name: str) -> str | None:
    """The name that EPU gave an exposure, out of that of a file made from it; None where it is not EPU's.

    >>> exposure_name("FoilHole_7_Data_1_2_20261128_101500_fractions_DW.mrc")
    'FoilHole_7_Data_1_2_20261128_101500'
    """
    found = _EXPOSURE.search(name)
    return found[0] if found else None


def hole_of(name: str) -> str:
    """Number of the foil hole in the name of an exposure; empty where there is none."""
    found = _EXPOSURE.search(name)
    return found[1] if found else ""


def square_of(path: Path) -> str:
    """Number of the grid square in a path; empty where no folder has one."""
    for part in reversed(path.parts):
        if found := _SQUARE.fullmatch(part):
            return found[1]
    return ""


def data_folders(metadata: Path) -> Iterator[Path]:
    """Folders of an EPU session in which there may be XML of exposures, its newest grid squares first.

    Raises:
        OSError: they cannot be listed.
    """
    roots = [metadata, *sorted(metadata.glob("Images-Disc*"))]
    squares = [
        folder for root in roots for folder in _at_most(root.glob("GridSquare_*")) if _SQUARE.fullmatch(folder.name)
    ]
    newest_first = sorted(squares, key=lambda one: (len(one.name), one.name), reverse=True)
    yield from (folder / "Data" for folder in newest_first)
    yield metadata


def _at_most(folders: Iterator[Path]) -> Iterator[Path]:
    for _, folder in zip(range(_MOST_FOLDERS), folders, strict=False):
        yield folder


def read_exposure(file: Path) -> Place:
    """The place of an exposure, from EPU's XML of it; what is missing or no sane number is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no XML of an image; the message says what was expected and found.
    """
    with open_regular(file) as opened:
        content = opened.read(_LARGEST_XML_BYTES + 1)
    if len(content) > _LARGEST_XML_BYTES:
        raise ValueError(f"{file}: expected XML of at most {_LARGEST_XML_BYTES} bytes, found more")
    try:
        root = _parse(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ValueError(f"{file}: expected EPU's XML of an image, found otherwise: {error}") from error
    if _local(root) != "MicroscopeImage":
        raise ValueError(f"{file}: expected EPU's MicroscopeImage, found {_local(root)[:80]!r}")
    stage = _find(root, "microscopeData", "stage", "Position")
    # Not BeamShift, whose unit EPU does not say.
    shift = _find(root, "microscopeData", "optics", "ImageShift")
    asked = _custom(root, "AppliedDefocus")
    return Place(
        square=square_of(file),
        hole=hole_of(file.name),
        stage_x_um=_micrometres(_text(stage, "X")),
        stage_y_um=_micrometres(_text(stage, "Y")),
        image_shift_x_um=_micrometres(_text(shift, "_x")),
        image_shift_y_um=_micrometres(_text(shift, "_y")),
        # EPU counts underfocus below 0.
        asked_defocus_um=None if (defocus := _micrometres(asked)) is None else abs(defocus),
        taken_at=_utc(_text(_find(root, "microscopeData", "acquisition"), "acquisitionDateTime")),
    )


def _parse(content: bytes) -> Element:
    """The root of a document; more elements than any of EPU's has are refused before they take memory.

    Raises:
        ParseError: it is no XML.
        DefusedXmlException: it has a document type, by which it could swell or reach out.
        ValueError: it has too many elements, or lies too deep.
    """
    root: Element | None = None
    elements = depth = 0
    for event, element in iterparse(io.BytesIO(content), events=("start", "end"), forbid_dtd=True):
        if event == "end":
            depth -= 1
            continue
        root = element if root is None else root
        elements, depth = elements + 1, depth + 1
        if elements > _MOST_ELEMENTS or depth > _DEEPEST:
            raise ValueError(f"more than {_MOST_ELEMENTS} elements, or {_DEEPEST} inside each other")
    if root is None:
        raise ValueError("no element")
    return root


def _local(element: Element) -> str:
    """The name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _find(element: Element | None, *names: str) -> Element | None:
    for name in names:
        element = None if element is None else next((child for child in element if _local(child) == name), None)
    return element


def _text(element: Element | None, name: str) -> str:
    found = _find(element, name)
    return "" if found is None or found.text is None else found.text.strip()


def _custom(root: Element, key: str) -> str:
    """A value of EPU's list of keys and values."""
    for pair in _find(root, "CustomData") or ():
        if _text(pair, "Key") == key:
            return _text(pair, "Value")
    return ""


def _micrometres(metres: str) -> float | None:
    """Micrometres of a number of metres; None where it is none, or none of a microscope."""
    try:
        value = float(metres) * 1e6
    except ValueError:
        return None
    return round(value, 6) if math.isfinite(value) and abs(value) <= _FARTHEST_UM else None


def _utc(text: str) -> str:
    """A time of EPU, of seven decimals, as RFC 3339; empty where it is none, or has no zone."""
    try:
        at = datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text))
        return "" if at.tzinfo is None else at.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):  # in the years 1 and 9999 there is no day before, or after
        return ""
