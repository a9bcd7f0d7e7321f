"""Section `stages`: where the time of one micrograph goes, beside the floor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.micrographs import KINDS, drop_from_cache
from benchmarks.published import PublishedLedger
from benchmarks.speed.bench import MODELS, Bench
from benchmarks.speed.floor import Floor, batches_of
from benchmarks.speed.spread import Rounds, Spread, rounds_within, spread
from frazil import PickStream
from frazil.picking import read_micrograph, write_star
from frazil.picking.picture import normalise
from frazil.picking.rescale import rescale
from frazil.record import Record, record_picks
from frazil.session.retune.repick import pack_score_map

__all__ = ["STAGES", "Case", "Growth", "Stages", "measure"]

STAGES = ("read", "rescale", "standardise", "tile", "infer", "peaks", "write", "commit", "publish")
_PATIENCE_SECONDS = 30.0
_FLOOR = ("floor: read", "floor: infer")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one micrograph."""

    model: str
    size_px: int
    kind: str
    cache: str
    """``warm``: the file lies in the system's memory; ``cold``: it was put out of there before each reading."""
    tiles: int
    picks: int
    seconds: dict[str, Spread]
    """Each stage alone, ``whole`` (what ``frazil pick`` does, in one go), the ``floor`` and its parts."""
    times_floor: Spread


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How time grows from one size to another."""

    model: str
    from_px: int
    to_px: int
    times_pixels: float
    times_seconds: Spread


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """All cases."""

    cases: list[Case]
    growth: list[Growth]
    cold_is_cold: bool
    """Whether the system did put files out of its memory when told to."""


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A case that is being measured."""

    model: str
    size_px: int
    kind: str = "float32"
    cold: bool = False


class _Outbox(PublishedLedger):
    """The last two stages: the durable commit, and the message to a subscriber."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder)
        self._subscriber = PickStream(self.stream.address)
        assert self._subscriber.wait_connected(_PATIENCE_SECONDS)

    def __exit__(self, *error: object) -> None:
        self._subscriber.close()
        super().__exit__(*error)

    def commit_record(self, record: Record) -> None:
        """Commit picks and score map; they are on the disk when this returns."""
        self._last = self.commit(record.document, pack_score_map(record.score_map))

    def publish_last(self) -> None:
        """Send what was committed last, and wait until the subscriber has it."""
        self.channel.publish(*self._last)
        assert self._subscriber.receive(_PATIENCE_SECONDS) is not None


class _Measuring:
    """Measures one case, a round at a time."""

    def __init__(self, bench: Bench, subject: _Subject, outbox: _Outbox) -> None:
        self.subject, self.rounds = subject, Rounds()
        self._bench, self._outbox = bench, outbox
        self._path = bench.micrograph((subject.size_px, subject.size_px), subject.kind)
        self._picker = bench.picker(subject.model)
        self.floor = Floor(self._picker, bench.models / subject.model, self._path, bench.threads)
        self.was_cold = True
        self._record = record_picks(
            self._picker, read_micrograph(self._path, as_stored=True), read_seconds=0.0, since=time.monotonic()
        )

    def run(self) -> None:
        """One round: the floor, the whole, and each stage alone."""
        time_, picker = self.rounds.time, self._picker
        model, contract = picker.model, picker.model.contract
        self._chill()
        time_("floor: read", self.floor.read)
        time_("floor: infer", self.floor.infer)
        self.rounds.total("floor", _FLOOR)
        self._chill()
        time_("whole", lambda: self._bench.pick(picker, self._path))
        self._chill()
        micrograph = time_("read", lambda: read_micrograph(self._path, as_stored=True))
        picture = picker.prepare(micrograph)
        rescaled = time_("rescale", lambda: rescale(micrograph.pixels, picture.rescaling))
        invert = picker.settings.contrast != contract.contrast
        time_("standardise", lambda: normalise(rescaled, contract.normalisation, contract.diameter_px, invert=invert))
        time_("tile", lambda: [tiles.shape for tiles in batches_of(picker, picture)])
        time_("infer", lambda: [model.score(tiles) for tiles in self.floor.ready])
        time_("peaks", lambda: picker.find(self._record.score_map, picture))
        time_("write", lambda: write_star(self._bench.folder / "stage.star", self._record.picks))
        time_("commit", lambda: self._outbox.commit_record(self._record))
        time_("publish", self._outbox.publish_last)

    def case(self) -> Case:
        """What was found."""
        subject = self.subject
        return Case(
            model=subject.model,
            size_px=subject.size_px,
            kind=subject.kind,
            cache="cold" if subject.cold else "warm",
            tiles=self.floor.tiles,
            picks=len(self._record.picks),
            seconds=self.rounds.spreads(),
            times_floor=self.rounds.ratio("whole", "floor"),
        )

    def _chill(self) -> None:
        if self.subject.cold:
            self.was_cold &= drop_from_cache(self._path)


def measure(bench: Bench) -> Stages:
    """Measure all cases; those that are compared, in turns."""
    size_px = bench.scale.size_px
    cases: list[Case] = []
    growth: list[Growth] = []
    cold_is_cold = True
    with _Outbox(bench.folder / "outbox") as outbox:
        for model in MODELS:
            measured = _measure_in_turns(
                bench, outbox, [_Subject(model=model, size_px=s) for s in bench.scale.sizes_px]
            )
            cases += [m.case() for m in measured]
            growth += [_growth(measured[0], later) for later in measured[1:]]
        for model in ("mlp", "fcn"):
            kinds = [_Subject(model=model, size_px=size_px, kind=kind) for kind in KINDS[1:]]
            cases += [m.case() for m in _measure_in_turns(bench, outbox, kinds)]
        frozen = [_Subject(model="fcn", size_px=size_px, kind=kind, cold=True) for kind in KINDS]
        measured = _measure_in_turns(bench, outbox, frozen)
        cases += [m.case() for m in measured]
        cold_is_cold = all(m.was_cold for m in measured)
    return Stages(cases=cases, growth=growth, cold_is_cold=cold_is_cold)


def _measure_in_turns(bench: Bench, outbox: _Outbox, subjects: Sequence[_Subject]) -> list[_Measuring]:
    """Rounds over all subjects, as many as there is time for."""
    measured = [_Measuring(bench, subject, outbox) for subject in subjects]
    for number in rounds_within(bench.scale.rounds, bench.scale.budget_seconds):
        for one in measured:
            s = one.subject
            cold = ", cold" if s.cold else ""
            bench.say(f"{s.model} on {s.size_px} x {s.size_px} {s.kind}{cold}, round {number + 1}")
            one.run()
    return measured


def _growth(small: _Measuring, large: _Measuring) -> Growth:
    before, after = (m.rounds.seconds["whole"] for m in (small, large))
    return Growth(
        model=small.subject.model,
        from_px=small.subject.size_px,
        to_px=large.subject.size_px,
        times_pixels=(large.subject.size_px / small.subject.size_px) ** 2,
        times_seconds=spread([b / a for a, b in zip(before, after, strict=True)]),
    )
