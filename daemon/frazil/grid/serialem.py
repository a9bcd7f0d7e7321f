"""What SerialEM writes down of an exposure: the mdoc beside its frames, and the navigator's file.

Both are lines of ``Key = value`` in sections ``[Kind = name]``
(https://bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from frazil.documents import Place
from frazil.files import open_regular

__all__ = ["NavigatorItem", "mdoc_names", "read_mdoc", "read_navigator"]

_LARGEST_MDOC_BYTES = 1 << 20
_LARGEST_NAVIGATOR_BYTES = 64 << 20
_MOST_ITEMS = 200_000
_FARTHEST_UM = 5_000.0
_MAP = "2"
"""Type of a navigator item that is a map."""
_AFTER = re.compile(r"(_fractions|_frames|_aligned|_ali|_DWS?|_doseweighted|_patch|_rigid|_mcorr)+$", re.IGNORECASE)
_FRAMES = (".tif", ".mrc", ".eer", ".tiff", ".mrcs")


class NavigatorItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the navigator, as far as it says where something lies."""

    label: str
    is_map: bool
    map_id: str = ""
    drawn_id: str = ""
    """Identity of the map on which it was drawn."""


def mdoc_names(name: str) -> list[str]:
    """Names that the mdoc of a micrograph may have, by the name of the micrograph or of its frames."""
    stem = name.rpartition(".")[0] or name
    stems = dict.fromkeys((stem, _AFTER.sub("", stem)))
    return [f"{name}.mdoc", *(f"{one}{ending}.mdoc" for one in stems for ending in (*_FRAMES, ""))]


def read_mdoc(file: Path, navigator: dict[str, NavigatorItem]) -> Place:
    """The place of an exposure, from its mdoc; what is missing or no sane number is left out.

    Args:
        file: the mdoc of one exposure.
        navigator: items by their labels, which say on which map of a square a point was drawn.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no mdoc; the message says what was expected and found.
    """
    values: dict[str, str] = {}
    for kind, _, found in _sections(file, _LARGEST_MDOC_BYTES):
        if kind in ("", "ZValue", "FrameSet"):
            values |= found
        if kind in ("ZValue", "FrameSet"):  # the first exposure
            break
    if not values:
        raise ValueError(f"{file}: expected an mdoc of SerialEM, found no line of `Key = value`")
    x, y = _pair(values.get("StagePosition", ""))
    shift_x, shift_y = _pair(values.get("ImageShift", ""))
    asked, _ = _pair(values.get("TargetDefocus", "") + " 0")
    label = values.get("NavigatorLabel", "")[:200]
    hole = values.get("MultishotHoleAndPosition", "").split()
    item = navigator.get(label)
    square = "" if item is None else next((one.label for one in navigator.values() if _is_map_of(one, item)), "")
    return Place(
        square=square,
        # One number of the hole, or two in a square pattern; the last one is the position in it.
        hole=f"{label}:{','.join(hole[:-1])[:40]}" if len(hole) > 1 else label,
        stage_x_um=x,
        stage_y_um=y,
        image_shift_x_um=shift_x,
        image_shift_y_um=shift_y,
        asked_defocus_um=None if asked is None else abs(asked),  # SerialEM counts underfocus below 0
    )


def read_navigator(file: Path) -> dict[str, NavigatorItem]:
    """The items of a navigator's file, by their labels.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large.
    """
    items: dict[str, NavigatorItem] = {}
    for kind, name, values in _sections(file, _LARGEST_NAVIGATOR_BYTES):
        if kind == "Item" and len(items) < _MOST_ITEMS:
            items[name] = NavigatorItem(
                label=name,
                is_map=values.get("Type") == _MAP,
                map_id=values.get("MapID", ""),
                drawn_id=values.get("DrawnID", ""),
            )
    return items


def _is_map_of(one: NavigatorItem, item: NavigatorItem) -> bool:
    return one.is_map and bool(item.drawn_id) and one.map_id == item.drawn_id


def _sections(file: Path, largest_bytes: int) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Kind, name and values of each section; those before the first one have neither kind nor name."""
    with open_regular(file) as opened:
        content = opened.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"{file}: expected at most {largest_bytes} bytes, found more")
    kind, name, values = "", "", dict[str, str]()
    for line in content.decode("utf-8", "replace").splitlines():
        text = line.strip()
        key, equals, value = text.strip("[]").partition("=")
        if not equals:
            continue
        if text.startswith("["):
            yield kind, name, values
            kind, name, values = key.strip(), value.strip()[:200], {}
        else:
            values[key.strip()] = value.strip()
    yield kind, name, values


def _pair(text: str) -> tuple[float | None, float | None]:
    """Two numbers in µm; None for both where they are none, or none of a microscope."""
    try:
        first, second = (float(part) for part in text.split()[:2])
    except ValueError:
        return None, None
    sane = all(math.isfinite(one) and abs(one) <= _FARTHEST_UM for one in (first, second))
    return (first, second) if sane else (None, None)
