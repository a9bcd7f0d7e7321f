"""Drift: seen soon where there is some, not where there is none; remembered, and said once."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from frazil.documents import MicrographDocument, PickColumns
from frazil.health.state import DriftState
from frazil.session.outbox.ledger import Ledger, request_baseline
from frazil.session.pick.drift import BASELINE_MICROGRAPHS, LAST_MICROGRAPHS, Drift, DriftWatch


@pytest.fixture(scope="module")
def sessions(repository: Path) -> ModuleType:
    """The benchmark's own simulated sessions."""
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(repository / "benchmarks")
        return importlib.import_module("drift_sessions")


@pytest.fixture(scope="module")
def found(repository: Path) -> object:
    """What the default model found in simulated micrographs."""
    return json.loads((repository / "docs" / "reference" / "drift" / "sessions.json").read_text())["micrographs"]


def test_twenty_sessions_without_a_change_raise_no_alarm(sessions: ModuleType, found: object) -> None:
    seeds = range(sessions.FIRST_SEED, sessions.FIRST_SEED + 20)
    alarms = {seed: sessions.watch(sessions.draw(found, 300, seed), None).said for seed in seeds}
    assert {seed: said for seed, said in alarms.items() if said} == {}


@pytest.mark.parametrize(
    "change", ["nearer focus, thicker ice", "farther from focus, thicker ice", "no particles left"]
)
def test_a_change_in_mid_session_is_seen_within_25_micrographs(
    sessions: ModuleType, found: object, change: str
) -> None:
    outcomes = [sessions.watch(sessions.draw(found, 160, s, change=change, at=100), 100) for s in range(20)]
    delays = sorted(outcome.delay or 999 for outcome in outcomes if not outcome.said)
    assert len(delays) >= 19
    assert delays[-2] <= 25  # an empty square right behind the change tells nothing of the scores


def test_hardly_any_picks_in_a_young_session_are_noticed_and_empty_holes_are_not(
    sessions: ModuleType, found: object
) -> None:
    quiet = [sessions.watch(sessions.draw(found, 60, sessions.FIRST_SEED + i), None).few for i in range(500)]
    assert sum(quiet) <= 10
    assert len(sessions.delays_when_young(found, 100)) >= 97
    assert max(sessions.delays_when_young(found, 100)) <= LAST_MICROGRAPHS


def charted(values: list[tuple[int, float]]) -> Drift:
    drift = Drift()
    for picks, score in values:
        drift.note(picks, score)
    return drift


USUAL = [(300, 0.80), (340, 0.79), (280, 0.81), (310, 0.78), (320, 0.82)]


def test_before_the_baseline_is_there_nothing_is_drift() -> None:
    drift = charted([(500, 0.9)] * 10 + [(0, 0.0)] * (BASELINE_MICROGRAPHS - 11))
    assert drift.picks.centre is None
    assert not any(drift.picks.drifting.values())
    assert drift.few


def test_a_few_empty_micrographs_in_a_row_are_no_collapse() -> None:
    drift = charted(USUAL * 10 + [(0, 0.0)] * 15 + USUAL * 5)
    assert drift.picks.sums == {"down": 0.0, "up": 0.0}


def test_a_collapse_is_seen_and_ends_when_picks_are_back() -> None:
    drift = charted(USUAL * 10)
    changes = [change for _ in range(25) for change in drift.note(20, 0.8)]
    assert changes == [("picks", "down")]
    assert drift.usual("picks") == pytest.approx(310, rel=0.05)
    assert drift.recent("picks") == pytest.approx(20)
    changes = [change for _ in range(5) for value in USUAL for change in drift.note(*value)]
    assert changes == [("picks", "down")]
    assert not drift.picks.drifting["down"]


def test_what_is_drift_does_not_become_the_baseline() -> None:
    drift = charted(USUAL * 10)
    for _ in range(100):
        drift.note(300, 0.6)
    assert drift.score.drifting["down"]
    assert drift.usual("score") == pytest.approx(0.8, abs=0.011)


def test_scores_of_a_handful_of_picks_are_not_looked_at() -> None:
    drift = charted([*USUAL * 10, *[(4, 0.3)] * 15])
    assert len(drift.score.baseline) == 50
    assert drift.score.sums["down"] == 0


class Session:
    """A ledger on disk and a watch for drift that can be begun again, as by a restart."""

    def __init__(self, file: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.file = file
        self._make = make_document
        self.start()

    def start(self) -> None:
        self.ledger = Ledger(self.file)
        self.watch = DriftWatch(self.ledger)

    def restart(self) -> None:
        self.ledger.close()
        self.start()

    def note(self, picks: int, score: float = 0.8, **changes: object) -> None:
        columns = PickColumns(y=[0.0] * picks, x=[0.0] * picks, score=[score] * picks)
        self.watch.note(msgspec.structs.replace(self._make("/data/m.mrc"), picks=columns, **changes))

    @property
    def state(self) -> DriftState:
        return self.watch.state

    @property
    def collapsed(self) -> bool:
        return self.state.picks.down.drifting


@pytest.fixture
def session(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Session]:
    made = Session(tmp_path / "ledger.sqlite", make_document)
    yield made
    made.ledger.close()


def test_the_baseline_and_what_has_added_up_outlive_a_restart(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(BASELINE_MICROGRAPHS + 5):
        session.note(500)
    for _ in range(12):
        session.note(20)
    session.restart()
    assert session.state.picks.usual == pytest.approx(500)
    assert session.state.picks.down.evidence == pytest.approx(12 / 23)
    with caplog.at_level(logging.INFO, "frazil.session.pick.drift"):
        for _ in range(13):
            session.note(20)
        assert session.collapsed
        session.restart()
        assert session.collapsed
        for _ in range(20):
            session.note(500)
    assert not session.collapsed
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    now, usual = "median {} in the last micrographs", "500 in the session's baseline"
    assert [r.getMessage() for r in caplog.records] == [
        f"picks per micrograph have fallen: {now.format(20)}, {usual}",
        f"picks per micrograph are again as they were: {now.format(500)}, {usual}",
    ]


def test_another_model_or_threshold_or_a_request_begins_a_new_baseline(
    session: Session, make_document: Callable[..., MicrographDocument]
) -> None:
    model = msgspec.structs.replace(make_document("m.mrc").model, sha256="another")
    for changes in ({}, {"threshold": 0.7}, {"model": model}):
        for _ in range(BASELINE_MICROGRAPHS):
            session.note(500, **changes)
        assert session.state.picks.baseline_micrographs == BASELINE_MICROGRAPHS
    request_baseline(session.file)
    for expected in (1, 2):
        session.note(20, model=model)
        assert session.state.picks.baseline_micrographs == expected


def test_a_long_pause_ends_the_session(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.note(500)
    session.note(500)
    monkeypatch.setattr("frazil.session.pick.drift._PAUSE_SECONDS", -1.0)
    session.note(20)
    assert session.state.picks.baseline_micrographs == 1


def test_what_a_later_frazil_has_written_is_no_reason_not_to_start(session: Session) -> None:
    session.ledger.remember("drift", '{"picks": "by another rule"}')
    session.restart()
    assert session.state.picks.baseline_micrographs == 0


def test_a_ledger_that_cannot_be_written_stops_nothing(session: Session) -> None:
    session.ledger._database.execute("PRAGMA query_only=ON")
    session.note(500)
    assert session.state.picks.baseline_micrographs == 1


USUALLY = [(772, 0.8)] * 7
FALLEN = [(45, 0.7)]


@pytest.mark.parametrize(
    ("values", "few"),
    [
        (USUALLY, False),
        ([*USUALLY, *FALLEN], False),  # one micrograph of carbon
        ([*USUALLY, *FALLEN * 9], False),  # a group of empty holes
        ([*USUALLY, *FALLEN * 10], True),
        ([*USUALLY, *[(200, 0.7)] * 12], False),
        ([*USUALLY, *FALLEN * 5, (1000, 0.7), *FALLEN * 5], False),
        ([*USUALLY, *FALLEN * 10, (1000, 0.7)], True),  # one hole with particles is not the end of it
        ([*USUALLY, *FALLEN * 10, (1000, 0.7), (900, 0.7)], False),
        ([(772, 0.8), *FALLEN * 12], False),  # nothing to compare with
        ([(0, 0.0)] * 2, False),
        ([(0, 0.0)] * 3, True),
        ([(0, 0.0)] * 15, True),
        ([*[(0, 0.0)] * 3, (40, 0.7)], False),
        ([(40, 0.7), *[(0, 0.0)] * 9], False),
        ([(40, 0.7), *[(0, 0.0)] * 10], True),
    ],
)
def test_hardly_any_picks_are_noticed_before_there_is_a_baseline(values: list[tuple[int, float]], few: bool) -> None:
    assert charted(values).few is few


def test_what_is_few_does_not_become_the_baseline_and_ends_when_picks_are_back(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    for picks in [772] * 7 + [45] * 40:
        session.note(picks)
    assert session.state.few
    assert session.state.picks.baseline_micrographs == 8
    session.note(772)  # among many, one hole with particles
    session.restart()
    assert session.state.few
    session.note(45)
    session.note(700)
    session.note(700)
    assert not session.state.few
    assert [r.message for r in caplog.records] == [
        "picks are few: median 45 in the last 10 micrographs, 772 in those before"
    ]


def test_once_there_is_a_baseline_only_drift_is_told(session: Session) -> None:
    for picks in [772] * BASELINE_MICROGRAPHS + [45] * LAST_MICROGRAPHS:
        session.note(picks)
    assert not session.state.few
