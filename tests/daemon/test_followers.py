"""The followers of several sessions: real ledgers that begin, close and are opened anew, and a network that loses,
doubles and delays what it is given. Only the sockets are left out."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.client.cursor import Cursor, Place
from frazil.client.followers import Followers
from frazil.documents import Heartbeat, MicrographDocument, add_generation, encode_document, in_session
from frazil.errors import AddressError
from frazil.replay import (
    CatalogEntry,
    CatalogPage,
    CatalogRequest,
    ReplayError,
    ReplayPage,
    ReplayRequest,
    decode_request,
    encode_answer,
)
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.outbox.stream.pages import Pages
from frazil.session.outbox.stream.reports import Reports

Make = Callable[..., MicrographDocument]
MakeChannel = Callable[..., ChannelState]
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
NAMES = ("a", "ab", "b/c", "2026/ä")
OURS, THEIRS = "a" * 32, "b" * 32


@dataclass
class OpenSession:
    ledger: Ledger
    channel: ChannelState


class Microscope:
    """A daemon's ledgers and what it publishes of them."""

    def __init__(self, folder: Path, make_document: Make, make_channel: MakeChannel) -> None:
        self.folder = folder
        self._make = make_document
        self._make_channel = make_channel
        self._numbers = 0
        self._since: dict[str, int] = {}  # of this run
        self.names: list[str] = []
        self.open: dict[str, OpenSession] = {}
        self.sent: list[bytes] = []
        """What a subscriber that is connected has not read yet."""
        self.ever_sent: list[bytes] = []
        self.channels = Channels(awaited=0, is_microscope=True)

    def file(self, name: str) -> Path:
        return self.folder / str(self.names.index(name)) / "ledger.sqlite"

    def head(self, name: str) -> int:
        return self.channels.of_session(name).published

    def begin(self) -> None:
        if len(self.names) < len(NAMES):
            name = NAMES[len(self.names)]
            self.names.append(name)
            self.file(name).parent.mkdir()
            self.start(name)

    def start(self, name: str) -> None:
        if name in self.open:
            return
        ledger = Ledger(self.file(name))
        self._numbers += 1
        since = self._since.setdefault(name, ledger.head + 1)
        channel = self._make_channel(
            self.file(name),
            number=self._numbers,
            session=name,
            epoch=ledger.epoch,
            generation=ledger.generation,
            since=since,
            published=ledger.head,
        )
        self.channels.put(channel)
        self.open[name] = OpenSession(ledger, channel)

    def close(self, name: str) -> None:
        if name in self.open:
            session = self.open.pop(name)
            session.ledger.close()
            self.channels.put(msgspec.structs.replace(session.channel, live=False))

    def restart(self) -> None:
        """All channels are told anew, one after the other."""
        was_open = list(self.open)
        for name in was_open:
            self.open.pop(name).ledger.close()
        before, self.channels = self.channels, Channels(awaited=0, is_microscope=True)
        self._since.clear()
        for name in self.names:
            if name in was_open:
                self.start(name)
            else:
                self._numbers += 1
                old = before.of_session(name)
                self._since[name] = since = old.published + 1
                self.channels.put(msgspec.structs.replace(old, number=self._numbers, live=False, since=since))

    def stop(self) -> None:
        for session in self.open.values():
            session.ledger.close()

    def beat(self) -> None:
        catalog = self.channels.version
        for name, session in self.open.items():
            channel = session.channel
            self._send(
                encode_document(
                    Heartbeat(
                        schema=2,
                        epoch=channel.epoch,
                        seq=channel.published,
                        replay="r",
                        generation=channel.generation,
                        session=name,
                        catalog=catalog,
                    )
                )
            )
        if not self.open:
            self._send(encode_document(Heartbeat(schema=2, epoch="", seq=0, replay="r", catalog=catalog)))

    def commit(self, name: str) -> None:
        if name not in self.open:
            return
        session = self.open[name]
        one = in_session(self._make("/data/a.mrc"), name)
        seq, body = session.ledger.commit_picked(
            f"{session.ledger.head}.mrc",
            HANDLED,
            lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),
        )
        session.ledger.note_given_out(seq)
        session.ledger.mark_delivered(seq)
        session.channel.published = seq
        self._send(add_generation(body, session.ledger.generation))

    def answer(self, body: bytes) -> list[bytes]:
        request = decode_request(body)
        if isinstance(request, CatalogRequest):
            return [encode_answer(self.channels.page(request))]
        channel = self.channels.of_session(request.session)
        with LedgerReader(Path(channel.ledger.decode())) as reader:
            return Pages(Reports(), channel, reader).page(request)

    def _send(self, message: bytes) -> None:
        self.sent.append(message)
        self.ever_sent.append(message)


class Subscriber:
    """It may be killed at any moment, and goes on where it was."""

    def __init__(
        self, microscope: Microscope, cursor: Path | None, since: int | None, wanted: list[str] | None
    ) -> None:
        self._microscope = microscope
        self._file, self._since, self._wanted = cursor, since, wanted
        self.received: dict[str, list[int]] = defaultdict(list)
        self._cursor: Cursor | None = None
        self.connect()

    def connect(self) -> None:
        self._microscope.sent.clear()  # whoever connects gets what is published from then on
        self._cursor = Cursor(self._file) if self._file else None
        places = self._cursor.places if self._cursor else None
        self.followers = Followers([b""], self._since, places, self._wanted)

    def disconnect(self) -> None:
        if self._cursor is not None:
            self._cursor.close()

    def kill(self) -> None:
        if self._file is not None:
            self.disconnect()
            self.connect()

    def read(self, count: int) -> None:
        for _ in range(count):
            document = self.followers.take()
            while document is None and self._microscope.sent:
                self.followers.hear(self._microscope.sent.pop(0))
                document = self.followers.take()
            if document is None and (request := self.followers.request()) is not None:
                self.followers.read_answer(self._microscope.answer(request))
                document = self.followers.take()
            if document is not None:
                self.received[document.session].append(document.seq)
                assert self.followers.place is not None
                if self._cursor is not None:
                    self._cursor.advance(self.followers.place)

    def drain(self) -> None:
        """Until nothing more comes of what is there."""
        for _ in range(3):  # heartbeats: one says that the catalog is another, one comes after it was read
            self._microscope.beat()
            self.read(len(self._microscope.sent) + 10)
        while (request := self.followers.request()) is not None or self.followers._ready:
            assert request is None or request
            self.read(1)


OFTEN = ["begin", "commit", "commit", "read"]
STEPS = st.tuples(
    st.sampled_from(
        [*OFTEN, *OFTEN, "close", "start", "restart", "beat", "lose", "lose one", "double", "late", "kill", "drain"]
    ),
    st.integers(0, 3),
)


def act(microscope: Microscope, subscriber: Subscriber, step: str, which: int, random: Random) -> None:
    """One step of what may happen."""
    sent = microscope.sent
    name = microscope.names[which % len(microscope.names)] if microscope.names else ""
    match step:
        case "begin":
            microscope.begin()
        case "commit" | "close" | "start" if name:
            for _ in range(1 + which if step == "commit" else 1):
                getattr(microscope, step)(name)
        case "restart" | "beat":
            getattr(microscope, step)()
        case "lose":
            sent.clear()
        case "lose one" if sent:
            del sent[random.randrange(len(sent))]
        case "double" if microscope.ever_sent:  # or much too late
            sent.insert(random.randrange(len(sent) + 1), random.choice(microscope.ever_sent))
        case "late":
            random.shuffle(sent)
        case "kill":
            subscriber.kill()
        case "read":
            subscriber.read(1 + which)
        case "drain":
            subscriber.drain()


def in_memory() -> Path | None:
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(STEPS, min_size=8, max_size=40),
    wanted=st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
    random=st.randoms(use_true_random=False),
)
def test_every_document_of_every_session_comes_once_and_in_order_whatever_happens(
    steps: list[tuple[str, int]],
    wanted: list[str] | None,
    random: Random,
    make_document: Make,
    make_channel: MakeChannel,
) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as name, ExitStack() as closing:
        microscope = Microscope(Path(name), make_document, make_channel)
        closing.callback(lambda: microscope.stop())
        subscriber = Subscriber(microscope, Path(name, "cursor"), 1, wanted)
        closing.callback(subscriber.disconnect)
        for step, which in steps:
            act(microscope, subscriber, step, which, random)
        subscriber.drain()
        assert dict(subscriber.received) == {
            session: list(range(1, head + 1))
            for session in microscope.names
            if (head := microscope.head(session)) and (wanted is None or session in wanted)
        }
        records = Path(name, "cursor").stat().st_size
        assert records == 128 * len(subscriber.received)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(STEPS, max_size=15), steps=st.lists(STEPS, max_size=30), random=st.randoms())
def test_from_now_on_is_from_the_connection_and_all_of_what_begins_later(
    before: list[tuple[str, int]],
    steps: list[tuple[str, int]],
    random: Random,
    make_document: Make,
    make_channel: MakeChannel,
) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as name, ExitStack() as closing:
        microscope = Microscope(Path(name), make_document, make_channel)
        closing.callback(lambda: microscope.stop())
        earlier = Subscriber(microscope, Path(name, "cursor"), 1, None)
        for step, which in before:
            act(microscope, earlier, step, which, random)
        earlier.disconnect()
        subscriber = Subscriber(microscope, None, None, None)
        microscope.beat()
        while not subscriber.followers.settled:
            subscriber.read(1)
        heads = {session: microscope.head(session) for session in microscope.names}
        for step, which in steps:
            act(microscope, subscriber, step, which, random)
        subscriber.drain()
        assert dict(subscriber.received) == {
            session: list(range(heads.get(session, 0) + 1, head + 1))
            for session in microscope.names
            if (head := microscope.head(session)) > heads.get(session, 0)
        }


# --- one by one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def body(make_document: Make) -> Callable[..., bytes]:
    """A document of this number and session, as it is published."""

    def made(seq: int, session: str = "", epoch: str = OURS) -> bytes:
        one = msgspec.structs.replace(make_document("/data/a.mrc"), epoch=epoch, seq=seq)
        return add_generation(encode_document(in_session(one, session)), "g")

    return made


def beat(seq: int, epoch: str = OURS, session: str = "", catalog: str = "") -> bytes:
    schema = 2 if catalog else 1
    return encode_document(
        Heartbeat(
            schema=schema, epoch=epoch, seq=seq, replay="tcp://*:7", generation="g", session=session, catalog=catalog
        )
    )


def entry(session: str, head: int, epoch: str = OURS, since: int = 1) -> CatalogEntry:
    return CatalogEntry(session=session, epoch=epoch, head=head, generation="g", since=since, live=True)


def catalog(*entries: CatalogEntry, version: str = "v1", more: bool = False) -> list[bytes]:
    return [encode_answer(CatalogPage(catalog=version, sessions=entries, more=more))]


def page(first: int, *bodies: bytes, head: int, session: str = "", epoch: str = OURS, schema: int = 1) -> list[bytes]:
    made = ReplayPage(
        schema=schema,
        epoch=epoch,
        first=first,
        next=first + len(bodies),
        head=head,
        oldest=1,
        documents=len(bodies),
        generation="g",
        missing=(),
        session=session,
    )
    return [encode_answer(made), *bodies]


def asked(followers: Followers) -> ReplayRequest | CatalogRequest | None:
    request = followers.request()
    return None if request is None else decode_request(request)


def taken(followers: Followers) -> list[tuple[str, int]]:
    found = []
    while (document := followers.take()) is not None:
        found.append((document.session, document.seq))
    return found


def test_the_only_session_is_followed_as_soon_as_it_is_heard(body: Callable[..., bytes]) -> None:
    followers = Followers([b""], since=1)
    assert (followers.epoch, followers.replay, followers.connected, followers.settled) == ("", "", False, False)
    followers.hear(beat(2))
    assert (followers.epoch, followers.replay, followers.connected, followers.settled) == (
        OURS,
        "tcp://*:7",
        True,
        True,
    )
    assert asked(followers) == ReplayRequest(first=1, until=3)
    followers.read_answer(page(1, body(1), body(2), head=2))
    assert taken(followers) == [("", 1), ("", 2)]
    assert followers.place == Place(OURS, 2, "g")
    assert followers.replayed == 2


def test_its_requests_and_cursor_are_as_a_daemon_without_sessions_knows_them() -> None:
    followers = Followers([b"picks/"], since=1)
    followers.hear(beat(2))
    assert followers.request() == b'{"from":1,"until":3,"topics":["picks/"]}'


def test_a_cursor_goes_on_in_its_ledger_and_another_is_read_from_the_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    places = {THEIRS: Place(THEIRS, 5, "g"), OURS: Place(OURS, 3, "g")}
    ours, other = Followers([b""], 9, places), Followers([b""], 9, places)
    ours.hear(beat(7))
    assert asked(ours) == ReplayRequest(first=4, until=8)
    other.hear(beat(7, "c" * 32))
    assert asked(other) == ReplayRequest(first=1, until=8)
    assert caplog.messages == ["the cursor has no place in this ledger: starting at its first document"]


def test_the_catalog_of_a_microscope_is_read_page_by_page_whenever_it_is_another(body: Callable[..., bytes]) -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(3, THEIRS, "b", catalog="v1"))
    followers.hear(body(3, "b", THEIRS))
    assert (followers.connected, followers.settled) == (True, False)
    assert asked(followers) == CatalogRequest(catalog=True)
    assert asked(followers) == CatalogRequest(catalog=True), "there was no answer"
    followers.read_answer(catalog(entry("a", 0), more=True))
    assert (followers.connected, followers.settled) == (True, False)
    assert asked(followers) == CatalogRequest(catalog=True, after="a")
    followers.read_answer(catalog(entry("b", 3, THEIRS)))
    assert followers.settled
    assert asked(followers) == ReplayRequest(first=1, until=4, session="b")
    followers.read_answer(page(1, *(body(seq, "b", THEIRS) for seq in (1, 2, 3)), head=3, session="b", epoch=THEIRS))
    assert taken(followers) == [("b", 1), ("b", 2), ("b", 3)]
    assert followers.epoch == THEIRS
    followers.hear(beat(3, THEIRS, "b", catalog="v1"))
    assert asked(followers) is None
    followers.hear(beat(3, THEIRS, "b", catalog="v2"))
    assert asked(followers) == CatalogRequest(catalog=True)


def test_sessions_take_turns(body: Callable[..., bytes]) -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(0, OURS, "a", catalog="v1"))
    assert asked(followers) is not None
    followers.read_answer(catalog(entry("a", 3), entry("b", 2, THEIRS), entry("c", 0, "c" * 32)))
    for session, epoch, head in (("a", OURS, 3), ("b", THEIRS, 2)):
        request = asked(followers)
        assert isinstance(request, ReplayRequest)
        assert request.session == session
        bodies = [body(seq, session, epoch) for seq in range(1, head + 1)]
        followers.read_answer(page(1, *bodies, head=head, session=session, epoch=epoch))
    assert taken(followers) == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]


def test_who_gets_no_answer_for_one_session_asks_for_the_next() -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(0, catalog="v1"))
    assert asked(followers) is not None
    followers.read_answer(catalog(entry("a", 3), entry("b", 2, THEIRS)))
    sessions = [request.session for _ in range(4) if isinstance(request := asked(followers), ReplayRequest)]
    assert sessions == ["a", "b", "a", "b"]


def test_no_more_is_requested_while_documents_of_many_sessions_wait(body: Callable[..., bytes]) -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(0, catalog="v1"))
    assert asked(followers) is not None
    epochs = [f"{number:032x}" for number in range(12)]
    followers.read_answer(catalog(*(entry(epoch, 1, epoch) for epoch in epochs)))
    for epoch in epochs[:10]:
        assert asked(followers) is not None
        followers.read_answer(page(1, body(1, epoch, epoch), head=1, session=epoch, epoch=epoch))
    assert asked(followers) is None
    followers.take()
    assert asked(followers) == ReplayRequest(first=1, until=2, session=epochs[10])


def test_a_session_that_the_daemon_refuses_does_not_keep_the_others_away(caplog: pytest.LogCaptureFixture) -> None:
    followers = Followers([b""], since=1)
    heartbeat = beat(0, catalog="v1")
    followers.hear(heartbeat)
    assert asked(followers) is not None
    followers.read_answer(catalog(entry("a", 3), entry("b", 2, THEIRS)))
    refused = [encode_answer(ReplayError(error="away"))]
    assert asked(followers) == ReplayRequest(first=1, until=4, session="a")
    followers.read_answer(refused)
    assert asked(followers) == ReplayRequest(first=1, until=3, session="b")
    followers.read_answer(page(1, head=0, session="b", epoch=THEIRS))
    asked_at = []
    for beats in range(31):
        for _ in range(2):  # the two sessions are asked for in turn
            request = asked(followers)
            if isinstance(request, ReplayRequest) and request.session == "a":
                asked_at.append(beats)
                followers.read_answer(refused)
            elif request is not None:
                followers.read_answer(page(1, head=0, session="b", epoch=THEIRS))
        followers.hear(heartbeat)
    assert asked_at == [2, 6, 14, 30]
    assert caplog.messages == ["a: the daemon refused a replay, others go on: away"]
    followers.hear(beat(0, catalog="v2"))
    assert asked(followers) == CatalogRequest(catalog=True)
    followers.read_answer(catalog(entry("a", 3), version="v2"))
    sessions = {request.session for _ in range(2) if isinstance(request := asked(followers), ReplayRequest)}
    assert "a" in sessions, "the catalog has it: it is asked for at once"


def test_who_names_sessions_gets_these_only_and_is_told_which_there_are_not(
    body: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    followers = Followers([b""], since=1, sessions=["b", "later"])
    followers.hear(beat(0, catalog="v1"))
    assert asked(followers) is not None
    followers.read_answer(catalog(entry("a", 3), entry("b", 1, THEIRS)))
    assert caplog.messages == ["later: there is no session of this name as yet; waiting for it"]
    assert asked(followers) == ReplayRequest(first=1, until=2, session="b")
    followers.read_answer(page(1, body(1, "b", THEIRS), head=1, session="b", epoch=THEIRS))
    followers.hear(body(4, "a"))
    assert taken(followers) == [("b", 1)]
    assert asked(followers) is None


def test_who_names_a_session_where_there_is_only_one_without_a_name_is_told() -> None:
    followers = Followers([b""], sessions=["b", "a"])
    with pytest.raises(AddressError, match="expected a microscope with session a, b, found a daemon with one session"):
        followers.hear(beat(0))


def test_a_daemon_that_becomes_a_microscope_is_followed_as_one(body: Callable[..., bytes]) -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(5))
    followers.hear(beat(0, catalog="v1"))
    assert asked(followers) == CatalogRequest(catalog=True)
    followers.read_answer(catalog(entry("a", 1, THEIRS)))
    assert asked(followers) == ReplayRequest(first=1, until=2, session="a")
    followers.read_answer(page(1, body(1, "a", THEIRS), head=1, session="a", epoch=THEIRS))
    assert taken(followers) == [("a", 1)]
    assert asked(followers) is None


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (b"", "Input data was truncated"),
        (b"\x80\x04", "JSON is malformed"),
        (b"{}", "Object missing required field `type`"),
        (b'{"type":"heartbeat"}', "Object missing required field `epoch`"),
        (beat(9).replace(b'"schema":1', b'"schema":3'), "expected a document of schema 2 or older, found 3"),
    ],
)
def test_what_cannot_be_understood_is_passed_over_and_said(
    body: Callable[..., bytes], caplog: pytest.LogCaptureFixture, spoiled: bytes, why: str
) -> None:
    followers = Followers([b""], since=1)
    followers.hear(spoiled)
    assert not followers.connected
    assert f"ignored a message that is no document: {why}" in caplog.text
    followers.hear(beat(2))
    assert asked(followers) is not None
    followers.read_answer(page(1, spoiled, body(2), head=2))
    assert taken(followers) == [("", 2)]
    assert f"ignored a document that cannot be read: {why}" in caplog.text
    assert followers.replayed == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (encode_answer(ReplayError(error="out of order")), "refused a replay: out of order"),
        (page(1, head=0, schema=3)[0], "expected schema 2 or older, found 3: update frazil"),
        (b"nonsense", "answered a replay with something else"),
        (b"", "answered a replay with something else"),
        (b'{"type":"page"}', "answered a replay with something else: .*`epoch`"),
    ],
)
def test_an_answer_that_is_no_page_is_an_error_that_says_what_came(answer: bytes, said: str) -> None:
    followers = Followers([b""], since=1)
    followers.hear(beat(2))
    assert asked(followers) is not None
    with pytest.raises(AddressError, match=said):
        followers.read_answer([answer])
