"""The grid as a map: what came of its squares and holes, and which squares promise most."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.documents import HoleSummary
from frazil.grid import Hindsight, Promise, Square, hindsight, rank, skippable
from frazil.page.answers import NotHereError, json_answer
from frazil.page.session import Session
from frazil.page.worker import Worker
from frazil.session.assess import SessionSquares

__all__ = ["SquareDesk"]

_MOST_HOLES = 2_000
"""Of a square, in one answer."""


class SquareShown(msgspec.Struct, frozen=True, kw_only=True):
    """A square on the map, and a line of the table."""

    grid: str
    square: str
    stage_um: tuple[float, float] | None
    """x, y; None where they are not known."""
    micrographs: int
    good: int
    doubtful: int
    bad: int
    good_fraction: float
    particles: int
    particles_each: float
    """Mean over its micrographs."""
    ice: float | None
    resolution_angstrom: float | None
    expected: float | None
    """Particles that its next micrograph promises; None where nothing can be said."""
    error: float | None
    """Standard error of that."""
    skip: str
    """Why it is not worth more exposures; empty where it is, or may be."""


class SquaresShown(msgspec.Struct, frozen=True, kw_only=True):
    """All squares of a session, the most promising first."""

    squares: list[SquareShown]
    unplaced: int
    """Assessed micrographs of which no square is known."""
    hindsight: Hindsight | None
    """How an order halfway did; None where too little came."""


class SquareDesk:
    """Answers what is asked of squares.

    Args:
        session: whose ledger is read.
        worker: for what the ledger takes.
    """

    def __init__(self, session: Session, worker: Worker) -> None:
        self._session = session
        self._worker = worker
        self._kept: SessionSquares | None = None
        self._known: tuple[int, bytes] | None = None
        self.routes = [Route("/api/squares", self._all), Route("/api/square", self._one)]

    def close(self) -> None:
        """Close the ledger."""
        if self._kept is not None:
            self._kept.close()

    async def _all(self, _: Request) -> Response:
        def find() -> bytes:
            kept = self._update()
            if self._known is None or self._known[0] != kept.seq:
                self._known = kept.seq, msgspec.json.encode(_show(kept))
            return self._known[1]

        return json_answer(await self._worker.run(find))

    async def _one(self, request: Request) -> Response:
        grid, name = (request.query_params.get(key, "") for key in ("grid", "square"))

        def find() -> list[HoleSummary]:
            square = self._update().squares.square(grid, name)
            if not square.exposures:
                raise NotHereError(f"expected a square of this session, found {name[:80]!r}")
            return list(square.holes())[:_MOST_HOLES]

        return json_answer(msgspec.json.encode({"holes": await self._worker.run(find)}))

    def _update(self) -> SessionSquares:
        if self._kept is None:
            self._kept = SessionSquares(self._session.reader.file)
        self._kept.update()
        return self._kept


def _show(kept: SessionSquares) -> SquaresShown:
    squares = kept.squares.all()
    promises = rank(squares)
    poor = {id(one.promise): one.reason for one in skippable(promises)}
    ranked = {(one.square.grid, one.square.name) for one in promises}
    others = [(square, None) for square in squares if (square.grid, square.name) not in ranked]
    return SquaresShown(
        squares=[
            _shown(square, promise, poor.get(id(promise), ""))
            for square, promise in [*((one.square, one) for one in promises), *others]
        ],
        unplaced=kept.unplaced,
        hindsight=hindsight(squares),
    )


def _shown(square: Square, promise: Promise | None, skip: str) -> SquareShown:
    count = len(square.exposures)
    return SquareShown(
        grid=square.grid,
        square=square.name,
        stage_um=square.stage_um,
        micrographs=count,
        good=square.count("good"),
        doubtful=square.count("doubtful"),
        bad=square.count("bad"),
        good_fraction=round(square.count("good") / count, 3),
        particles=square.particles,
        particles_each=round(square.particles / count, 1),
        ice=square.relative_ice_thickness,
        resolution_angstrom=square.ctf_resolution_angstrom,
        expected=None if promise is None else round(promise.particles, 1),
        error=None if promise is None else round(promise.error, 1),
        skip=skip,
    )
