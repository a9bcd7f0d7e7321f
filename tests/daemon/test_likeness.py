"""What becomes of a picture that is unlike the micrographs of its session."""

from __future__ import annotations

import logging

import pytest

from frazil.picking import ImageClaims
from frazil.session.intake.likeness import Likeness


def claims(h: int = 4092, w: int = 5760, pixel_size: float | None = 0.83) -> ImageClaims:
    return ImageClaims(shape=(h, w), pixel_size_angstrom=pixel_size)


def settled() -> Likeness:
    likeness = Likeness()
    for key in ("a", "b", "c"):
        assert likeness.judge(key, claims()) == ""
    return likeness


@pytest.mark.parametrize(
    ("other", "is_like"),
    [
        (claims(), True),
        (claims(5760, 4092), True),  # read out turned
        (claims(4096, 5760), True),
        (claims(pixel_size=0.85), True),
        (claims(pixel_size=None), True),
        (claims(pixel_size=0.9), False),
        (claims(pixel_size=20.0), False),
        (claims(2046, 2880), False),
        (claims(5760, 5760), False),
        (claims(512, 512, None), False),
    ],
)
def test_sides_may_differ_by_a_tenth_and_pixel_sizes_by_a_twentieth(other: ImageClaims, is_like: bool) -> None:
    assert (settled().judge("x", other) == "") is is_like


def test_all_is_picked_until_three_agree_and_not_all_three_need_be_the_first() -> None:
    likeness = Likeness()
    overview = claims(512, 512, 20.0)
    for key, found in (("o1", overview), ("a", claims()), ("o2", overview), ("b", claims()), ("c", claims())):
        assert likeness.judge(key, found) == "", key
    assert "found 512 x 512 pixels of 20 Å" in likeness.judge("o3", overview)
    assert "expected 5760 x 4092 pixels of 0.83 Å" in likeness.judge("o1", overview)


def test_one_file_that_is_looked_at_often_does_not_make_the_kind() -> None:
    likeness = Likeness()
    for _ in range(5):
        assert likeness.judge("o", claims(512, 512, 20.0)) == ""
    for key in ("a", "b", "c"):
        assert likeness.judge(key, claims()) == ""
    assert likeness.judge("o", claims(512, 512, 20.0))


def test_a_request_makes_a_kind_one_of_the_sessions() -> None:
    likeness = settled()
    other = claims(pixel_size=1.66)
    assert likeness.judge("d", other)
    assert likeness.judge("d", other, requested=True) == ""
    assert likeness.judge("e", other) == ""
    assert likeness.judge("f", claims()) == ""
    assert "0.83 Å or 5760 x 4092 pixels of 1.66 Å" in likeness.judge("g", claims(pixel_size=20.0))


def test_the_next_run_remembers_also_what_was_not_decided_yet() -> None:
    told: list[str] = []
    first = Likeness("", told.append)
    for key in ("a", "b"):
        first.judge(key, claims())
    second = Likeness(told[-1], told.append)
    second.judge("c", claims())
    assert Likeness(told[-1]).judge("x", claims(512, 512, 20.0))


def test_a_damaged_memory_begins_anew_and_a_kind_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    likeness = Likeness("{")
    assert "cannot be read" in caplog.text
    for key in ("a", "b", "c"):
        assert likeness.judge(key, claims()) == ""
    with caplog.at_level(logging.WARNING):
        for key in ("x", "y"):
            assert likeness.judge(key, claims(512, 512))
    assert [record.message.split(":")[0] for record in caplog.records[1:]] == ["x"]
