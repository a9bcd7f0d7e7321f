"""Likeness: whether a micrograph has the shape and pixel size of its session's, or is a picture of another kind.

A microscope writes overviews and references beside its exposures, and no list of names is ever complete. The session's
kind is the first on which three micrographs agree; until then every micrograph is picked. After that, one is unlike the
session's if a side differs by more than a tenth, or the pixel size by more than a twentieth. Sides are compared longer
with longer: a camera may be read out turned. A pixel size that is not known is like any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from frazil.health.logs import event
from frazil.picking import ImageClaims

__all__ = ["Likeness"]

log = logging.getLogger(__name__)

_AGREEING = 3
_SIDE_DIFFERENCE = 0.1
_PIXEL_SIZE_DIFFERENCE = 0.05


class _Kind(msgspec.Struct):
    """Shape and pixel size, and the micrographs that were the first to have them."""

    shape: tuple[int, int]
    pixel_size_angstrom: float | None
    keys: list[str] = []
    is_accepted: bool = False

    def is_like(self, claims: ImageClaims) -> bool:
        sides = zip(sorted(self.shape), sorted(claims.shape), strict=True)
        return all(_agree(a, b, _SIDE_DIFFERENCE) for a, b in sides) and (
            self.pixel_size_angstrom is None
            or claims.pixel_size_angstrom is None
            or _agree(self.pixel_size_angstrom, claims.pixel_size_angstrom, _PIXEL_SIZE_DIFFERENCE)
        )

    def describe(self) -> str:
        h, w = self.shape
        size = "unknown size" if self.pixel_size_angstrom is None else f"{self.pixel_size_angstrom:.3g} Å"
        return f"{w} x {h} pixels of {size}"


class Likeness:
    """Knows the kinds of micrograph that a session has. Used from one thread.

    Args:
        remembered: what an earlier run remembered; empty without one.
        remember: called with a text for the next run, when the kinds have changed.
    """

    def __init__(self, remembered: str = "", remember: Callable[[str], None] = lambda _: None) -> None:
        self._remember = remember
        self._kinds: list[_Kind] = []
        self._told: list[_Kind] = []
        if remembered:
            try:
                self._kinds = msgspec.json.decode(remembered, type=list[_Kind])
            except msgspec.MsgspecError as error:
                log.warning("the shape and pixel size of earlier micrographs cannot be read: %s", error)

    def judge(self, key: str, claims: ImageClaims, *, requested: bool = False) -> str:
        """Why a micrograph is unlike the session's, as a line; empty if it is like them.

        Args:
            key: path of the micrograph below the watched directory.
            claims: of its header.
            requested: whether somebody wants it picked. Then its kind is one of the session's from now on.
        """
        accepted = [kind for kind in self._kinds if kind.is_accepted]
        if any(kind.is_like(claims) for kind in accepted):
            return ""
        if accepted and not requested:
            found = _Kind(claims.shape, claims.pixel_size_angstrom)
            says = (
                f"held: expected {' or '.join(kind.describe() for kind in accepted)}, as the session's, "
                f"found {found.describe()}"
            )
            if not any(kind.is_like(claims) for kind in self._told):
                self._told.append(found)
                log.warning(
                    "%s: %s; others of its kind are held as well. To pick them: frazil requeue %s",
                    *(key, says, key),
                    extra=event("held", file=key),
                )
            return says
        self._count(key, claims, requested=requested)
        return ""

    def _count(self, key: str, claims: ImageClaims, *, requested: bool) -> None:
        kind = next((kind for kind in self._kinds if kind.is_like(claims)), None)
        if kind is None:
            kind = _Kind(claims.shape, claims.pixel_size_angstrom)
            self._kinds.append(kind)
        if key not in kind.keys:
            kind.keys.append(key)
        if requested or len(kind.keys) >= _AGREEING:
            kind.is_accepted = True
            self._kinds = [kind for kind in self._kinds if kind.is_accepted]
        self._remember(msgspec.json.encode(self._kinds).decode())


def _agree(one: float, other: float, difference: float) -> bool:
    return abs(one - other) <= difference * max(one, other)
