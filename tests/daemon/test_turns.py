"""Turns: nobody waits for longer than one turn of each other."""

from __future__ import annotations

import threading
import time

from frazil.session.pick.turns import Turns


def test_whoever_waits_longest_is_next_however_often_another_comes_back() -> None:
    turns, order, go_on = Turns(), [], threading.Event()

    def pick(name: str, times: int) -> None:
        for _ in range(times):
            with turns:
                order.append(name)
                go_on.wait(60)

    threads = [threading.Thread(target=pick, args=(name, 20)) for name in ("a", "b", "c")]
    with turns:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(turns._waiting) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert sorted(order) == sorted("abc" * 20)
    for start in range(57):
        # Among any four turns in a row all three are there: while all three have work, none comes twice before another.
        if start < 40:
            assert len(set(order[start : start + 6])) == 3, order


def test_a_fault_in_a_turn_gives_it_back() -> None:
    turns = Turns()
    for _ in range(2):
        try:
            with turns:
                raise ValueError
        except ValueError:
            pass
    with turns:
        pass
