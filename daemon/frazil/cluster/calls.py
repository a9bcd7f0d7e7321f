"""Calls: a function called for each of some names by the workers of a cluster, and the answer to each, once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from frazil.cluster.engine import Engine
from frazil.errors import FrazilError

__all__ = ["call_each"]


def call_each(
    engine: Engine[str],
    function: Callable[..., bytes],
    calls: Mapping[str, tuple[Any, ...]],
    beat: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, bytes]]:
    """Have a function called for each name; a call whose worker died is made again.

    Args:
        engine: of the cluster.
        function: of a module, which workers import. What it is given and returns is best bytes.
        calls: the function's arguments, by name.
        beat: called every second or so.

    Yields:
        Each name with its answer, in whatever order.

    Raises:
        FrazilError: what the function has raised, of the same kind; or workers died of a call, or the cluster has gone.
    """
    coming = deque(calls)
    answers = engine.run(function, lambda: coming.popleft() if coming else None, calls.__getitem__, beat)
    with contextlib.closing(answers):
        for name, answer in answers:
            if isinstance(answer, bytes):
                yield name, answer
            elif answer.killed:
                raise FrazilError(f"{name}: expected a worker to do it, {answer.why}, perhaps for too little memory")
            else:
                coming.append(name)
