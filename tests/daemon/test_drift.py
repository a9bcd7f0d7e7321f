"""Drift: seen soon where there is some, not where there is none; remembered, and said once."""

from __future__ import annotations

import importlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from frazil.documents import CtfFit, MicrographDocument, PickColumns, QualityDocument
from frazil.health.state import QUALITIES, DriftState, Quality
from frazil.session.outbox.ledger import Ledger, request_baseline
from frazil.session.pick.drift import BASELINE_MICROGRAPHS, LAST_MICROGRAPHS, Drift, DriftWatch, QualityDrift


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


# --- what assessments say ----------------------------------------------------------------------------------------


def assessed(rng: np.random.Generator, number: int, *, changed: str = "") -> QualityDocument:
    """A micrograph of a session that goes through five defoci, in squares whose ice and junk differ a little."""
    defocus_um = (0.9, 1.2, 1.5, 1.8, 2.1)[number % 5] + rng.normal(0, 0.08) + (0.9 if changed == "defocus" else 0.0)
    resolution = 4.0 * math.exp(rng.normal(0, 0.08)) * (1.6 if changed == "resolution" else 1.0)
    fit = CtfFit(
        defocus_u_angstrom=1e4 * defocus_um + 100,
        defocus_v_angstrom=1e4 * defocus_um - 100,
        defocus_angle_deg=0.0,
        resolution_angstrom=resolution,
        voltage_kv=300.0,
        cs_mm=2.7,
        amplitude_contrast=0.1,
    )
    is_bad = rng.random() < (0.6 if changed == "bad" else 0.08)
    return QualityDocument(
        epoch="e",
        seq=number + 1,
        micrograph=f"{number}.mrc",
        path=f"/w/{number}.mrc",
        of=1,
        grade="bad" if is_bad else "good",
        picks=100,
        usable_fraction=0.9,
        pixel_size_angstrom=1.0,
        junk_fraction=float(abs(rng.normal(0.02, 0.03))) + (0.25 if changed == "junk" else 0.0),
        relative_ice_thickness=float(abs(rng.normal(0.1, 0.05))) + (0.25 if changed == "ice" else 0.0),
        ctf=fit,
    )


def test_twenty_sessions_as_good_as_they_began_raise_no_alarm_of_quality() -> None:
    alarms = {}
    for seed in range(20):
        rng, drift = np.random.default_rng(seed), QualityDrift()
        said = [one for number in range(300) for one in drift.note(assessed(rng, number))]
        if said:
            alarms[seed] = said
    assert alarms == {}


@pytest.mark.parametrize("which", QUALITIES)
def test_a_change_of_quality_in_mid_session_is_seen_within_40_micrographs(which: Quality) -> None:
    delays = []
    for seed in range(20):
        rng, drift = np.random.default_rng(seed), QualityDrift()
        for number in range(80):
            assert drift.note(assessed(rng, number)) == []
        seen = (n for n in range(80, 120) if (which, "up") in drift.note(assessed(rng, n, changed=which)))
        delays.append(next(seen, 999) - 79)
    assert sorted(delays)[-2] <= 40, delays
    assert drift.describe(which, "up").startswith(("the defocus has risen", "the resolution", "the thick", "the share"))


def test_the_charts_of_quality_are_remembered_and_an_assessment_made_again_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, rng = Ledger(tmp_path / "l"), np.random.default_rng(0)
    watch = DriftWatch(ledger)
    for number in range(60):
        document = assessed(rng, number)
        watch.note_quality(document)
        watch.note_quality(msgspec.structs.replace(document, supersedes=document.seq))
    assert watch.state.quality["ice"].baseline_micrographs == 60
    with caplog.at_level(logging.WARNING):
        for number in range(60, 80):
            watch.note_quality(assessed(rng, number, changed="ice"))
    again = DriftWatch(ledger)
    ledger.close()
    assert again.state == watch.state
    assert again.state.quality["ice"].up.drifting
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("the thickness of the ice has risen: median 0.3")
    assert again.state.quality["resolution"].usual == pytest.approx(4.0, abs=0.2)


def test_a_new_baseline_of_quality_begins_on_request(tmp_path: Path) -> None:
    ledger, rng = Ledger(tmp_path / "l"), np.random.default_rng(0)
    watch = DriftWatch(ledger)
    for number in range(40):
        watch.note_quality(assessed(rng, number))
    request_baseline(ledger.file)
    watch.note_quality(assessed(rng, 40))
    ledger.close()
    assert watch.state.quality["ice"].baseline_micrographs == 1
