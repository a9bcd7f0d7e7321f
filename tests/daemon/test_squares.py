"""What came of grid squares, which promise most, and what is told of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import prometheus_client
import pytest

from benchmarks.figures import fill_tables
from benchmarks.squares import FIGURES, PAGE, Figures, chance, run_session, tables
from frazil.documents import (
    AdviceDocument,
    Grade,
    MicrographDocument,
    Place,
    QualityDocument,
    SquareDocument,
    decode_document,
)
from frazil.grid import Exposure, Squares, hindsight, rank, skippable
from frazil.grid.ranking import rank_correlation
from frazil.health.metrics import Metrics
from frazil.session.assess import SquareWriter
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox


def exposure(seq: int, square: str, picks: int, grade: Grade = "good", hole: str = "1") -> Exposure:
    return Exposure(
        seq=seq,
        grid="",
        square=square,
        hole=hole,
        stage_x_um=float(seq),
        stage_y_um=None if square == "lost" else -float(seq),
        grade=grade,
        picks=picks,
        relative_ice_thickness=0.1 * seq,
        ctf_resolution_angstrom=4.0 + seq,
    )


# --- what came of them --------------------------------------------------------------------------------------------


def test_bad_micrographs_give_no_particles_and_a_later_assessment_replaces_an_earlier_one() -> None:
    squares = Squares()
    assert squares.note("a", exposure(1, "7", 300)) == {("", "7")}
    assert squares.note("b", exposure(2, "7", 200, "bad", hole="2")) == {("", "7")}
    square = squares.square("", "7")
    assert (square.count("good"), square.count("bad"), square.particles) == (1, 1, 300)
    assert square.stage_um == (1.5, -1.5)
    assert square.ctf_resolution_angstrom == 5.5

    assert squares.note("a", exposure(3, "8", 310)) == {("", "7"), ("", "8")}
    assert [(one.name, one.particles) for one in squares.all()] == [("7", 0), ("8", 310)]
    assert squares.note("a", None) == {("", "8")}
    assert len(squares) == 1


def test_holes_are_told_of_that_changed_since() -> None:
    squares = Squares()
    for seq, hole in ((1, "h1"), (2, "h2"), (5, "h1")):
        squares.note(str(seq), exposure(seq, "7", 100 * seq, hole=hole))
    told = {one.hole: (one.micrographs, one.particles) for one in squares.square("", "7").holes()}
    assert told == {"h1": (2, 600), "h2": (1, 200)}
    assert [one.hole for one in squares.square("", "7").holes(since=2)] == ["h1"]


# --- which promise most -------------------------------------------------------------------------------------------


def ranked(particles: dict[str, list[int]]) -> Squares:
    squares, seq = Squares(), 0
    for name, values in particles.items():
        for value in values:
            seq += 1
            squares.note(str(seq), exposure(seq, name, value))
    return squares


def test_a_single_lucky_exposure_does_not_lead_the_order() -> None:
    rng = np.random.default_rng(1)
    often = {f"{number}": rng.poisson(200 + 20 * number, 12).tolist() for number in range(8)}
    promises = rank(ranked({**often, "lucky": [420], "unlucky": [30]}).all())
    by_name = {one.square.name: one for one in promises}
    assert 200 < by_name["lucky"].particles < 420
    assert 30 < by_name["unlucky"].particles < 200
    assert by_name["lucky"].error > 2 * by_name["7"].error
    assert [one.square.name for one in promises if one.square.name.isdigit()] == [str(n) for n in range(7, -1, -1)]


def test_where_squares_do_not_differ_all_promise_the_same() -> None:
    rng = np.random.default_rng(2)
    promises = rank(ranked({f"{n}": rng.normal(200, 60, 4).astype(int).tolist() for n in range(30)}).all())
    spread = max(one.particles for one in promises) - min(one.particles for one in promises)
    assert spread < 40


def test_nothing_is_said_of_two_squares_and_of_nothing() -> None:
    assert rank([]) == []
    assert rank(ranked({"a": [1, 2], "b": [5, 6]}).all()) == []
    assert hindsight([]) is None
    assert [one.particles for one in rank(ranked({"a": [0], "b": [0], "c": [0]}).all())] == [0, 0, 0]


def test_a_square_is_skipped_once_it_is_surely_poor() -> None:
    particles = {f"{number}": [200, 220, 180, 210, 190, 205] for number in range(8)}
    assert skippable(rank(ranked({**particles, "poor": [10, 20]}).all())) == []
    found = skippable(rank(ranked({**particles, "poor": [10, 20, 5, 30, 15, 12, 18, 9]}).all()))
    assert [one.promise.square.name for one in found] == ["poor"]
    assert "after 8" in found[0].reason


def test_hindsight_tells_a_ranking_that_held_from_one_that_did_not() -> None:
    held = {f"{number}": [100 * number + 50] for number in range(8)}
    squares, seq = Squares(), 0
    for turn in range(12):
        for name, (value,) in held.items():
            seq += 1
            squares.note(str(seq), exposure(seq, name, value + turn))
    found = hindsight(squares.all())
    assert found is not None
    assert (found.correlation, found.squares, found.exposures) == (pytest.approx(1.0), 8, 48)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 45])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 1, 1]), np.array([1, 2, 3])) == 0
    # As scipy.stats.spearmanr gives it, with ties.
    assert rank_correlation(np.array([1, 2, 2, 4, 5]), np.array([3, 1, 2, 2, 5])) == pytest.approx(0.2894736842)


def test_a_tenth_of_a_session_orders_its_squares_better_than_chance() -> None:
    for seed in range(5):
        found, *_, squares = run_session("screened", seed)
        correlation, gained, _ = found["drawn to the grid's mean"]
        assert correlation > chance(squares)
        assert gained > 1.1


def test_the_page_on_ranking_is_what_its_figures_give() -> None:
    figures = msgspec.json.decode(FIGURES.read_bytes(), type=Figures)
    page = PAGE.read_text("utf-8")
    assert fill_tables(page, tables(figures)) == page
    rows = {(row.visit, row.method): row for row in figures.rows}
    for visit in ("screened", "uneven"):
        row = rows[visit, "drawn to the grid's mean"]
        assert row.better_than_chance == figures.sessions
        assert row.of_best > 0.9


# --- what is told of them -----------------------------------------------------------------------------------------


class Sent:
    """Where documents are published to."""

    session = ""

    def __init__(self) -> None:
        self.documents: list[object] = []

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        self.documents.append(decode_document(body))


class Rig:
    """Micrographs that are assessed at once, and a clock that is set by hand."""

    def __init__(self, folder: Path, make_document: Callable[..., MicrographDocument], *, advises: bool) -> None:
        self.now, self.folder, self.make_document, self.advises = 100.0, folder, make_document, advises
        self.sent = Sent()
        self.open()

    def open(self) -> None:
        """As at the start of a daemon."""
        self.ledger = Ledger(self.folder / "ledger")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.outbox = Outbox(self.ledger, self.sent, metrics, Path("/w"), self.folder / "out", threading.Event())
        self.writer = SquareWriter(self.ledger, self.outbox, advises=self.advises, clock=lambda: self.now)

    def assess(self, name: str, square: str, picks: int, grade: Grade = "good") -> None:
        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
        of = self.outbox.commit(self.make_document(f"/w/{name}"), key=name, handled=handled)
        self.outbox.commit(
            QualityDocument(
                epoch="",
                seq=0,
                micrograph=name,
                path=f"/w/{name}",
                of=of,
                grade=grade,
                picks=picks,
                usable_fraction=1.0,
                pixel_size_angstrom=1.0,
                place=Place(square=square, hole=f"h{name}", stage_x_um=10.0, stage_y_um=-20.0),
            ),
            key=name,
        )

    def write(self, seconds: float = 0.0) -> list[SquareDocument | AdviceDocument]:
        """What is told after some time."""
        self.now += seconds
        before = len(self.sent.documents)
        self.writer.write_due()
        return [one for one in self.sent.documents[before:] if isinstance(one, SquareDocument | AdviceDocument)]

    def close(self) -> None:
        self.writer.close()
        self.ledger.close()


@pytest.fixture
def make_rig(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*, advises: bool = False) -> Rig:
        made.append(Rig(tmp_path, make_document, advises=advises))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_square_is_told_of_when_it_changes_at_most_every_half_minute(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.assess("a", "7", 300)
    (told,) = rig.write()
    assert isinstance(told, SquareDocument)
    assert (told.square, told.micrographs, told.good, told.particles) == ("7", 1, 1, 300)
    assert (told.stage_x_um, told.stage_y_um) == (10.0, -20.0)
    assert rig.write(40) == []

    rig.assess("b", "7", 100, "bad")
    (told,) = rig.write(3)
    rig.assess("c", "7", 250)
    assert rig.write(3) == []  # it was told of just now
    (told,) = rig.write(40)
    assert isinstance(told, SquareDocument)
    assert (told.micrographs, told.bad, told.particles) == (3, 1, 550)
    assert [one.hole for one in told.holes] == ["hc"]  # the others were in earlier documents


def test_what_was_not_told_before_a_restart_is_told_after_it_and_nothing_twice(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.assess("a", "7", 300)
    assert len(rig.write()) == 1
    rig.assess("b", "8", 200)
    rig.close()
    rig.open()
    (told,) = rig.write()
    assert isinstance(told, SquareDocument)
    assert (told.square, told.particles) == ("8", 200)
    rig.close()
    rig.open()
    assert rig.write() == []


def test_many_squares_at_once_are_told_of_a_few_at_a_time_so_that_picks_go_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    for number in range(25):
        rig.assess(f"{number}", f"{number:02}", 300)
    told = [[one.square for one in rig.write(3) if isinstance(one, SquareDocument)] for _ in range(4)]
    assert [len(some) for some in told] == [10, 10, 5, 0]
    assert sorted(square for some in told for square in some) == [f"{number:02}" for number in range(25)]


def test_micrographs_without_a_place_say_nothing_of_squares(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.assess("a", "", 300)
    assert rig.write() == []
    with LedgerReader(rig.ledger.file) as reader:
        assert [one.square for one in reader.qualities()] == [""]


def test_advice_is_given_if_wanted_and_again_only_when_it_changes(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(advises=True)
    for turn in range(6):
        for number in range(6):
            rig.assess(f"{turn}-{number}", f"{number}", 5 if number == 0 else 200 + 20 * number + turn)
    order, skip = (one for one in rig.write() if isinstance(one, AdviceDocument))
    assert order.advice == "microscope.control.reorder_gridsquares"
    assert [one.square for one in order.squares] == ["5", "4", "3", "2", "1"]
    assert all(one.expected_particles_error > 0 for one in order.squares)
    assert skip.advice == "microscope.control.skip_gridsquares"
    assert [one.square for one in skip.squares] == ["0"]
    rig.assess("later", "5", 305)
    assert not any(isinstance(one, AdviceDocument) for one in rig.write(100))


def test_a_square_that_is_no_longer_to_be_skipped_is_in_the_order_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(advises=True)
    for turn in range(6):
        for number in range(6):
            rig.assess(f"{turn}-{number}", f"{number}", 5 if number == 0 else 200 + 20 * number + turn)
    rig.write()
    for turn in range(12):
        rig.assess(f"better-{turn}", "0", 210 + turn)
    (order,) = (one for one in rig.write(100) if isinstance(one, AdviceDocument))
    assert order.advice == "microscope.control.reorder_gridsquares"
    assert "0" in [one.square for one in order.squares]
