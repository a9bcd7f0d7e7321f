"""Limits: patches are laid over limits and over each other in one way, and their bounds are the settings' own."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import SettingsError
from frazil.limits import LARGEST_DISTANCE_ANGSTROM, LimitsPatch, PickLimits, default_limits
from frazil.picking import PickingSettings
from frazil.session.retune import LimitsChange, RevisionProgress
from frazil.session.retune.limits import decode_request
from frazil.settings import ServeSettings

thresholds = st.floats(0, 1)
distances = st.floats(0, LARGEST_DISTANCE_ANGSTROM)
complete = st.builds(PickLimits, threshold=thresholds, min_distance_angstrom=distances, edge_margin_angstrom=distances)
patches = st.builds(
    LimitsPatch,
    threshold=st.none() | thresholds,
    min_distance_angstrom=st.none() | distances,
    edge_margin_angstrom=st.none() | distances,
)
changes = st.builds(
    LimitsChange,
    thresholds=st.dictionaries(st.sampled_from(["one", "other"]), thresholds),
    min_distance_angstrom=st.none() | distances,
    edge_margin_angstrom=st.none() | distances,
)


@given(first=patches, second=patches, limits=complete)
def test_patches_laid_one_after_the_other_are_their_patch_laid_once(
    first: LimitsPatch, second: LimitsPatch, limits: PickLimits
) -> None:
    assert second.over(first.over(limits)) == second.over(first).over(limits)


@given(patch=patches, limits=complete)
def test_a_patch_changes_what_it_gives_and_nothing_else(patch: LimitsPatch, limits: PickLimits) -> None:
    laid, before = msgspec.structs.asdict(patch.over(limits)), msgspec.structs.asdict(limits)
    assert laid == before | patch.given()
    assert LimitsPatch().over(limits) == limits
    assert patch.over(LimitsPatch()) == patch


@given(later=changes, earlier=changes, model=st.sampled_from(["one", "other", "third"]))
def test_a_merged_change_of_limits_is_for_each_model_what_both_are(
    later: LimitsChange, earlier: LimitsChange, model: str
) -> None:
    assert later.over(earlier).for_model(model) == later.for_model(model).over(earlier.for_model(model))


@pytest.mark.parametrize(
    ("given_limits", "says"),
    [
        ({"threshold": 1.5}, "threshold: expected a number from 0 to 1, found 1.5"),
        ({"threshold": float("nan")}, "threshold: expected a number from 0 to 1, found nan"),
        ({"min_distance_angstrom": -1.0}, "min-distance: expected 0 to 100000 Å, found -1"),
        ({"edge_margin_angstrom": float("inf")}, "edge-margin: expected 0 to 100000 Å, found inf"),
    ],
)
def test_impossible_limits_are_refused(given_limits: dict[str, float], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        LimitsPatch(**given_limits)
    with pytest.raises(SettingsError, match=says):
        PickingSettings(diameter_angstrom=100, **given_limits)  # type: ignore[arg-type]


@given(
    name=st.sampled_from(["threshold", "min_distance_angstrom", "edge_margin_angstrom"]),
    value=st.floats() | st.sampled_from([0.0, 1.0, LARGEST_DISTANCE_ANGSTROM]),
)
def test_the_settings_take_the_limits_that_a_patch_takes(name: str, value: float) -> None:
    def is_taken(kind: type, **needed: object) -> bool:
        try:
            msgspec.convert({name: value, **needed}, kind)
        except (msgspec.ValidationError, SettingsError):
            return False
        return True

    settings = {"watch": Path(), "out": Path(), "diameter_angstrom": 100.0}
    assert is_taken(ServeSettings, **settings) == is_taken(LimitsPatch)


@given(patch=patches)
def test_the_limits_of_the_settings_are_those_that_were_set(patch: LimitsPatch) -> None:
    settings = ServeSettings(watch=Path(), out=Path(), diameter_angstrom=100, **patch.given())  # type: ignore[arg-type]
    assert settings.limits == patch
    picking = PickingSettings(diameter_angstrom=100, **patch.given())  # type: ignore[arg-type]
    assert picking.over(default_limits(100, 0.5)) == patch.over(default_limits(100, 0.5))


def test_the_progress_of_revisions_is_kept_under_the_names_that_ledgers_have() -> None:
    kept = {
        "settings": {"diameter_angstrom": 48.0, "pixel_size_angstrom": None, "threshold": 0.3, "new": "later"},
        "wanted": {"thresholds": {"sha": 0.9}, "min_distance_angstrom": 60.0, "edge_margin_angstrom": None},
        "since": "2026-11-27T21:52:23.163+00:00",
        "until_seq": 5,
        "done_seq": 3,
        "revised": 2,
        "untold": 1,
    }
    progress = RevisionProgress.decode(json.dumps(kept))
    assert progress is not None
    assert progress.settings == PickingSettings(diameter_angstrom=48.0, threshold=0.3)
    assert progress.change == LimitsChange(thresholds={"sha": 0.9}, min_distance_angstrom=60.0)
    assert progress.unrevisable == 1
    written = json.loads(progress.encode())
    assert written["wanted"].pop("chosen") == {}
    assert {name: written[name] for name in kept if name != "settings"} == {
        name: value for name, value in kept.items() if name != "settings"
    }
    assert set(written["settings"]) == {
        "diameter_angstrom",
        "pixel_size_angstrom",
        "threshold",
        "min_distance_angstrom",
        "edge_margin_angstrom",
        "contrast",
        "unusual_diameter",
    }


@pytest.mark.parametrize(
    "text", ["{", '{"thresholds": {"sha": 7}}', '{"min_distance_angstrom": -1}', '{"thresholds": 1}']
)
def test_a_damaged_request_for_limits_is_passed_over(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert decode_request(text) == LimitsChange()
    assert "damaged in the ledger" in caplog.text
