"""Troubles: what is wrong now, and what helps. The one judgement of that, for the page and for ``frazil status``.

The rules for Prometheus in ``deploy/prometheus`` judge by the same limits; a test compares them.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from frazil.documents import ModelDocument
from frazil.health.state import DaemonState, Doubt, IntakeState, Quality, SessionState
from frazil.session.intake.passed_over import Inventory
from frazil.session.outbox.ledger import DRIFT_KEY, INVENTORY_KEY, QUALITY_DRIFT_KEY, LedgerReader
from frazil.session.pick.drift import Direction, Drift, QualityDrift

__all__ = ["Facts", "Trouble", "find_troubles", "gather_facts"]

SESSION_SECONDS = 3600.0
"""What happened in this time is what happens now."""
QUIET_SECONDS = 600.0
"""So long without a micrograph is long, while a session runs."""
QUIET_LEAST = 5
"""A session runs where more micrographs than this came within `SESSION_SECONDS`."""
BACKLOG_MICROGRAPHS = 10
BACKLOG_SECONDS = 60.0
"""A backlog is more micrographs than that, of which the oldest has waited for longer than this."""
FAILED_SHARE = 0.1
FAILED_LEAST = 2
"""Failures are many where they are so many at least, and more than that share."""
FALLEN_NEWEST = 3
FALLEN_SHARE = 1 / 3
"""Picks have fallen where the median of so many of the newest micrographs is below that share of those before."""
BAD_SHARE = 0.3
BAD_LEAST = 5
"""Micrographs are bad, or out of focus, where so many of those assessed lately are, and more than that share."""
FREE_SHARE = 0.05
"""A disk is nearly full with less room, or fewer inodes, than this share."""

_LATEST = 9
_CHANGES = 20
"""Of models: those that pick, and those that find junk."""

_REFOCUS = "Look at the newest micrographs: the focus routine, the height of the stage, astigmatism, thicker ice."
_DISKS = {"out": "results", "ledger": "ledger"}
_DRIFTS = {
    ("picks", "down"): ("FrazilPicksCollapsed", "Fewer picks per micrograph than when the session began"),
    ("picks", "up"): ("FrazilPicksRisen", "More picks per micrograph than when the session began"),
    ("score", "down"): ("FrazilScoresDrifted", "Lower scores than when the session began"),
    ("score", "up"): ("FrazilScoresDrifted", "Higher scores than when the session began"),
}
_QUALITY_DRIFTS: dict[tuple[Quality, Direction], tuple[str, str, str]] = {
    ("defocus", "down"): ("FrazilFocusDrifted", "Less defocus than when the session began", _REFOCUS),
    ("defocus", "up"): ("FrazilFocusDrifted", "More defocus than when the session began", _REFOCUS),
    ("resolution", "up"): ("FrazilFocusDrifted", "The CTF fits to a poorer resolution than when it began", _REFOCUS),
    ("ice", "up"): (
        "FrazilIceThicker",
        "Thicker ice than when the session began",
        "Look at the newest pictures, and choose squares with thinner ice.",
    ),
    ("junk", "up"): (
        "FrazilJunkRisen",
        "More junk than when the session began",
        "Look at the newest pictures: carbon of missed holes, ice crystals, contamination that grows in the column.",
    ),
}
_DOUBTS: dict[Doubt, tuple[str, str]] = {
    "blank": (
        "Much of the newest micrograph holds no data",
        "Nothing is picked there. Padding, a mask or film? Else see to the beam, the beam stop and the aperture.",
    ),
    "contrast": (
        "Particles seem to look the other way round than the setting contrast says",
        "Look at a micrograph: where particles are brighter than the ice, contrast must be bright, else dark.",
    ),
    "diameter": (
        "Hardly any particle of the set diameter would fit into a micrograph",
        "Look whether diameter_angstrom is in Å, not in nm, and whether the pixel size is right.",
    ),
}
_DRIFTED_TODO = (
    "Look at the newest pictures: ice, defocus, astigmatism, carbon. Then tune the threshold. "
    "If it is meant to be so: frazil ledger baseline --ledger OUT."
)


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, and what helps."""

    level: Literal["fault", "warning"]
    """A fault stops picking; a warning does not."""
    says: str
    todo: str
    alert: str = ""
    """The alert of Prometheus that tells the same, with a section in the runbook; empty where there is none."""


class _Scores(msgspec.Struct, frozen=True):
    score: list[float]


class _Marked(msgspec.Struct, frozen=True):
    mark: str = ""


class _Picture(msgspec.Struct, frozen=True):
    """The little of a document that tells what kind of picture it is of, and what was found in it."""

    shape: tuple[int, int]
    pixel_size_angstrom: float
    picks: _Scores
    corrections: _Marked = _Marked()

    def describe(self) -> str:
        h, w = self.shape
        return f"{w} × {h} pixels of {self.pixel_size_angstrom:.3g} Å"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a ledger says of how things stand."""

    picked: int = 0
    failed: int = 0
    """Micrographs that were picked, and that could not be, in all."""
    picked_lately: int = 0
    failed_lately: int = 0
    """Likewise, within `SESSION_SECONDS`."""
    last_picked_at: float | None = None
    """In seconds of Unix time."""
    drift: Drift = msgspec.field(default_factory=Drift)
    quality: QualityDrift = msgspec.field(default_factory=QualityDrift)
    grades_lately: dict[tuple[str, str], int] = {}
    """Number of micrographs that were assessed within `SESSION_SECONDS`, by grade and category."""
    inventory: Inventory = msgspec.field(default_factory=Inventory)
    pictures: tuple[str, ...] = ()
    """Each kind of picture among the micrographs that were picked last, the newest first."""
    picks: tuple[int, ...] = ()
    """Of each of the micrographs that were picked last, the newest first, without those that a person marked bad."""
    change: ModelDocument | None = None
    """What happened to the model last."""
    junk_change: ModelDocument | None = None
    """What happened to the model that finds junk last."""


def gather_facts(reader: LedgerReader, counts: Mapping[str, int], now: float) -> Facts:
    """Read what `find_troubles` needs, with the number of micrographs in each state; now in seconds of Unix time.

    Raises:
        OutputError: the ledger cannot be read.
    """
    meta = reader.meta()
    picked_lately, failed_lately = reader.count_since(now - SESSION_SECONDS)
    times = reader.last_picked_times(1)
    changes = [one for stored in reader.newest_changes(_CHANGES) if isinstance(one := stored.decode(), ModelDocument)]
    pictures = _pictures(stored.body for stored in reader.last_picked_results(_LATEST))
    return Facts(
        picked=counts.get("picked", 0),
        failed=counts.get("failed", 0) + counts.get("quarantined", 0),
        picked_lately=picked_lately,
        failed_lately=failed_lately,
        last_picked_at=times[0][1] if times else None,
        drift=Drift.decode(meta.get(DRIFT_KEY, "")) or Drift(),
        quality=QualityDrift.decode(meta.get(QUALITY_DRIFT_KEY, "")) or QualityDrift(),
        grades_lately=reader.grades(since=now - SESSION_SECONDS),
        inventory=Inventory.decode(meta.get(INVENTORY_KEY, "")) or Inventory(),
        pictures=tuple(dict.fromkeys(picture.describe() for picture in pictures)),
        picks=tuple(len(picture.picks.score) for picture in pictures if picture.corrections.mark != "bad"),
        change=next((one for one in changes if one.finds != "junk"), None),
        junk_change=next((one for one in changes if one.finds == "junk"), None),
    )


def find_troubles(state: DaemonState, facts: Facts | None, now: float) -> list[Trouble]:
    """What is wrong now, worst first.

    Args:
        state: of the daemon; without a session while it does not run.
        facts: what the ledger says; None where it cannot be read.
        now: in seconds of Unix time.
    """
    session = state.session
    troubles = [*_of_the_machine(state, session or SessionState())]
    if session is not None and session.status != "open":
        troubles.append(
            Trouble(level="warning", says=f"The session is {session.status}: {session.says}", todo="See Sessions.")
        )
    elif facts is None:
        troubles.append(Trouble(level="fault", says="The ledger cannot be read", todo="Look at the log."))
    if facts is not None:
        troubles += [*_of_the_session(session, facts, now), *_of_the_picks(facts), *_of_the_quality(facts)]
        troubles += [*_of_the_model(facts), *_of_the_junk(session, facts)]
        troubles += _of_the_settings(session or SessionState())
    return sorted(troubles, key=lambda trouble: trouble.level != "fault")


def _of_the_machine(state: DaemonState, session: SessionState) -> Iterable[Trouble]:
    if session.watch.fault:
        yield Trouble(
            level="fault",
            says="The watched directory cannot be seen",
            todo="Look whether its mount is there. Picking goes on by itself.",
            alert="FrazilWatchFault",
        )
    if session.blocked:
        yield Trouble(
            level="fault",
            says="Results cannot be written, and picking waits",
            todo="Make room on the disk of the output directory, or mend its permissions. Picking goes on by itself.",
            alert="FrazilOutputBlocked",
        )
    for name, disk in session.disks.items():
        if disk.free < FREE_SHARE:
            yield Trouble(
                level="warning",
                says=f"The disk of the {_DISKS.get(name, name)} is nearly full: {disk.free:.0%} is free",
                todo="Make room: when it is full, picking waits.",
                alert="FrazilDiskNearlyFull",
            )
            break
    if state.gpu_expected and state.model is not None and state.model.on_cpu:
        yield Trouble(
            level="warning",
            says="The model runs on the CPU, though there is a GPU",
            todo='See why with frazil doctor, or say that none is wanted: device = "cpu".',
            alert="FrazilCpuFallback",
        )


def _of_the_session(session: SessionState | None, facts: Facts, now: float) -> Iterable[Trouble]:
    inventory = facts.inventory
    if inventory.nothing_fits:
        yield Trouble(
            level="warning",
            says="Nothing in the watched directory is taken for a micrograph",
            todo=f"Passed over: {inventory.describe_passed_over()}. {inventory.advice}",
            alert="FrazilNothingFits",
        )
    intake = IntakeState() if session is None else session.intake
    if intake.backlog > BACKLOG_MICROGRAPHS and intake.backlog_seconds > BACKLOG_SECONDS:
        yield Trouble(
            level="warning",
            says=f"{intake.backlog} micrographs wait to be picked",
            todo="Micrographs come faster than they are picked, or lay there at the start. "
            "Where the number grows, see on what the model runs.",
            alert="FrazilBacklogGrowing",
        )
    came = facts.picked_lately + facts.failed_lately
    if session is not None and not intake.backlog and facts.last_picked_at is not None and came > QUIET_LEAST:
        quiet = now - facts.last_picked_at
        if quiet > QUIET_SECONDS:
            yield Trouble(
                level="warning",
                says=f"No new micrograph for {quiet / 60:.0f} minutes",
                todo="If the microscope still collects, look whether its files arrive in the watched directory, "
                "and whether their names match the setting include.",
                alert="FrazilNoMicrographs",
            )
    failures = ((facts.failed_lately, facts.picked_lately, " in the last hour"), (facts.failed, facts.picked, ""))
    for failed, picked, lately in failures:
        if failed >= FAILED_LEAST and failed > FAILED_SHARE * (failed + picked):
            yield Trouble(
                level="warning",
                says=f"{failed} of {failed + picked} micrographs could not be picked{lately}",
                todo="See why: frazil ledger list --state quarantined --ledger OUT, or Failures on the page. Mend "
                "the cause, then frazil requeue --failed --ledger OUT.",
                alert="FrazilFailures",
            )
            return


def _of_the_picks(facts: Facts) -> Iterable[Trouble]:
    drift = facts.drift
    if drift.few:
        yield Trouble(
            level="warning",
            says=f"Hardly any picks: {drift.describe_few()}",
            todo="Look at the newest pictures: ice, carbon, empty holes, a beam that is off. Are diameter, pixel size "
            "and contrast those of this session? If it is meant to be so: frazil ledger baseline --ledger OUT.",
            alert="FrazilFewPicks",
        )
    newest, earlier = facts.picks[:FALLEN_NEWEST], facts.picks[FALLEN_NEWEST:]
    if len(earlier) >= FALLEN_NEWEST and not drift.few and not drift.picks.drifting["down"]:
        now, before = statistics.median(newest), statistics.median(earlier)
        if now < FALLEN_SHARE * before:
            yield Trouble(
                level="warning",
                says=f"Picks have fallen: {now:.0f} in the newest micrographs, {before:.0f} in those before",
                todo="Look at the newest pictures: ice, carbon, empty holes, defocus, a beam that is off.",
            )
    for (quantity, direction), (alert, says) in _DRIFTS.items():
        chart = drift.picks if quantity == "picks" else drift.score
        if chart.drifting["down" if direction == "down" else "up"]:
            yield Trouble(level="warning", says=says, todo=_DRIFTED_TODO, alert=alert)
    if len(facts.pictures) > 1:
        yield Trouble(
            level="warning",
            says=f"Pictures of different kinds are picked: {', and '.join(facts.pictures)}",
            todo="Where some are no micrographs of this session (power spectra, images of holes), leave them out with "
            "the setting exclude.",
        )


def _of_the_quality(facts: Facts) -> Iterable[Trouble]:
    assessed = sum(facts.grades_lately.values())
    bad = sum(count for (grade, _), count in facts.grades_lately.items() if grade == "bad")
    unfocused = sum(count for (_, category), count in facts.grades_lately.items() if category == "out of focus")
    for count, what, todo, alert in (
        (bad, "bad", "Their reasons say what is wrong: look at some of them.", "FrazilBadMicrographs"),
        (unfocused, "out of focus", _REFOCUS, "FrazilOutOfFocus"),
    ):
        if count >= BAD_LEAST and count > BAD_SHARE * assessed:
            yield Trouble(
                level="warning",
                says=f"{count} of {assessed} micrographs of the last hour are {what}",
                todo=todo,
                alert=alert,
            )
    for (which, direction), (alert, says, todo) in _QUALITY_DRIFTS.items():
        if facts.quality.charts[which].drifting[direction]:
            yield Trouble(level="warning", says=says, todo=todo, alert=alert)


def _of_the_settings(session: SessionState) -> Iterable[Trouble]:
    for about, (says, todo) in _DOUBTS.items():
        if about in session.pick.doubts:
            yield Trouble(level="warning", says=says, todo=todo)


def _of_the_model(facts: Facts) -> Iterable[Trouble]:
    change = facts.change
    if change is not None and change.event != "loaded":
        what = "was refused" if change.event == "refused" else "serves again: the newer one was withdrawn"
        yield Trouble(
            level="warning",
            says=f"The model {change.model.short} {what}",
            todo=change.reason or "See the log.",
            alert="FrazilModelRefused",
        )


def _of_the_junk(session: SessionState | None, facts: Facts) -> Iterable[Trouble]:
    change = facts.junk_change
    reason = change.reason if change is not None and change.event == "refused" else ""
    if session is not None and session.finds_junk and session.status == "open" and session.junk_model is None:
        yield Trouble(
            level="warning",
            says="Junk is not looked for: no model that finds it can serve",
            todo=reason or "See the log, and the settings junk_model and find_junk.",
        )
    elif change is not None and reason:
        yield Trouble(
            level="warning",
            says=f"The model {change.model.short} that finds junk was refused",
            todo=reason,
            alert="FrazilModelRefused",
        )


def _pictures(bodies: Iterable[bytes]) -> list[_Picture]:
    pictures = []
    for body in bodies:
        with contextlib.suppress(msgspec.DecodeError):  # a document that was damaged tells nothing
            pictures.append(msgspec.json.decode(body, type=_Picture))
    return pictures
