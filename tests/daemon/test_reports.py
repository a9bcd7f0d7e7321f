"""What happened at the sockets, from two threads, told once."""

from __future__ import annotations

import threading

from frazil.session.outbox.stream.messages import Report
from frazil.session.outbox.stream.reports import Reports


def test_what_happened_is_told_once_and_who_is_connected_every_time() -> None:
    reports = Reports()
    assert reports.take() == Report()
    reports.count(refused=1, replayed=5)
    reports.count(refused=2, overflows=1)
    for outcome in ("answered", "failed", "answered"):
        reports.count_request(outcome)
    reports.set_subscribers(7)
    reports.set_subscribers(3)
    reports.note_damaged("", 4, "a.mrc")
    reports.note_damaged("s", 9, "b.mrc")
    reports.note_ledger_damage(2, "torn")
    assert reports.take() == Report(
        subscribers=3,
        refused=3,
        overflows=1,
        replayed=5,
        requests={"answered": 2, "failed": 1},
        damaged=[("", 4, "a.mrc"), ("s", 9, "b.mrc")],
        ledger_damage={2: "torn"},
    )
    assert reports.take() == Report(subscribers=3)


def test_nothing_is_lost_between_threads() -> None:
    reports, taken = Reports(), []

    def work() -> None:
        for _ in range(2000):
            reports.count(replayed=1)
            reports.count_request("answered")
            taken.append(reports.take())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.replayed for report in taken) == 8000
    assert sum(report.requests.get("answered", 0) for report in taken) == 8000
