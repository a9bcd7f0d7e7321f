"""Where on the grid micrographs were taken, what came of squares and holes, and which squares promise most.

- ``PlaceFinder(metadata).find(path)`` reads what EPU and SerialEM wrote down of an exposure.
- ``Squares`` keeps what came of each square and hole.
- ``rank(squares)`` says how many particles the next exposure in each square promises.

No sockets, no clock, no threads.
"""

from frazil.grid.places import PlaceFinder
from frazil.grid.ranking import Hindsight, Promise, Skipped, hindsight, order_squares, rank, skippable
from frazil.grid.squares import Exposure, Square, Squares

__all__ = [
    "Exposure",
    "Hindsight",
    "PlaceFinder",
    "Promise",
    "Skipped",
    "Square",
    "Squares",
    "hindsight",
    "order_squares",
    "rank",
    "skippable",
]
