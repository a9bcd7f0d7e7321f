"""The replayer at a real socket, in this process: whom it answers, what it counts, and when it rests."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import zmq

from frazil.documents import MicrographDocument, encode_document
from frazil.replay import ReplayError, ReplayPage, decode_answer
from frazil.session.outbox.ledger import Ledger
from frazil.session.outbox.stream.allowance import Allowance
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import ChannelState, Report
from frazil.session.outbox.stream.publisher import Publisher
from frazil.session.outbox.stream.replayer import PAGES_WAITING, REQUESTS_WAITING, Replayer
from frazil.session.outbox.stream.reports import Reports

Make = Callable[..., MicrographDocument]
MakeChannel = Callable[..., ChannelState]
ADDRESS = "inproc://replay"
PATIENCE_SECONDS = 60.0
ALL = b'{"from": 1}'


class Served:
    """A ledger of three documents, of which the last is damaged, and a replayer that is not yet started."""

    def __init__(self, folder: Path, make_document: Make, make_channel: MakeChannel) -> None:
        self.file = folder / "ledger.sqlite"
        one = make_document("/data/a.mrc")
        with closing(Ledger(self.file)) as ledger:
            self.epoch, self.generation = ledger.epoch, ledger.generation
            for _ in range(2):
                ledger.commit_document(
                    "picks", lambda epoch, seq: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq))
                )
            ledger.commit_document("picks", lambda _, __: b"damaged")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.sndhwm, socket.rcvhwm = PAGES_WAITING, REQUESTS_WAITING
        socket.bind(ADDRESS)
        self.reports = Reports()
        publishing = self._socket(zmq.XPUB)
        self.channel = make_channel(self.file, epoch=self.epoch, generation=self.generation, published=3)
        channels = Channels(awaited=1, is_microscope=False)
        channels.put(self.channel)
        self.publisher = Publisher(publishing, self.reports, frames=-1, channels=channels, replay="")
        self._sockets.append(publishing.get_monitor_socket())
        self.replayer = Replayer(socket, self.reports, channels=channels, publisher=self.publisher)
        self._thread = threading.Thread(target=self.replayer.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Report:
        """Stop it; what it counted."""
        self.replayer.stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.reports.take()

    def close(self) -> None:
        if self._thread.is_alive():
            self.stop()
        for socket in self._sockets:
            socket.close(linger=0)
        self._context.term()

    def client(self, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
        socket = self._socket(kind)
        socket.rcvhwm = 1
        socket.connect(ADDRESS)
        return socket

    def answer(self, client: zmq.Socket[bytes]) -> list[bytes]:
        """What a client gets next."""
        self.wait_until(lambda: client.poll(20) != 0)
        return client.recv_multipart()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the replayer brings about."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self._thread.is_alive(), "the replayer has died"
            assert time.monotonic() < deadline

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        self._sockets.append(self._context.socket(kind))
        return self._sockets[-1]


@pytest.fixture
def served(tmp_path: Path, make_document: Make, make_channel: MakeChannel) -> Iterator[Served]:
    made = Served(tmp_path, make_document, make_channel)
    yield made
    made.close()


def error_of(answer: list[bytes]) -> str:
    [frame] = answer
    said = decode_answer(frame)
    assert isinstance(said, ReplayError)
    return said.error


def count_handled(served: Served, requests: int) -> Report:
    """Wait until so many requests were handled; all that was counted meanwhile."""
    whole = Report()

    def is_enough() -> bool:
        time.sleep(0.001)
        told = served.reports.take()
        whole.requests = dict(Counter(whole.requests) + Counter(told.requests))
        whole.damaged += told.damaged
        whole.replayed += told.replayed
        return sum(whole.requests.values()) >= requests

    served.wait_until(is_enough)
    return whole


@pytest.mark.parametrize(
    ("kind", "before"), [(zmq.DEALER, []), (zmq.DEALER, [b""]), (zmq.REQ, [])], ids=["DEALER", "DEALER as REQ", "REQ"]
)
def test_a_request_is_answered_in_the_envelope_that_it_came_in(served: Served, kind: int, before: list[bytes]) -> None:
    client = served.client(kind)
    served.start()
    client.send_multipart([*before, ALL])
    frames = served.answer(client)
    assert frames[: len(before)] == before
    header, *bodies = frames[len(before) :]
    page = decode_answer(header)
    assert isinstance(page, ReplayPage)
    assert (page.epoch, page.generation, page.next, page.documents) == (served.epoch, served.generation, 4, 2)
    assert [msgspec.json.decode(body)["seq"] for body in bodies] == [1, 2]
    told = served.stop()
    assert told == Report(requests={"answered": 1}, replayed=2, damaged=[("", 3, "")])


def test_only_what_was_published_is_given_out(served: Served) -> None:
    client = served.client()
    served.channel.published = 1
    served.start()
    client.send(ALL)
    assert len(served.answer(client)) == 2
    served.channel.published = 2
    client.send(ALL)
    assert len(served.answer(client)) == 3


def test_messages_in_another_envelope_are_counted_and_not_answered(served: Served) -> None:
    client = served.client()
    served.start()
    for frames in ([b"x", ALL], [b"", b"", ALL], [b"", b"x", ALL]):
        client.send_multipart(frames)
    client.send(ALL)
    assert isinstance(decode_answer(served.answer(client)[0]), ReplayPage)
    assert not client.poll(0)
    assert served.stop().requests == {"malformed": 3, "answered": 1}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"from": -1}', b"[" * 4000])
def test_what_is_no_request_is_answered_with_what_was_expected(served: Served, body: bytes) -> None:
    client = served.client()
    served.start()
    client.send(body)
    assert error_of(served.answer(client)).startswith("expected a replay request: ")
    assert served.stop() == Report(requests={"malformed": 1})


def test_a_ledger_that_cannot_be_read_is_tried_again_at_the_next_request(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    away = served.file.rename(served.file.with_suffix(".away"))
    client = served.client()
    served.start()
    client.send(ALL)
    assert error_of(served.answer(client)) == "the ledger cannot be read at present"
    away.rename(served.file)
    client.send(ALL)
    assert isinstance(decode_answer(served.answer(client)[0]), ReplayPage)
    told = served.stop()
    assert told.requests == {"failed": 1, "answered": 1}
    assert told.ledger_damage == {}
    assert "cannot answer a replay request" in caplog.text
    assert str(served.file) in caplog.text


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_damaged_ledger_is_reported_and_does_not_end_the_replayer(
    served: Served, caplog: pytest.LogCaptureFixture, opened_before: bool
) -> None:
    client = served.client()
    served.start()
    if opened_before:
        client.send(ALL)
        assert isinstance(decode_answer(served.answer(client)[0]), ReplayPage)
        with closing(sqlite3.connect(served.file)) as database:
            database.execute("DROP TABLE documents")
    else:
        served.file.write_bytes(b"no ledger" * 10_000)
    for _ in range(2):
        client.send(ALL)
        assert error_of(served.answer(client)) == "the ledger cannot be read at present"
    told = served.stop()
    assert told.requests["failed"] == 2
    assert list(told.ledger_damage) == [served.channel.number]
    [damage] = told.ledger_damage.values()
    assert str(served.file) in damage
    assert damage in caplog.text


def test_who_reads_no_answers_costs_no_look_at_the_ledger_and_others_are_answered(served: Served) -> None:
    greedy, other = served.client(), served.client()
    served.start()
    for _ in range(300):
        greedy.send(ALL)
    for _ in range(3):
        other.send(ALL)
        assert isinstance(decode_answer(served.answer(other)[0]), ReplayPage)
    handled = count_handled(served, 303)
    kept = handled.requests["answered"] - 3
    assert 1 <= kept <= PAGES_WAITING + 1
    assert handled.requests == {"answered": kept + 3, "undeliverable": 300 - kept}
    assert len(handled.damaged) < 50, "each look at the ledger came upon the damaged document"
    for _ in range(kept):
        served.answer(greedy)

    def is_answered_again() -> bool:
        greedy.send(ALL)
        return greedy.poll(20) != 0

    served.wait_until(is_answered_again)  # it is let to rest before
    assert isinstance(decode_answer(served.answer(greedy)[0]), ReplayPage)


def test_who_has_gone_is_counted_and_others_are_answered(served: Served) -> None:
    gone, other = served.client(), served.client()
    gone.linger = -1
    for _ in range(10):
        gone.send(ALL)
    gone.close()
    other.send(ALL)
    served.start()
    assert isinstance(decode_answer(served.answer(other)[0]), ReplayPage)
    told = count_handled(served, 11)
    assert told.requests["undeliverable"] >= 10 - (PAGES_WAITING + 1)
    assert told.replayed == 2 * told.requests["answered"] > 0


# --- beside picking -------------------------------------------------------------------------------------------------


class Watched(Allowance):
    """Notes what it was asked, and may have the replayer rest for long."""

    asked: ClassVar[list[bool]] = []
    rest_seconds: ClassVar[float] = 0.0

    def debt_seconds(self, *, is_busy: bool) -> float:
        self.asked.append(is_busy)
        return super().debt_seconds(is_busy=is_busy) + self.rest_seconds


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    class Fresh(Watched):
        asked: ClassVar[list[bool]] = []

    monkeypatch.setattr("frazil.session.outbox.stream.replayer.Allowance", Fresh)
    return Fresh


@pytest.mark.parametrize(("seconds_ago", "is_busy"), [(0.0, True), (25.0, True), (31.0, False), (1e9, False)])
def test_picking_counts_as_busy_for_half_a_minute_after_a_document(
    served: Served, watched: type[Watched], seconds_ago: float, is_busy: bool
) -> None:
    served.publisher.published_at = time.monotonic() - seconds_ago
    served.start()
    client = served.client()
    for _ in range(3):
        client.send(ALL)
        served.answer(client)
    served.stop()
    assert set(watched.asked) == {is_busy}
    assert len(watched.asked) <= 5, "it goes round once for each request, and does nothing else meanwhile"


def test_whoever_asks_waits_while_the_replayer_rests_and_its_end_does_not(
    served: Served, watched: type[Watched]
) -> None:
    watched.rest_seconds = 1000.0
    client = served.client()
    client.send(ALL)
    served.start()
    assert not client.poll(100)
    assert served.stop() == Report()
