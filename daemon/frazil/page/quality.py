"""The quality of micrographs: of one, with its reasons and its spectrum, and of the session, in counts and plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.documents import CtfFit, MicrographDocument, QualityDocument
from frazil.page.answers import NotHereError, asked_seq, json_answer
from frazil.page.listing import Listing
from frazil.page.pictures import PictureError
from frazil.page.session import Session
from frazil.page.spectra import Spectra
from frazil.page.worker import Worker
from frazil.picking import Micrograph

__all__ = ["QualityDesk"]

_MOST_POINTS = 240
_BINS = 30
_SPECTRA_WAITING = 16
_FOR_A_DAY = "private, max-age=86400, immutable"
_PLOTTED = ("picks", "defocus_um", "resolution_angstrom", "ice", "junk", "precision")


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity over the session; columns go with those of the whole."""

    known: int
    """Micrographs of which it is known."""
    middle: list[float | None]
    """A group's median; None where it is not known of any."""
    lowest: list[float | None]
    """A group's tenth percentile."""
    highest: list[float | None]
    """A group's ninetieth percentile."""
    first_bin: float
    """Lower edge of the first bin."""
    last_bin: float
    """Upper edge of the last one."""
    counts: list[int]
    """Micrographs in each bin."""


class Qualities(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of a session's micrographs. Columns have an entry for each, or for each group of neighbours."""

    grades: dict[str, int]
    """Number of micrographs of each grade."""
    categories: dict[str, int]
    """Number of micrographs of which something is wrong, by what it is."""
    unassessed: int
    """Micrographs with picks that wait to be assessed."""
    number: list[float]
    """Of a micrograph in the order of time, from 1; a group's middle."""
    at: list[float]
    """In seconds of Unix time; a group's middle."""
    seq: list[int]
    """Of the first result of a group."""
    quantities: dict[str, Quantity]


class QualityDesk:
    """Answers what is asked of quality.

    Args:
        session: whose ledger is read.
        worker: for what the ledger takes.
        read: reads a micrograph, within limits of memory and time.
        listing: of the same session.
    """

    def __init__(self, session: Session, worker: Worker, read: Callable[[Path], Micrograph], listing: Listing) -> None:
        self._session = session
        self._worker = worker
        self._listing = listing
        self._spectra = Spectra(read)
        self._draughtsman = Worker("frazil-page-spectra", _SPECTRA_WAITING)
        self._known: tuple[int, bytes] | None = None
        self.routes = [
            Route("/api/quality", self._of_one),
            Route("/api/qualities", self._of_all),
            Route("/api/spectrum/{seq:int}", self._spectrum),
        ]

    def close(self) -> None:
        """End the thread that draws spectra."""
        self._draughtsman.close()

    async def _of_one(self, request: Request) -> Response:
        path = request.query_params.get("path", "")

        def find() -> bytes:
            record = self._session.reader.quality(path)
            stored = None if record is None else self._session.reader.document(record.seq)
            return msgspec.json.encode({"quality": None if stored is None else stored.decode()})

        return json_answer(await self._worker.run(find))

    async def _of_all(self, _: Request) -> Response:
        return json_answer(await self._worker.run(self._all))

    def _all(self) -> bytes:
        changes = self._session.reader.changes()
        if self._known is None or self._known[0] != changes:
            self._known = changes, msgspec.json.encode(self._gather())
        return self._known[1]

    def _gather(self) -> Qualities:
        reader, measured = self._session.reader, self._listing.qualities()
        grades: dict[str, int] = {"good": 0, "doubtful": 0, "bad": 0}
        categories: dict[str, int] = {}
        for (grade, category), count in reader.grades().items():
            grades[grade] += count
            if category:
                categories[category] = categories.get(category, 0) + count
        places = np.arange(measured.size)
        groups = [g for g in np.array_split(places, min(_MOST_POINTS, max(1, measured.size))) if g.size]
        return Qualities(
            grades=grades,
            categories=dict(sorted(categories.items(), key=lambda one: -one[1])),
            unassessed=reader.unassessed(),
            number=[float(g.mean()) + 1 for g in groups],
            at=[float(np.median(measured["at"][g])) for g in groups],
            seq=[int(measured["seq"][g[0]]) for g in groups],
            quantities={name: _quantity(measured[name], groups) for name in _PLOTTED},
        )

    async def _spectrum(self, request: Request) -> Response:
        seq, epoch = asked_seq(request), request.query_params.get("epoch", "")

        def find() -> tuple[CtfFit, MicrographDocument]:
            stored = self._session.reader.document(seq) if epoch in ("", self._session.epoch) else None
            assessment = None if stored is None else stored.decode()
            if not isinstance(assessment, QualityDocument) or not assessment.ctf:
                raise NotHereError(f"expected the number of an assessment with a CTF, found {seq}")
            picks = self._session.reader.document(assessment.of)
            document = None if picks is None else picks.decode()
            if not isinstance(document, MicrographDocument):
                raise NotHereError("expected the picks that were assessed in the ledger: they were archived")
            return assessment.ctf, document

        fit, document = await self._worker.run(find)
        try:
            picture = await self._draughtsman.run(lambda: self._spectra.of(seq, fit, document))
        except PictureError as error:
            raise NotHereError(str(error)) from error
        return Response(picture, media_type="image/png", headers={"cache-control": _FOR_A_DAY})


def _quantity(values: NDArray[np.float64], groups: list[NDArray[np.intp]]) -> Quantity:
    known = values[np.isfinite(values)]
    first, last = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if first == last:
        last = first + 1
    counts, _ = np.histogram(known, _BINS, (first, last))
    spread: list[list[float | None]] = []
    for group in groups:
        some = values[group][np.isfinite(values[group])]
        spread.append(np.percentile(some, [50, 10, 90]).round(4).tolist() if some.size else [None, None, None])
    middle, lowest, highest = ([one[k] for one in spread] for k in range(3))
    return Quantity(
        known=int(known.size),
        middle=middle,
        lowest=lowest,
        highest=highest,
        first_bin=round(first, 4),
        last_bin=round(last, 4),
        counts=counts.tolist(),
    )
