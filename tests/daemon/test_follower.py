"""The follower without sockets: what counts, what is asked for, and whose documents are taken."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from frazil.client.cursor import Place
from frazil.client.follower import Follower
from frazil.documents import Heartbeat, MicrographDocument, encode_document
from frazil.replay import ReplayPage, ReplayRequest

MakeDocument = Callable[..., MicrographDocument]
OURS, THEIRS = "a" * 32, "b" * 32


@pytest.fixture
def body(make_document: MakeDocument) -> Callable[[int, str], bytes]:
    document = make_document("/data/a.mrc")
    return lambda seq, epoch=OURS: encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))


def beat(seq: int, epoch: str = OURS) -> bytes:
    return encode_document(Heartbeat(epoch=epoch, seq=seq, replay="tcp://127.0.0.1:5557"))


def taken(follower: Follower) -> list[tuple[str, int]]:
    return [(document.epoch, document.seq) for document in iter(follower.take, None)]


def asked(follower: Follower) -> tuple[int, int] | None:
    request = follower.request()
    if request is None:
        return None
    wanted = msgspec.json.decode(request, type=ReplayRequest)
    return wanted.first, wanted.until


def page(first: int, *bodies: bytes, head: int, epoch: str = OURS, oldest: int = 1) -> list[bytes]:
    made = ReplayPage(
        epoch=epoch, first=first, next=first + len(bodies), head=head, oldest=oldest, documents=len(bodies)
    )
    return [msgspec.json.encode(made), *bodies]


@pytest.mark.parametrize("place", [None, Place(epoch=OURS, seq=0)])
def test_live_documents_of_another_epoch_are_never_taken_nor_moved_by(
    body: Callable[..., bytes], place: Place | None
) -> None:
    follower = Follower([b""], since=1, place=place)
    follower.hear(beat(0))
    follower.hear(body(1))
    for seq in (1, 2, 3, 9):
        follower.hear(body(seq, THEIRS))
    assert taken(follower) == [(OURS, 1)]
    assert asked(follower) is None  # the head of another ledger is none of ours
    follower.hear(body(2))
    assert taken(follower) == [(OURS, 2)]


def test_a_page_of_another_epoch_starts_over_and_its_documents_are_asked_for_again(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=5, place=None)
    follower.hear(beat(9))
    assert asked(follower) == (5, 10)
    follower.read_answer(page(5, body(5, THEIRS), head=7, epoch=THEIRS))
    assert taken(follower) == []
    assert follower.epoch == THEIRS
    assert asked(follower) == (1, 8)
    follower.read_answer(page(1, body(1, THEIRS), body(2, THEIRS), head=7, epoch=THEIRS))
    assert taken(follower) == [(THEIRS, 1), (THEIRS, 2)]


def test_what_was_held_of_one_ledger_is_not_released_into_another(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    follower.hear(beat(0))
    follower.hear(body(3))
    assert asked(follower) == (1, 3)
    follower.hear(beat(2, THEIRS))
    follower.hear(body(1, THEIRS))
    follower.hear(body(2, THEIRS))
    assert taken(follower) == [(THEIRS, 1), (THEIRS, 2)]
    assert asked(follower) is None


def test_an_answer_to_an_older_request_is_passed_over(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    follower.hear(beat(4))
    follower.read_answer(page(1, body(1), body(2), head=4))
    assert taken(follower) == [(OURS, 1), (OURS, 2)]
    follower.read_answer(page(1, body(1), body(2), head=4))
    assert taken(follower) == []
    assert asked(follower) == (3, 5)
    assert follower.replayed == 2


def test_a_gap_is_asked_for_up_to_what_is_held_and_comes_in_order(body: Callable[..., bytes]) -> None:
    follower = Follower([b""], since=1)
    follower.hear(beat(1))
    follower.hear(body(3))
    follower.hear(body(4))
    follower.hear(body(4))
    assert taken(follower) == []
    assert asked(follower) == (1, 3)
    follower.read_answer(page(1, body(1), body(2), head=4))
    assert taken(follower) == [(OURS, seq) for seq in (1, 2, 3, 4)]
    assert asked(follower) is None
