"""How a model proves good or bad, in shadow and on probation, without a daemon around it."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from frazil.errors import MicrographError, ModelError
from frazil.model import ModelIdentity, load_model
from frazil.picking import Micrograph, Picker, PickingSettings, Picks
from frazil.session.pick.model_changes import ModelChange
from frazil.session.pick.serving import Offer, Probation, Serving
from frazil.session.pick.shadow import Canary, CanaryBounds
from frazil.session.retune import LimitsChange, LimitsRequest

BLIND = -60.0
"""A bias with which the blob model finds nothing."""


@pytest.fixture
def picker_of(tmp_path: Path, make_blob_model: Callable[..., Path]) -> Callable[..., Picker]:
    def make(version: int = 1, **changes: object) -> Picker:
        folder = make_blob_model(tmp_path / "blob", version, **changes)
        return Picker(load_model(folder / str(version), "cpu"), PickingSettings(diameter_angstrom=48))

    return make


def scene_of(make_scene: Callable[..., object], seed: int = 0, **changes: object) -> Micrograph:
    pixels = make_scene(seed=seed, **changes).pixels  # type: ignore[attr-defined]
    return Micrograph(path=Path(f"{seed}.mrc"), pixels=pixels, pixel_size_angstrom=2.0)


def pick(serving: Serving, micrograph: Micrograph) -> int:
    """Version of the model that picked it."""
    serving.advance()
    return serving.pick(micrograph, read_seconds=0, since=time.monotonic()).document.model.version


def test_a_model_that_passes_its_probation_stays(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=3, faults_allowed=0)
    assert pick(serving, scene_of(make_scene)) == 1
    serving.offer(Offer(picker=picker_of(2, threshold=0.6), current="c"))
    assert [pick(serving, scene_of(make_scene, i)) for i in range(4)] == [2] * 4
    assert serving.advance() == []
    assert serving.picker.model.identity.version == 2


def test_the_model_before_is_let_go_when_the_probation_is_over(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    serving = Serving(picker_of(), probation_micrographs=1, faults_allowed=0)
    old = weakref.ref(serving.picker.model)
    serving.offer(Offer(picker=picker_of(2), current="c"))
    pick(serving, scene_of(make_scene))
    gc.collect()
    assert old() is not None
    assert "probation" not in caplog.text
    serving.advance()
    gc.collect()
    assert old() is None
    assert f"model {serving.picker.model.identity} has passed its probation" in caplog.text


def test_who_serves_after_a_change_is_said_with_where_and_in_which_precision(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = picker_of(), picker_of(2, bias=BLIND)
    for picker in (old, new):
        monkeypatch.setattr(picker.model, "identity", msgspec.structs.replace(picker.model.identity, precision="int8"))
    serving = Serving(old, probation_micrographs=2, faults_allowed=0)
    pick(serving, scene_of(make_scene))
    serving.offer(Offer(picker=new, current="c"))
    changes = serving.advance()
    pick(serving, scene_of(make_scene))
    changes += serving.advance()
    loaded, back = (change for change in changes if isinstance(change, ModelChange))
    assert (loaded.model, loaded.placement, loaded.current) == (new.model.identity, new.model.placement, "c")
    assert loaded.model.precision == "int8"
    assert (back.model, back.placement) == (old.model.identity, old.model.placement)
    assert back.withdrawn == new.model.identity
    assert back.message.startswith(f"{new.model.identity}: expected at most 0 of the first 2 ")


def test_a_model_that_fails_is_named_with_the_micrograph_and_who_picked_it(
    picker_of: Callable[..., Picker],
    make_scene: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, broken = picker_of(), picker_of(2)
    serving = Serving(old, probation_micrographs=5, faults_allowed=1)
    monkeypatch.setattr(broken.model, "score", lambda tiles: (_ for _ in ()).throw(ModelError("NaN", "not_finite")))
    serving.offer(Offer(picker=broken, current="c"))
    pick(serving, scene_of(make_scene, 3))
    (said,) = (record.message for record in caplog.records)
    assert said == f"model {broken.model.identity} failed on 3.mrc, {old.model.identity} picked it: NaN"


def test_a_micrograph_that_was_picked_is_shown_and_its_shape_remembered(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=0, faults_allowed=0)
    assert serving.last_shape is None
    pick(serving, scene_of(make_scene))  # to nobody
    shown: list[tuple[Micrograph, int]] = []
    serving.shadow = lambda micrograph, record: shown.append((micrograph, len(record.picks)))
    micrograph = scene_of(make_scene)
    serving.advance()
    record = serving.pick(micrograph, read_seconds=0.25, since=time.monotonic())
    assert shown == [(micrograph, len(record.picks))]
    assert serving.last_shape == (micrograph.pixels.shape, 2.0)
    assert record.document.seconds.read == 0.25


def test_a_model_that_finds_nothing_is_rolled_back_and_the_one_before_picks_instead(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=10, faults_allowed=0.2)
    pick(serving, scene_of(make_scene))
    serving.offer(Offer(picker=picker_of(2, bias=BLIND), current="c"))
    (loaded,) = serving.advance()
    assert (loaded.event, loaded.model.version) == ("loaded", 2)
    for i in range(3):
        assert serving.picker.model.identity.version == 2
        assert pick(serving, scene_of(make_scene, i)) == 1
    (change,) = serving.advance()
    assert (change.event, change.reason, change.current) == ("rolled_back", "few_picks", "c")
    assert change.model.version == 1
    assert change.withdrawn is not None
    assert change.withdrawn.version == 2
    assert "3 on which it found almost nothing" in change.message


def test_micrographs_without_particles_do_not_roll_a_model_back(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=4, faults_allowed=0)
    pick(serving, scene_of(make_scene))
    serving.offer(Offer(picker=picker_of(2, threshold=0.6), current="c"))
    empty = [scene_of(make_scene, seed, count=0) for seed in range(4)]
    assert [pick(serving, micrograph) for micrograph in empty] == [2] * 4
    assert serving.advance() == []


def test_a_model_that_fails_on_real_micrographs_loses_none_and_is_rolled_back(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving(picker_of(), probation_micrographs=5, faults_allowed=0.2)
    broken = picker_of(2)
    # No small model is good on its reference and bad on micrographs alone; this is what it would do.
    monkeypatch.setattr(broken.model, "score", lambda tiles: (_ for _ in ()).throw(ModelError("NaN", "not_finite")))
    serving.offer(Offer(picker=broken, current="c"))
    assert [pick(serving, scene_of(make_scene, i)) for i in range(2)] == [1, 1]
    (change,) = serving.advance()
    assert (change.event, change.reason) == ("rolled_back", "errors")


def test_a_fault_of_the_micrograph_is_not_the_models(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=5, faults_allowed=0)
    serving.offer(Offer(picker=picker_of(2), current="c"))
    serving.advance()
    nameless = Micrograph(path=Path("a.mrc"), pixels=scene_of(make_scene).pixels, pixel_size_angstrom=None)
    with pytest.raises(MicrographError, match="pixel size"):
        serving.pick(nameless, read_seconds=0, since=0)
    assert serving.advance() == []
    assert serving.picker.model.identity.version == 2


def test_a_newer_model_that_fails_falls_back_on_the_last_one_that_was_proved(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=5, faults_allowed=0)
    pick(serving, scene_of(make_scene))
    serving.offer(Offer(picker=picker_of(2), current="c"))
    serving.advance()
    serving.offer(Offer(picker=picker_of(3, bias=BLIND), current="d"))
    assert pick(serving, scene_of(make_scene)) == 1
    (change,) = serving.advance()
    assert change.model.version == 1


def test_without_probation_the_old_model_is_let_go_at_once(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=0, faults_allowed=0)
    pick(serving, scene_of(make_scene))
    old = weakref.ref(serving.picker.model)
    serving.offer(Offer(picker=picker_of(2), current="c"))
    serving.advance()
    gc.collect()
    assert old() is None


# --- the canary -------------------------------------------------------------------------------------------------

MODEL = ModelIdentity(name="blob", version=2, sha256="ab" * 32)
BOUNDS = CanaryBounds(micrographs=2, agreement=0.5, picks_ratio=3.0)


def grid(count: int, shift: float = 0.0) -> Picks:
    return Picks(y=np.zeros(count), x=100.0 * np.arange(count) + shift, score=np.full(count, 0.9))


def canary_of(*pairs: tuple[Picks, Picks]) -> Canary:
    canary = Canary(MODEL, BOUNDS)
    for serving, candidate in pairs:
        canary.compare(serving, candidate, diameter_px=20)
    return canary


def test_a_model_that_agrees_may_serve() -> None:
    canary = canary_of((grid(10), grid(8, 9.0)), (grid(0), grid(0)))
    assert canary.complete
    canary.check()
    assert canary.agreement == pytest.approx(16 / 18)
    assert canary.describe() == (
        "over 2 micrographs 8 picks (serving model: 10), median score 0.90 (0.90), agreement 0.89"
    )


def test_scores_of_both_models_are_told_apart_and_none_where_there_are_no_picks() -> None:
    def scored(*scores: float) -> Picks:
        return Picks(y=np.zeros(len(scores)), x=100.0 * np.arange(len(scores)), score=np.array(scores))

    canary = canary_of((scored(0.9, 0.8, 0.1), scored(0.4)), (scored(0.6), scored(0.2)), (scored(0.5), scored()))
    assert canary.describe() == (
        "over 3 micrographs 2 picks (serving model: 5), median score 0.30 (0.60), agreement 0.57"
    )
    assert canary_of((scored(), scored())).describe() == (
        "over 1 micrographs 0 picks (serving model: 0), median score none (none), agreement 1.00"
    )


@pytest.mark.parametrize(
    ("serving", "candidate", "says"),
    [
        (grid(10), grid(10, 11.0), "agreement of at least 0.5"),
        (grid(10), grid(3), "3 times as many or as few"),
        (grid(3), grid(10), "3 times as many or as few"),
        (grid(10), grid(0), "3 times as many or as few"),
    ],
)
def test_a_model_that_is_out_of_bounds_may_not(serving: Picks, candidate: Picks, says: str) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        canary_of((serving, candidate)).check()
    assert refused.value.reason == "canary"
    assert str(refused.value).startswith(f"{MODEL}: expected a")
    assert " with the serving model, found over 1 " in str(refused.value) or (
        " picks as the serving model, found over 1 " in str(refused.value)
    )


def partly(agreeing: int, count: int = 10) -> Picks:
    """So many picks where those of a grid are, the others elsewhere."""
    return Picks(
        y=np.where(np.arange(count) < agreeing, 0.0, 500.0), x=100.0 * np.arange(count), score=np.full(count, 0.9)
    )


@pytest.mark.parametrize(("agreeing", "may_serve"), [(6, True), (5, True), (4, False), (3, False)])
def test_the_bound_of_agreement_is_where_it_was_set(agreeing: int, may_serve: bool) -> None:
    canary = canary_of((grid(10), partly(agreeing)))
    assert canary.agreement == pytest.approx(agreeing / 10)
    if may_serve:
        canary.check()
    else:
        with pytest.raises(ModelError, match=f"agreement of at least 0.5 .* agreement 0.{agreeing}0"):
            canary.check()


@pytest.mark.parametrize(("shift", "agreement"), [(9.9, 1.0), (10.1, 0.0)])
def test_picks_agree_within_half_a_diameter(shift: float, agreement: float) -> None:
    assert canary_of((grid(10), grid(10, shift))).agreement == agreement


@pytest.mark.parametrize(
    ("serving", "candidate", "may_serve"), [(3, 9, True), (9, 3, True), (3, 10, False), (10, 3, False)]
)
def test_the_bound_of_the_number_of_picks_is_where_it_was_set(serving: int, candidate: int, may_serve: bool) -> None:
    canary = Canary(MODEL, CanaryBounds(micrographs=1, agreement=0.0, picks_ratio=3.0))
    canary.compare(grid(serving), grid(candidate), diameter_px=20)
    if may_serve:
        canary.check()
    else:
        with pytest.raises(ModelError, match="3 times"):
            canary.check()


def test_a_canary_is_complete_after_so_many_micrographs_and_not_before() -> None:
    pair = (grid(3), grid(3))
    assert [canary_of(*[pair] * count).complete for count in range(4)] == [False, False, True, True]


# --- probation --------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_usual_picks_calls_for_a_look() -> None:
    probation = Probation(10, 0.2, usual_picks=100.0)
    assert [probation.is_suspect(picks) for picks in (0, 10, 11)] == [True, True, False]


def test_less_than_a_tenth_of_what_the_model_before_finds_is_a_collapse() -> None:
    probation = Probation(10, 0.2, usual_picks=100.0)
    assert [probation.note_picks(*picks) for picks in ((9, 100), (10, 100), (0, 0), (0, None))] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("errors", "collapses", "verdict"), [(1, 1, None), (2, 1, "errors"), (1, 2, "few_picks"), (3, 3, "few_picks")]
)
def test_one_fault_more_than_is_allowed_ends_a_probation(errors: int, collapses: int, verdict: str | None) -> None:
    probation = Probation(10, 0.2, usual_picks=100.0)
    for _ in range(errors):
        probation.note_error()
    for _ in range(collapses):
        probation.note_picks(0, 100)
    assert (probation.verdict and probation.verdict[0]) == verdict
    if probation.verdict:
        assert probation.verdict[1] == (
            f"expected at most 2 of the first 10 micrographs with faults, found {errors} on which it failed and "
            f"{collapses} on which it found almost nothing, of {errors + collapses}"
        )
    assert not probation.passed


def test_a_probation_has_passed_after_so_many_micrographs_of_any_kind() -> None:
    probation = Probation(3, 1.0, usual_picks=100.0)
    probation.note_error()
    probation.note_picks(0, 100)
    assert not probation.passed
    probation.note_picks(50)
    assert probation.passed
    assert probation.verdict is None


# --- what is tuned ----------------------------------------------------------------------------------------------


def test_one_pick_agrees_with_one_only() -> None:
    two = Picks(y=np.zeros(2), x=np.array([-5.0, 5.0]), score=np.ones(2))
    assert canary_of((two, grid(1))).agreement == pytest.approx(2 / 3)


def test_a_tuned_threshold_is_the_models_own_and_is_there_again_when_it_serves_again(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(picker_of(), probation_micrographs=3, faults_allowed=0)
    change = LimitsChange(
        thresholds={serving.picker.model.identity.sha256: 0.7}, min_distance_angstrom=30.0, edge_margin_angstrom=20.0
    )
    request, tuned = LimitsRequest(text="", change=change), serving.picker.model.identity
    serving.change_limits(request)
    assert serving.picker.limits.threshold == 0.5  # not before the next micrograph
    assert serving.advance() == [request]
    assert serving.picker.limits.threshold == 0.7
    serving.offer(Offer(picker=picker_of(2, threshold=0.6, bias=BLIND), current="c"))
    assert pick(serving, scene_of(make_scene)) == 1  # on probation, and found wanting
    assert [record.message for record in caplog.records] == [
        f"the threshold of 0.7 was tuned for model {tuned}: {serving.picker.model.identity} goes back to 0.6"
    ]
    assert serving.picker.limits.threshold == 0.6
    assert serving.picker.limits.min_distance_angstrom == 30.0
    (change,) = serving.advance()
    assert change.event == "rolled_back"  # type: ignore[union-attr]
    assert serving.picker.limits.threshold == 0.7


def test_what_is_tuned_on_probation_holds_for_the_model_before_as_well(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object]
) -> None:
    serving = Serving(picker_of(), probation_micrographs=3, faults_allowed=0)
    serving.offer(Offer(picker=picker_of(2, threshold=0.6, bias=BLIND), current="c"))
    serving.advance()
    request = LimitsRequest(
        text="", change=LimitsChange(thresholds={}, min_distance_angstrom=30.0, edge_margin_angstrom=20.0)
    )
    serving.change_limits(request)
    assert serving.advance() == [request]
    assert pick(serving, scene_of(make_scene)) == 1
    (change,) = serving.advance()
    assert change.event == "rolled_back"  # type: ignore[union-attr]
    assert serving.picker.limits.min_distance_angstrom == 30.0


def test_few_picks_are_few_beside_those_of_the_last_ten_micrographs(
    picker_of: Callable[..., Picker], make_scene: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> object:
        raise ModelError("NaN", "not_finite")

    old = picker_of()
    serving = Serving(old, probation_micrographs=3, faults_allowed=0)
    for i in range(10):
        pick(serving, scene_of(make_scene, i, shape=(640, 896), count=30))
    for i in range(10):
        pick(serving, scene_of(make_scene, i, count=1))
    new = picker_of(2, threshold=0.6)
    serving.offer(Offer(picker=new, current="c"))
    serving.advance()
    monkeypatch.setattr(old.model, "score", fail)
    assert pick(serving, scene_of(make_scene, 3, count=1)) == 2  # as many as before: the model before is not asked
    for i in range(10):
        pick(serving, scene_of(make_scene, i, shape=(640, 896), count=30))
    serving.offer(Offer(picker=picker_of(3, threshold=0.6), current="c"))
    serving.advance()
    monkeypatch.setattr(new.model, "score", fail)
    with pytest.raises(ModelError):  # it is asked now
        pick(serving, scene_of(make_scene, 3, count=1))


def test_what_is_tuned_before_the_start_holds_for_the_first_micrograph(picker_of: Callable[..., Picker]) -> None:
    picker = picker_of()
    change = LimitsChange(thresholds={picker.model.identity.sha256: 0.7, "another": 0.2})
    assert Serving(picker, change, probation_micrographs=0, faults_allowed=0).picker.threshold == 0.7


def test_a_model_that_is_offered_twice_is_loaded_once(picker_of: Callable[..., Picker]) -> None:
    serving = Serving(picker_of(), probation_micrographs=3, faults_allowed=0)
    assert serving.coming is serving.picker
    first = picker_of(2)
    serving.offer(Offer(picker=first, current="c"))
    assert serving.coming is first  # who looks before it is taken knows that it comes
    (loaded,) = serving.advance()
    assert (loaded.event, loaded.model.version) == ("loaded", 2)
    serving.offer(Offer(picker=first, current="c"))
    assert serving.advance() == []
    assert serving.coming.model.identity.version == 2


def test_an_offer_that_is_taken_back_before_it_served_changes_nothing(picker_of: Callable[..., Picker]) -> None:
    old = picker_of()
    serving = Serving(old, probation_micrographs=3, faults_allowed=0)
    serving.offer(Offer(picker=picker_of(2), current="c"))
    serving.offer(Offer(picker=old, current="d"))
    assert serving.advance() == []
    assert serving.picker.model.identity.version == 1
