"""Repicking: picks made again from kept score maps are those that picking gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.documents import MicrographDocument, columns_of, encode_document
from frazil.errors import RetuneError
from frazil.limits import LimitsPatch
from frazil.model import Model, load_model
from frazil.picking import Micrograph, Picker, PickingSettings, ScoreMap
from frazil.picking.picks import in_steps
from frazil.record import Record, record_picks
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import RETUNE_KEY, Handled, Ledger, LedgerReader
from frazil.session.retune import LimitsChange, MicrographCount, count, preview, request_change
from frazil.session.retune.limits import decode_request
from frazil.session.retune.repick import pack_score_map

DIAMETER_ANGSTROM = 48.0
EDGE_ANGSTROM = DIAMETER_ANGSTROM / 4


class Session:
    """A ledger with picked micrographs, and what picked them."""

    def __init__(self, folder: Path, model: Model, scene: Callable[..., object]) -> None:
        self.file = folder / "frazil-ledger.sqlite"
        self.ledger = Ledger(self.file)
        self.model = model
        self._scene = scene

    def pick(self, seed: int, **changed: object) -> Record:
        picker = Picker(self.model, PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM), LimitsPatch(**changed))  # type: ignore[arg-type]
        pixels = self._scene(seed=seed, count=25).pixels  # type: ignore[attr-defined]
        micrograph = Micrograph(path=Path(f"{seed}.mrc"), pixels=pixels, pixel_size_angstrom=2.0)
        return record_picks(picker, micrograph, read_seconds=0, since=0)

    def add(self, seed: int, *, keep_map: bool = True, **changes: object) -> Record:
        record = self.pick(seed)
        document = msgspec.structs.replace(record.document, **changes)

        def body_at(epoch: str, seq: int, older: int) -> bytes:
            return encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=older))

        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
        kept = pack_score_map(record.score_map) if keep_map else None
        self.ledger.commit_picked(f"{seed}.mrc", handled, body_at, score_map=kept)
        return record

    def add_map(self, name: str, score_map: ScoreMap) -> None:
        document = self.pick(0).document
        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
        self.ledger.commit_picked(
            name, handled, lambda *_: encode_document(document), score_map=pack_score_map(score_map)
        )

    def request(self) -> LimitsChange:
        return decode_request(self.ledger.recall(RETUNE_KEY))


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory, blob_model: Path, make_scene: Callable[..., object]
) -> Iterator[Session]:
    made = Session(tmp_path_factory.mktemp("session"), load_model(blob_model, "cpu", 1), make_scene)
    with closing(made.ledger):
        for seed in range(6):
            made.add(seed)
        yield made


@pytest.fixture
def own_session(tmp_path: Path, blob_model: Path, make_scene: Callable[..., object]) -> Iterator[Session]:
    made = Session(tmp_path, load_model(blob_model, "cpu", 1), make_scene)
    with closing(made.ledger):
        yield made


tunings = st.fixed_dictionaries(
    {},
    optional={
        "threshold": st.one_of(st.floats(0, 1), st.integers(0, 65535).map(lambda step: step / 65535)),
        "min_distance_angstrom": st.floats(0, 200),
        "edge_margin_angstrom": st.floats(EDGE_ANGSTROM, 400),
    },
)


@pytest.mark.parametrize("seed", range(6))
def test_with_the_limits_as_they_were_the_picks_are_those_of_the_document(session: Session, seed: int) -> None:
    with LedgerReader(session.file) as reader:
        again = preview(reader, f"{seed}.mrc", LimitsPatch())
    assert len(again.picks) > 5
    assert columns_of(again.picks) == again.document.picks


@settings(max_examples=25)
@given(seed=st.integers(0, 5), changed=tunings)
def test_tuned_picks_are_those_that_picking_with_these_limits_gives(
    session: Session, seed: int, changed: dict[str, float]
) -> None:
    fresh = session.pick(seed, **changed)
    with LedgerReader(session.file) as reader:
        tuned = preview(reader, f"{seed}.mrc", LimitsPatch(**changed))
    for name in ("y", "x", "score"):
        assert np.array_equal(getattr(tuned.picks, name), getattr(fresh.picks, name))
    assert tuned.limits.threshold == fresh.document.threshold
    assert tuned.limits.min_distance_angstrom == fresh.document.min_distance_angstrom
    assert tuned.limits.edge_margin_angstrom == fresh.document.edge_margin_angstrom


@settings(max_examples=30)
@given(changed=tunings, thresholds=st.lists(st.floats(0, 1), max_size=5))
def test_counts_are_those_of_the_previews(session: Session, changed: dict[str, float], thresholds: list[float]) -> None:
    sha256 = session.model.identity.sha256
    with LedgerReader(session.file) as reader:
        counted = {
            one.key: one
            for one in count(
                reader, LimitsChange.of(LimitsPatch(**changed), sha256), model_sha256=sha256, thresholds=thresholds
            )
        }
        assert len(counted) == 6
        for path, one in counted.items():
            now = preview(reader, path, LimitsPatch())
            assert (one.before, one.unrevisable) == (len(now.picks), "")
            assert one.after == len(preview(reader, path, LimitsPatch(**changed)).picks)
            for threshold, picks in zip(thresholds, one.at, strict=True):
                there = preview(reader, path, LimitsPatch(threshold=threshold).over(LimitsPatch(**changed)))
                assert picks == len(there.picks)


def test_a_score_exactly_at_the_threshold_counts(session: Session) -> None:
    with LedgerReader(session.file) as reader:
        score = float(preview(reader, "0.mrc", LimitsPatch(threshold=0.0)).picks.score[-2])
        assert 0 < score < 1
        at = preview(reader, "0.mrc", LimitsPatch(threshold=score)).picks
        above = preview(reader, "0.mrc", LimitsPatch(threshold=score + 1 / 65535)).picks
    assert at.score.min() == score
    assert above.score.min() > score


def test_a_margin_nearer_to_the_edge_than_the_scores_is_refused_and_one_tuned_before_can_be_taken_back(
    own_session: Session,
) -> None:
    own_session.add(0)
    own_session.add(1, edge_margin_angstrom=100.0)  # as after a tuning
    with LedgerReader(own_session.file) as reader:
        with pytest.raises(RetuneError, match=r"at least 12 Å, where its kept scores begin, found 11.9 ") as refused:
            preview(reader, "0.mrc", LimitsPatch(edge_margin_angstrom=11.9))
        assert refused.value.reason == "margin"
        back = preview(reader, "1.mrc", LimitsPatch(edge_margin_angstrom=EDGE_ANGSTROM))
        assert columns_of(back.picks) == own_session.pick(1).document.picks
        change = LimitsChange(edge_margin_angstrom=11.9)
        assert [one.unrevisable for one in count(reader, change)] == ["margin", "margin"]
        with pytest.raises(RetuneError, match="kept scores begin"):
            request_change(reader, LimitsPatch(edge_margin_angstrom=11.9))
    assert own_session.request() == LimitsChange()


def test_a_micrograph_without_map_is_named_and_keeps_its_count(own_session: Session) -> None:
    own_session.add(0, keep_map=False)
    with LedgerReader(own_session.file) as reader:
        with pytest.raises(RetuneError, match=r"^0\.mrc: expected a kept score map, found none") as refused:
            preview(reader, "0.mrc", LimitsPatch())
        assert refused.value.reason == "no_map"
        with pytest.raises(RetuneError, match=r"nowhere\.mrc: expected a micrograph with a result"):
            preview(reader, "nowhere.mrc", LimitsPatch())
        (one,) = count(reader, LimitsChange(min_distance_angstrom=1.0))
    assert one.before == one.after > 0
    assert one == MicrographCount(key="0.mrc", before=one.before, after=one.before, unrevisable="no_map")


def test_a_threshold_is_for_the_model_that_it_was_tuned_with(own_session: Session) -> None:
    own_session.add(0)
    document = own_session.pick(1).document
    own_session.add(1, model=msgspec.structs.replace(document.model, version=9, sha256="other"))
    with LedgerReader(own_session.file) as reader:
        counts = {one.key: one for one in count(reader, LimitsChange(thresholds={"other": 1.0}))}
        assert counts["0.mrc"].after == counts["0.mrc"].before > 0
        assert counts["1.mrc"].after < counts["1.mrc"].before
        assert request_change(reader, LimitsPatch(threshold=0.25)) == LimitsChange(thresholds={"other": 0.25})


def test_a_document_that_does_not_say_its_distances_has_the_usual_ones(own_session: Session) -> None:
    own_session.add(0, min_distance_angstrom=None, edge_margin_angstrom=None)
    with LedgerReader(own_session.file) as reader:
        again = preview(reader, "0.mrc", LimitsPatch())
    assert columns_of(again.picks) == again.document.picks
    assert again.limits.min_distance_angstrom == pytest.approx(DIAMETER_ANGSTROM / 2)


def test_first_counts_come_from_all_over_the_session(session: Session) -> None:
    keys = [f"{i % 6}.mrc" for i in range(64)]
    with LedgerReader(session.file) as reader:
        first = [one.key for one, _ in zip(count(reader, LimitsChange(), keys=keys), range(4), strict=False)]
    assert first == [keys[0], keys[16], keys[32], keys[48]]


def test_requests_that_wait_add_up(own_session: Session) -> None:
    own_session.add(0)
    sha256 = own_session.model.identity.sha256
    with LedgerReader(own_session.file) as reader:
        request_change(reader, LimitsPatch(threshold=0.7, min_distance_angstrom=30))
        request_change(reader, LimitsPatch(min_distance_angstrom=20))
        request_change(reader, LimitsPatch(threshold=0.2), model_sha256="other")
    assert own_session.request() == LimitsChange(
        thresholds={sha256: 0.7, "other": 0.2}, min_distance_angstrom=20, edge_margin_angstrom=None
    )


def test_without_a_result_there_is_nothing_to_tune_by(own_session: Session) -> None:
    with LedgerReader(own_session.file) as reader, pytest.raises(RetuneError, match="expected a result to tune by"):
        request_change(reader, LimitsPatch(threshold=0.5))


def test_documents_say_their_limits(session: Session) -> None:
    document: MicrographDocument = session.pick(0, min_distance_angstrom=30.0).document
    assert (document.min_distance_angstrom, document.edge_margin_angstrom) == (30.0, EDGE_ANGSTROM)


def test_a_preview_of_a_large_map_is_quick(own_session: Session) -> None:
    own_session.add(0)
    rng = np.random.default_rng(0)
    large = ScoreMap(  # what a micrograph of 4096 x 4096 pixels has, noise all over
        scores=in_steps(rng.random((256, 256)).astype(np.float32)),
        y_px=np.arange(256) * 16.0 + 8,
        x_px=np.arange(256) * 16.0 + 8,
        shape=(4096, 4096),
        margin_px=0.0,
    )
    own_session.add_map("large.mrc", large)
    seconds = []
    with LedgerReader(own_session.file) as reader:
        for _ in range(5):
            started = time.thread_time()
            assert len(preview(reader, "large.mrc", LimitsPatch(threshold=0.0)).picks) > 1000
            seconds.append(time.thread_time() - started)
    assert min(seconds) < 0.2
