"""Tasks: some micrographs each, handed out again where a worker died or could not pick, until each has an outcome."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from frazil.cluster.engine import Engine, Lost
from frazil.cluster.work import Job, Outcome, Unfit, decode_outcomes, pick_some
from frazil.errors import FrazilError

__all__ = ["hand_out"]


def hand_out(
    engine: Engine[list[str]],
    keys: Iterator[str],
    job: Job,
    size: int,
    *,
    take: Callable[[Outcome], None],
    give_up: Callable[[str, str], None],
    say: Callable[[str], None],
    beat: Callable[[], None],
) -> None:
    """Have micrographs picked by the workers of an engine.

    Workers may die of what lies beside a micrograph in its task, or on its worker. So one that was in a task that
    killed its workers is tried alone at last, with nothing else under way: a worker that dies then dies of it.

    Args:
        engine: of the cluster.
        keys: of the micrographs; the next ones are asked for when there is room.
        job: how they are picked.
        size: number of micrographs in a task.
        take: called with what has become of each.
        give_up: called with the key of one that kills its workers, and what happened.
        say: called with what the user should know, in one line.
        beat: called every second or so.

    Raises:
        FrazilError: no worker can do the work, or the cluster has gone.
    """
    again: deque[list[str]] = deque()
    suspects: deque[str] = deque()
    unfit: set[str] = set()
    under_way, alone = 0, ""

    def next_some() -> list[str] | None:
        nonlocal under_way, alone
        some = again.popleft() if again else list(islice(keys, size))
        if not some and suspects and not under_way:
            alone = suspects.popleft()
            some = [alone]
        under_way += bool(some)
        return some or None

    encoded = job.encode()
    answers = engine.run(pick_some, next_some, lambda some: (encoded, msgspec.msgpack.encode(some)), beat)
    with contextlib.closing(answers):
        for some, answer in answers:
            under_way -= 1
            outcomes = answer if isinstance(answer, Lost) else decode_outcomes(answer)
            match outcomes:
                case Lost(killed=True) if some == [alone]:
                    give_up(alone, outcomes.why)
                case Lost(killed=True):
                    suspects += some
                case Lost():
                    again.append(some)
                case Unfit():
                    unfit.add(outcomes.worker)
                    if len(unfit) >= engine.workers:
                        raise FrazilError(f"worker at {outcomes.worker}: {outcomes.message}")
                    say(f"worker at {outcomes.worker}: {outcomes.message}; others take its work")
                    engine.retire(outcomes.worker)
                    again.append(some)
                case _:
                    for outcome in outcomes:
                        take(outcome)
