"""The follower without sockets: what counts, what is asked for, and whose documents are taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from frazil.client.cursor import Place
from frazil.client.follower import Follower
from frazil.documents import (
    Heartbeat,
    MicrographDocument,
    add_generation,
    decode_document,
    encode_document,
    read_generation,
)
from frazil.replay import ReplayPage, ReplayRequest, decode_answer

MakeDocument = Callable[..., MicrographDocument]
OURS, THEIRS = "a" * 32, "b" * 32


@pytest.fixture
def body(make_document: MakeDocument) -> Callable[[int, str], bytes]:
    document = make_document("/data/a.mrc")
    return lambda seq, epoch=OURS: encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))


def beat(seq: int, epoch: str = OURS, **changes: Any) -> bytes:
    beaten = Heartbeat(epoch=epoch, seq=seq, replay="tcp://127.0.0.1:5557")
    return encode_document(msgspec.structs.replace(beaten, **changes))


def taken(follower: Follower) -> list[tuple[str, int]]:
    return [(document.epoch, document.seq) for document in iter(follower.take, None)]


def hear(follower: Follower, body: bytes) -> None:
    follower.hear(decode_document(body), read_generation(body))


def read_answer(follower: Follower, frames: list[bytes]) -> None:
    answer = decode_answer(frames[0])
    assert isinstance(answer, ReplayPage)
    follower.read_page(answer, frames[1:])


def asked(follower: Follower) -> tuple[int, int] | None:
    request = follower.request()
    if request is None:
        return None
    wanted = msgspec.json.decode(request, type=ReplayRequest)
    return wanted.first, wanted.until


def page(first: int, *bodies: bytes, head: int, epoch: str = OURS, oldest: int = 1, **changes: Any) -> list[bytes]:
    made = ReplayPage(
        epoch=epoch, first=first, next=first + len(bodies), head=head, oldest=oldest, documents=len(bodies)
    )
    return [msgspec.json.encode(msgspec.structs.replace(made, **changes)), *bodies]


@pytest.mark.parametrize("place", [None, Place(epoch=OURS, seq=0)])
def test_live_documents_of_another_epoch_are_never_taken_nor_moved_by(
    body: Callable[..., bytes], place: Place | None
) -> None:
    follower = Follower([b""], since=1, place=place)
    hear(follower, beat(0))
    hear(follower, body(1))
    for seq in (1, 2, 3, 9):
        hear(follower, body(seq, THEIRS))
    assert taken(follower) == [(OURS, 1)]
    assert asked(follower) is None  # the head of another ledger is none of ours
    hear(follower, body(2))
    assert taken(follower) == [(OURS, 2)]


def test_a_page_of_another_epoch_starts_over_and_its_documents_are_asked_for_again(
    body: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower([b""], since=5, place=None)
    hear(follower, beat(9))
    assert asked(follower) == (5, 10)
    read_answer(follower, page(5, body(5, THEIRS), head=7, epoch=THEIRS))
    assert taken(follower) == []
    assert follower.epoch == THEIRS
    assert "the ledger is another one: starting over at its first document" in caplog.text
    assert asked(follower) == (1, 8)
    read_answer(follower, page(1, body(1, THEIRS), body(2, THEIRS), head=7, epoch=THEIRS))
    assert taken(follower) == [(THEIRS, 1), (THEIRS, 2)]


def test_nothing_is_asked_of_a_ledger_that_has_no_documents_as_yet(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0))
    assert asked(follower) is None
    hear(follower, body(1))
    assert taken(follower) == [(OURS, 1)]
    hear(follower, beat(0, THEIRS))
    assert asked(follower) is None
    hear(follower, body(1, THEIRS))
    assert taken(follower) == [(THEIRS, 1)]


def test_what_was_held_of_one_ledger_is_not_released_into_another(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0))
    hear(follower, body(3))
    assert asked(follower) == (1, 3)
    hear(follower, beat(2, THEIRS))
    hear(follower, body(1, THEIRS))
    hear(follower, body(2, THEIRS))
    assert taken(follower) == [(THEIRS, 1), (THEIRS, 2)]
    assert asked(follower) is None


def test_an_answer_to_an_older_request_is_passed_over(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(4))
    read_answer(follower, page(1, body(1), body(2), head=4))
    assert taken(follower) == [(OURS, 1), (OURS, 2)]
    read_answer(follower, page(1, body(1), body(2), head=4))
    assert taken(follower) == []
    assert asked(follower) == (3, 5)
    assert follower.replayed == 2


def test_a_gap_is_asked_for_up_to_what_is_held_and_comes_in_order(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(1))
    hear(follower, body(3))
    hear(follower, body(4))
    hear(follower, body(4))
    assert taken(follower) == []
    assert asked(follower) == (1, 3)
    read_answer(follower, page(1, body(1), body(2), head=4))
    assert taken(follower) == [(OURS, seq) for seq in (1, 2, 3, 4)]
    assert asked(follower) is None


# --- where it begins ------------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_nor_known_before_anything_was_heard() -> None:
    assert asked(Follower([b""], since=1, place=Place(OURS, 5, "g"))) is None
    follower = Follower([b""], since=1)
    assert (follower.epoch, follower.generation) == ("", "")
    assert asked(follower) is None
    hear(follower, beat(3))
    assert follower.epoch == OURS


def test_a_session_is_named_in_its_requests_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower([b""], since=9, session="20261101_apo %s")
    hear(follower, beat(4))
    request = follower.request()
    assert request is not None
    assert msgspec.json.decode(request, type=ReplayRequest).session == "20261101_apo %s"
    [said] = [record.getMessage() for record in caplog.records]
    assert said == "20261101_apo %s: expected a stream of 8 documents or more, found 4: starting over"


def test_from_now_on_begins_behind_the_newest_document_that_a_heartbeat_tells() -> None:
    follower = Follower([b""])
    hear(follower, beat(5))
    assert asked(follower) is None
    hear(follower, beat(7))
    assert asked(follower) == (6, 8)


def test_from_now_on_begins_with_the_first_document_that_comes(body: Callable[..., bytes]) -> None:
    follower = Follower([b""])
    hear(follower, add_generation(body(4), "g"))
    hear(follower, add_generation(body(6), "g"))
    assert (follower.epoch, follower.generation) == (OURS, "g")
    assert taken(follower) == [(OURS, 4)]
    assert asked(follower) == (5, 6)


@pytest.mark.parametrize(
    ("since", "begins"), [(0, 0), (1, 1), (9, 9), (10, 10), (11, 1), (12, 1), (2**40, 1)]
)  # ten is next
def test_since_beyond_the_next_document_starts_over(caplog: pytest.LogCaptureFixture, since: int, begins: int) -> None:
    follower = Follower([b""], since=since)
    hear(follower, beat(9, generation="g"))
    hear(follower, beat(20, generation="g"))
    assert asked(follower) == (begins, 21)
    assert [record.getMessage() for record in caplog.records] == (
        [] if begins == since else [f"expected a stream of {since - 1} documents or more, found 9: starting over"]
    )


def test_a_place_counts_and_since_does_not_and_the_topics_are_asked_for() -> None:
    follower = Follower([b"picks/grid%201/", b"failed"], since=1, place=Place(OURS, 5, "g"))
    assert (follower.epoch, follower.generation) == (OURS, "g")
    hear(follower, beat(7, generation="g"))
    request = follower.request()
    assert request is not None
    assert msgspec.json.decode(request, type=ReplayRequest) == ReplayRequest(
        first=6, until=8, topics=("picks/grid%201/", "failed")
    )


def test_a_late_heartbeat_takes_nothing_back(body: Callable[..., bytes], caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0))
    for seq in (1, 2, 3):
        hear(follower, body(seq))
    hear(follower, beat(1))
    hear(follower, body(5))
    hear(follower, beat(2))
    assert taken(follower) == [(OURS, 1), (OURS, 2), (OURS, 3)]
    assert asked(follower) == (4, 5)
    assert not caplog.records


# --- what is in a page ------------------------------------------------------------------------------------------------


def test_heartbeats_and_documents_of_before_in_a_page_are_passed_over(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=3)
    hear(follower, beat(4))
    read_answer(follower, page(3, beat(3), body(2), body(3), body(4), head=4, next=5))
    assert taken(follower) == [(OURS, 3), (OURS, 4)]
    assert follower.replayed == 2


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_before_all_that_is_here_was_taken(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(9))
    read_answer(follower, page(1, body(1), body(2), head=9))
    assert asked(follower) is None
    assert len(taken(follower)) == 2
    assert asked(follower) == (3, 10)


def test_a_page_without_documents_of_the_topics_wanted_is_progress(body: Callable[..., bytes]) -> None:
    follower = Follower([b"failed"], since=1)
    hear(follower, beat(9))
    hear(follower, body(7))
    read_answer(follower, page(1, head=9, next=7))
    assert taken(follower) == [(OURS, 7)]
    assert asked(follower) == (8, 10)
    read_answer(follower, page(8, head=9, next=10))
    assert asked(follower) is None


def test_of_what_comes_behind_a_gap_a_thousand_are_kept_and_the_rest_asked_for(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0))
    for seq in range(2, 1101):
        hear(follower, body(seq))
    assert asked(follower) == (1, 2)
    read_answer(follower, page(1, body(1), head=1100))
    assert taken(follower) == [(OURS, seq) for seq in range(1, 1002)]
    assert asked(follower) == (1002, 1101)


def test_what_a_page_brought_does_not_come_again_though_it_was_held(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0))
    for seq in (2, 3, 5):
        hear(follower, body(seq))
    read_answer(follower, page(1, body(1), body(2), head=5))
    assert taken(follower) == [(OURS, 1), (OURS, 2), (OURS, 3)]
    assert asked(follower) == (4, 5)


@pytest.mark.parametrize(
    ("first", "oldest", "missing"), [(1, 4, [(1, 3)]), (2, 3, [(2, 2)]), (3, 3, []), (3, 1, []), (0, 4, []), (3, 0, [])]
)
def test_an_earlier_frazil_says_where_its_ledger_begins_and_so_what_is_missing(
    body: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
    first: int,
    oldest: int,
    missing: list[tuple[int, int]],
) -> None:
    follower = Follower([b""], since=first)
    hear(follower, beat(5))
    read_answer(follower, page(first, body(5), head=5, oldest=oldest, next=6))
    assert taken(follower) == [(OURS, 5)]
    assert follower.missing == missing
    assert ("no longer in the ledger" in caplog.text) == bool(missing)


def test_what_is_said_to_be_missing_is_noted_page_by_page(
    body: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(9))
    read_answer(follower, page(1, body(3), head=9, oldest=7, next=6, missing=((1, 2), (4, 5))))
    assert taken(follower) == [(OURS, 3)]
    read_answer(follower, page(6, body(7), head=9, next=10, missing=((6, 6),)))
    assert follower.missing == [(1, 2), (4, 5), (6, 6)]
    assert "documents 4 to 5 are no longer in the ledger" in caplog.text


# --- generations ----------------------------------------------------------------------------------------------------


def test_a_daemon_started_anew_is_asked_what_still_holds_before_anything_of_it_is_taken(
    body: Callable[..., bytes],
) -> None:
    follower = Follower([b""], since=1, place=Place(OURS, 2, "old"))
    hear(follower, beat(2, generation="new"))
    hear(follower, add_generation(body(3), "new"))
    assert taken(follower) == []
    request = follower.request()
    assert request is not None
    wanted = msgspec.json.decode(request, type=ReplayRequest)
    assert (wanted.first, wanted.until, wanted.generation) == (3, 4, "old")
    read_answer(follower, page(3, body(3), head=3, generation="new", common=2))
    assert taken(follower) == [(OURS, 3)]
    assert follower.generation == "new"
    hear(follower, add_generation(body(4), "new"))
    assert taken(follower) == [(OURS, 4)]


def test_an_answer_that_does_not_say_what_still_holds_is_passed_over_once_it_was_asked(
    body: Callable[..., bytes],
) -> None:
    follower = Follower([b""], since=1, place=Place(OURS, 2, "old"))
    hear(follower, beat(5, generation="old"))
    assert asked(follower) == (3, 6)
    read_answer(follower, page(3, body(3), head=5, generation="new", missing=((4, 5),)))
    assert taken(follower) == []
    assert follower.missing == []
    assert follower.generation == "old"
    assert asked(follower) == (3, 6)


def test_what_was_held_of_one_generation_is_not_released_into_another(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    hear(follower, beat(0, generation="old"))
    hear(follower, add_generation(body(1), "old"))
    hear(follower, add_generation(body(3), "old"))
    assert taken(follower) == [(OURS, 1)]
    hear(follower, beat(2, generation="new"))
    assert asked(follower) == (2, 4)
    read_answer(follower, page(2, body(2), head=2, generation="new", common=1))
    assert taken(follower) == [(OURS, 2)]


@pytest.mark.parametrize(
    ("common", "goes_on", "said"),
    [
        (4, 5, "no longer has documents 5 to 5 as they were read; going on after number 4"),
        (3, 4, "no longer has documents 4 to 5 as they were read; going on after number 3"),
        (1, 2, "no longer has documents 2 to 5 as they were read; going on after number 1"),
        (0, 1, "no longer has the documents read from it: starting over at its first document"),
    ],
)
def test_where_less_still_holds_than_was_read_it_goes_back_that_far(
    body: Callable[..., bytes], caplog: pytest.LogCaptureFixture, common: int, goes_on: int, said: str
) -> None:
    follower = Follower([b""], since=1, place=Place(OURS, 5, "old"))
    hear(follower, beat(9, generation="new"))
    with caplog.at_level(logging.WARNING):
        read_answer(follower, page(6, body(6), head=5, generation="new", common=common, next=6))
    assert taken(follower) == []
    assert said in caplog.text
    assert follower.generation == "new"
    assert asked(follower) == (goes_on, 6)
    rest = [body(seq) for seq in range(goes_on, 6)]
    read_answer(follower, page(goes_on, *rest, head=5, generation="new"))
    assert taken(follower) == [(OURS, seq) for seq in range(goes_on, 6)]
