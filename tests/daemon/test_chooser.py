"""The session's own threshold: chosen at once, held in time, followed by earlier results, the same after a kill."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import prometheus_client
import pytest

from frazil.documents import MicrographDocument, decode_document
from frazil.health.metrics import Metrics
from frazil.limits import LimitsPatch
from frazil.model import Model, load_model
from frazil.picking import Micrograph, Picker, PickingSettings, ScoreMap
from frazil.picking.picks import in_steps
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import CHOICE_KEY, Handled, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox
from frazil.session.pick.model_changes import ModelChange
from frazil.session.pick.serving import Offer, Serving
from frazil.session.retune import Chooser, LimitsRequest, Reviser, SessionChoice, preview, request_change
from frazil.session.retune.chooser import ENOUGH_MICROGRAPHS, HYSTERESIS, LOOKS, describe_threshold
from frazil.session.retune.repick import pack_score_map

Micrographs = Callable[[int], Micrograph]
PLAIN, FAINT = (30.0, 30.0), (4.0, 9.0)
"""How deep discs are, from the faintest to the plainest, where noise has a standard deviation of 10."""


class Sent:
    session = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        pass


class Killed(Exception):
    """The process ends here."""


class Session:
    """A session turned by hand: what the picking thread hands out is written at once."""

    def __init__(
        self, folder: Path, model: Model, *, settings: PickingSettings | None = None, **chooser: object
    ) -> None:
        self.folder, self.model = folder, model
        settings = settings or PickingSettings(diameter_angstrom=48)
        chooses = bool(chooser.setdefault("chooses", True))
        self.ledger = Ledger(folder / "ledger.sqlite")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        outbox = Outbox(self.ledger, Sent(), metrics, folder, folder / "out", threading.Event())  # type: ignore[arg-type]
        self.outbox, self.reviser = outbox, Reviser(self.ledger, outbox, settings, chooses=chooses)
        self.chooser = Chooser(self.ledger.recall(CHOICE_KEY), ledger=self.ledger.file, **chooser)  # type: ignore[arg-type]
        self.serving = Serving(
            Picker(model, settings),
            self.reviser.change,
            chooser=self.chooser,
            probation_micrographs=0,
            faults_allowed=0,
        )

    def close(self) -> None:
        self.reviser.close()
        self.ledger.close()

    def advance(self) -> None:
        self.reviser._next_look = 0.0
        if (request := self.reviser.next_request()) is not None:
            self.serving.change_limits(request)
        for change in self.serving.advance():
            if isinstance(change, LimitsRequest):
                self.reviser.grant(change)
            else:
                assert isinstance(change, ModelChange)
        self.revise()

    def revise(self) -> None:
        while self.reviser.wait_seconds(1.0) < 1.0:
            self.reviser.revise_next(is_busy=False)

    def pick(
        self, micrograph: Micrograph, *, kill: str = "", keep_map: bool = True, revise: bool = True
    ) -> MicrographDocument:
        """Pick a micrograph; the process may end before it is committed, or after, before anything is revised."""
        self.advance()
        record = self.serving.pick(micrograph, read_seconds=0, since=time.monotonic())
        for change in self.serving.take_chosen():
            self.reviser.grant(change)
        if kill == "before its commit":
            raise Killed
        news = self.serving.take_news()
        self.outbox.commit(
            record.document,
            key=micrograph.path.name,
            handled=Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f"),
            score_map=pack_score_map(record.score_map) if keep_map else None,
            remember=None if news is None else (CHOICE_KEY, news),
        )
        if kill:
            raise Killed
        if revise:
            self.revise()
        return record.document

    def documents(self) -> list[MicrographDocument]:
        with closing(LedgerReader(self.ledger.file)) as reader:
            found = [decode_document(stored.body) for stored in reader.documents()]
        return [document for document in found if isinstance(document, MicrographDocument)]

    def newest(self) -> dict[str, MicrographDocument]:
        return {document.micrograph: document for document in self.documents()}

    def request(self, patch: LimitsPatch | None = None, *, choose: bool = False) -> None:
        with closing(LedgerReader(self.ledger.file)) as reader:
            request_change(reader, patch or LimitsPatch(), choose=choose)


@pytest.fixture(scope="module")
def model(blob_model: Path) -> Model:
    return load_model(blob_model, "cpu", 1)


@pytest.fixture(scope="module")
def micrograph_of(make_scene: Callable[..., object]) -> Micrographs:
    """The first micrograph of a session is plain, the others are faint."""
    made: dict[int, Micrograph] = {}

    def make(number: int) -> Micrograph:
        if number not in made:
            scene, rng = make_scene(seed=number, count=25), np.random.default_rng(number)
            pixels = rng.normal(100, 10, scene.pixels.shape).astype(np.float32)  # type: ignore[attr-defined]
            y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
            depths = np.linspace(*(FAINT if number else PLAIN), 25)
            for cy, cx, depth in zip(scene.truth.y, scene.truth.x, depths, strict=True):  # type: ignore[attr-defined]
                pixels[np.hypot(y - cy, x - cx) <= 12] -= depth
            made[number] = Micrograph(path=Path(f"/titan/{number:02}.mrc"), pixels=pixels, pixel_size_angstrom=2.0)
        return made[number]

    return make


@pytest.fixture
def open_session(tmp_path: Path, model: Model) -> Iterator[Callable[..., Session]]:
    """Open the session, again after the one before was killed or closed."""
    opened: list[Session] = []

    def start(**changes: object) -> Session:
        if opened:
            opened[-1].close()
        opened.append(Session(tmp_path, model, **changes))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    opened[-1].close()


def test_the_first_micrograph_is_picked_with_the_threshold_chosen_from_itself(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    document = session.pick(micrograph_of(1))
    assert document.threshold != 0.5
    assert min(document.picks.score) >= document.threshold
    assert not isinstance(document.chosen, msgspec.UnsetType)
    assert (document.chosen.micrographs, document.chosen.held) == (1, False)
    assert document.chosen.precision == pytest.approx(np.mean(document.picks.score), abs=1e-3)
    assert len(session.documents()) == 1
    state = session.serving.threshold
    assert (state.value, state.by, state.micrographs, state.held) == (document.threshold, "frazil", 1, False)


def test_what_was_picked_before_follows_from_its_kept_map_and_a_small_change_moves_nothing(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session, thresholds = open_session(), []
    for number in range(8):
        thresholds.append(session.pick(micrograph_of(number)).threshold)
        assert {document.threshold for document in session.newest().values()} == {thresholds[-1]}
    changes = [(a, b) for a, b in itertools.pairwise(thresholds) if a != b]
    assert 1 <= len(changes) <= len([look for look in LOOKS if 1 < look <= 8])
    assert all(abs(b - a) > HYSTERESIS for a, b in changes)
    # Each change revises each earlier result once at most, and nothing else does.
    assert len(session.documents()) <= 8 + 7 * len(changes)
    for document in session.newest().values():
        fresh = Picker(session.model, PickingSettings(diameter_angstrom=48, threshold=thresholds[-1]))
        picks = fresh.pick(micrograph_of(int(document.micrograph[:2])))
        np.testing.assert_allclose(document.picks.score, picks.score, atol=1e-6)


def test_after_enough_micrographs_with_picks_it_is_held(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    for number in range(1, ENOUGH_MICROGRAPHS + 1):
        pixels = micrograph_of(number % 5 + 1).pixels
        for _ in range(2):  # requeued, it counts once
            document = session.pick(
                Micrograph(path=Path(f"/titan/{number}.mrc"), pixels=pixels, pixel_size_angstrom=2.0)
            )
        assert (document.chosen.micrographs, document.chosen.held) == (number, number == ENOUGH_MICROGRAPHS)  # type: ignore[union-attr]
    count, before = len(session.documents()), session.ledger.recall(CHOICE_KEY)
    plain = session.pick(micrograph_of(0))
    assert (plain.threshold, plain.chosen) == (document.threshold, document.chosen)
    assert (len(session.documents()), session.ledger.recall(CHOICE_KEY)) == (count + 1, before)


@pytest.mark.parametrize("kill", ["before its commit", "after its commit"])
def test_killed_anywhere_it_ends_as_without_a_kill(
    open_session: Callable[..., Session], micrograph_of: Micrographs, tmp_path: Path, model: Model, kill: str
) -> None:
    (tmp_path / "unhurt").mkdir()
    with closing(Session(tmp_path / "unhurt", model)) as unhurt:
        expected = [unhurt.pick(micrograph_of(number)) for number in range(7)]
        final = {name: (d.threshold, d.picks) for name, d in unhurt.newest().items()}
    session, picked = open_session(), []
    for number in range(7):
        try:
            session.pick(micrograph_of(number), kill=kill)
        except Killed:
            session = open_session()
        if kill == "before its commit":  # the next start picks it
            picked.append(session.pick(micrograph_of(number)))
    if not picked:
        picked = [d for d in session.documents() if not d.supersedes]
    session.advance()
    assert [(d.threshold, d.chosen, d.picks) for d in picked] == [(d.threshold, d.chosen, d.picks) for d in expected]
    assert {name: (d.threshold, d.picks) for name, d in session.newest().items()} == final


def test_an_operators_threshold_wins_until_frazil_is_to_choose_again(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    chosen = [session.pick(micrograph_of(number)) for number in range(1, 5)][-1].threshold
    session.request(LimitsPatch(threshold=0.8))
    session.advance()
    assert {d.threshold for d in session.newest().values()} == {0.8}
    assert {d.chosen for d in session.newest().values()} == {msgspec.UNSET}
    session = open_session()  # it holds after a restart
    fixed = session.pick(micrograph_of(5))
    assert (fixed.threshold, fixed.chosen, session.serving.threshold.by) == (0.8, msgspec.UNSET, "operator")
    session.request(choose=True)
    session.advance()
    assert {abs(d.threshold - chosen) <= HYSTERESIS for d in session.newest().values()} == {True}
    assert session.serving.threshold.by == "frazil"
    again = session.pick(micrograph_of(6))
    assert not isinstance(again.chosen, msgspec.UnsetType)


def test_where_the_settings_fix_it_it_is_fixed_and_frazil_may_be_asked_to_choose_nevertheless(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    settings = PickingSettings(diameter_angstrom=48, threshold=0.7)
    session = open_session(settings=settings, chooses=False, setting=0.7)
    document = session.pick(micrograph_of(1))
    assert (document.threshold, document.chosen, session.serving.threshold.by) == (0.7, msgspec.UNSET, "operator")
    choice = SessionChoice.decode(session.ledger.recall(CHOICE_KEY))
    assert describe_threshold(document, session.reviser.change, choice) == "set by the operator"
    session.request(choose=True)
    session.advance()  # from the kept map
    (revised,) = session.newest().values()
    assert revised.threshold < 0.7
    assert session.serving.threshold.by == "frazil"
    assert "chosen from 1 micrograph so far" in describe_threshold(revised, session.reviser.change, choice)


def test_without_choosing_it_is_the_models_own(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session(chooses=False)
    document = session.pick(micrograph_of(1))
    assert (document.threshold, document.chosen, session.serving.threshold.by) == (0.5, msgspec.UNSET, "model")
    assert describe_threshold(document, None, None) == "the model's own"


def test_a_choice_that_nobody_wants_any_more_is_dropped(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    assert session.pick(micrograph_of(1)).threshold != 0.5
    assert open_session(chooses=False).pick(micrograph_of(2)).threshold == 0.5


def test_a_session_that_goes_on_without_a_choice_begins_with_its_kept_maps(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session(chooses=False)
    for number in range(1, 5):
        session.pick(micrograph_of(number))
    session = open_session()
    session.advance()
    assert len({d.threshold for d in session.newest().values()} - {0.5}) == 1
    assert len(session.documents()) == 8
    document = session.pick(micrograph_of(5))
    assert document.chosen.micrographs == 5  # type: ignore[union-attr]


def test_what_was_picked_with_another_diameter_does_not_follow(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session(settings=PickingSettings(diameter_angstrom=44), chooses=False)
    session.pick(micrograph_of(1))
    session = open_session()
    document = session.pick(micrograph_of(2))
    session.revise()
    assert [d.threshold for d in session.documents()] == [0.5, document.threshold]
    assert document.chosen.micrographs == 1  # type: ignore[union-attr]


def test_another_model_gets_a_choice_of_its_own_and_the_one_before_finds_its_own_again(
    open_session: Callable[..., Session],
    micrograph_of: Micrographs,
    tmp_path: Path,
    make_blob_model: Callable[..., Path],
) -> None:
    session = open_session()
    first = [session.pick(micrograph_of(number)) for number in range(1, 4)][-1]
    make_blob_model(tmp_path / "other", 2, bias=-4.0, threshold=0.6)
    other = load_model(tmp_path / "other" / "2", "cpu", 1)
    session.serving.offer(Offer(picker=Picker(other, session.serving.picker.settings), current="c"))
    document = session.pick(micrograph_of(4))
    assert document.model.version == 2
    assert document.chosen.micrographs == 1  # type: ignore[union-attr]
    assert session.newest()["03.mrc"].threshold == first.threshold
    session.serving.offer(Offer(picker=Picker(session.model, session.serving.picker.settings), current="d"))
    back = session.pick(micrograph_of(5))
    assert back.chosen.micrographs == 4  # type: ignore[union-attr]
    assert abs(back.threshold - first.threshold) <= 0.1


def test_a_precision_that_the_operator_states_is_kept_by_the_estimate(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session(target_precision=0.8)
    strict = [session.pick(micrograph_of(number)) for number in range(1, 4)][-1]
    assert strict.chosen.precision == pytest.approx(0.8, abs=0.05)  # type: ignore[union-attr]
    session = open_session(target_precision=0.5)  # asked otherwise, the same evidence answers at once
    session.advance()
    assert session.serving.threshold.value < strict.threshold - HYSTERESIS  # type: ignore[operator]
    assert session.serving.threshold.micrographs == 3
    assert {d.threshold for d in session.newest().values()} == {session.serving.threshold.value}


def test_other_distances_are_chosen_for_anew_from_the_kept_maps(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    for number in range(1, 4):
        session.pick(micrograph_of(number))
    count = len(session.documents())
    session.request(LimitsPatch(min_distance_angstrom=90.0))
    session.advance()
    assert {d.min_distance_angstrom for d in session.newest().values()} == {90.0}
    assert {d.threshold for d in session.newest().values()} == {session.serving.threshold.value}
    assert len(session.documents()) == count + 3  # each was revised once
    assert session.pick(micrograph_of(4)).chosen.micrographs == 4  # type: ignore[union-attr]


def test_without_kept_maps_it_is_chosen_and_later_micrographs_alone_follow(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    documents = [session.pick(micrograph_of(number), keep_map=False) for number in range(5)]
    assert documents[-1].threshold != documents[0].threshold
    assert len(session.documents()) == 5
    session = open_session()
    assert session.pick(micrograph_of(5)).chosen.micrographs == 6  # type: ignore[union-attr]


def test_a_damaged_record_of_the_choice_costs_no_more_than_the_record(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    for number in range(1, 4):
        session.pick(micrograph_of(number))
    session.ledger.remember(CHOICE_KEY, '{"models": {"x": 7}}')
    session = open_session()
    assert session.pick(micrograph_of(4)).chosen.micrographs == 4  # type: ignore[union-attr]


def test_a_preview_has_the_limits_that_were_chosen(
    open_session: Callable[..., Session], micrograph_of: Micrographs
) -> None:
    session = open_session()
    document = session.pick(micrograph_of(1))
    with closing(LedgerReader(session.ledger.file)) as reader:
        shown = preview(reader, "01.mrc", LimitsPatch())
    assert len(shown.picks) == len(document.picks.score)


def test_choosing_takes_next_to_no_time(open_session: Callable[..., Session], micrograph_of: Micrographs) -> None:
    session = open_session()
    rng = np.random.default_rng(0)
    session.pick(micrograph_of(1))
    picker = session.serving.picker
    picture = picker.prepare(micrograph_of(1))
    score_map = ScoreMap(  # what a micrograph of 4096 x 4096 pixels has, noise all over
        scores=in_steps(rng.random((256, 256)).astype(np.float32) ** 4),
        y_px=np.arange(256) * 16.0 + 8,
        x_px=np.arange(256) * 16.0 + 8,
        shape=(4096, 4096),
        margin_px=0.0,
    )
    seconds = []
    for number in range(ENOUGH_MICROGRAPHS - 2):
        started = time.thread_time()
        session.chooser.consider(picker, session.serving._change, f"{number}", picture, score_map)
        session.chooser.news()
        seconds.append(time.thread_time() - started)
    assert float(np.median(seconds)) < 0.15, seconds
