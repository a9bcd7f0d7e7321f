"""The allowance of replays, by a clock that the tests move."""

from __future__ import annotations

import pytest

from frazil.session.outbox.stream.allowance import BUSY_SHARE, SAVED_SECONDS, Allowance


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Time, and the processor time of this thread."""
    times = {"wall": 100.0, "work": 5.0}
    monkeypatch.setattr("frazil.session.outbox.stream.allowance.time.monotonic", lambda: times["wall"])
    monkeypatch.setattr("frazil.session.outbox.stream.allowance.time.thread_time", lambda: times["work"])
    return times


@pytest.mark.parametrize("cost_seconds", [0.001, 0.05, 2.0])
def test_replays_take_a_small_share_of_a_core_while_picking_is_busy_and_all_they_want_while_it_is_not(
    clock: dict[str, float], cost_seconds: float
) -> None:
    allowance = Allowance()
    for _ in range(100):
        clock["wall"] += cost_seconds
        clock["work"] += cost_seconds
        assert allowance.debt_seconds(is_busy=False) == 0
    rested, started = 0.0, clock["wall"]
    for _ in range(1000):
        clock["wall"] += cost_seconds
        clock["work"] += cost_seconds
        rest = allowance.debt_seconds(is_busy=True)
        clock["wall"] += rest
        rested += rest
    worked = 1000 * cost_seconds
    assert worked <= SAVED_SECONDS + BUSY_SHARE * (clock["wall"] - started) + 1e-6
    assert rested == pytest.approx((worked - SAVED_SECONDS) / BUSY_SHARE - worked, rel=1e-6)


def test_what_is_saved_up_is_bounded_and_what_was_done_while_nobody_picked_is_no_debt(clock: dict[str, float]) -> None:
    allowance = Allowance()
    clock["wall"] += 1e6
    assert allowance.debt_seconds(is_busy=True) == 0
    clock["work"] += SAVED_SECONDS + 1.0
    assert allowance.debt_seconds(is_busy=True) == pytest.approx(1.0 / BUSY_SHARE)
    clock["wall"] += 0.5 / BUSY_SHARE
    assert allowance.debt_seconds(is_busy=True) == pytest.approx(0.5 / BUSY_SHARE)
    clock["work"] += 100.0
    assert allowance.debt_seconds(is_busy=False) == 0
    clock["work"] += SAVED_SECONDS
    assert allowance.debt_seconds(is_busy=True) == pytest.approx(0)
