"""The followers of several sessions: real ledgers that begin, close and are opened anew, and a network that loses, doubles
and delays what it is given. Only the sockets are left out."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.client.cursor import Cursor
from frazil.client.followers import Followers
from frazil.documents import Heartbeat, MicrographDocument, add_generation, encode_document, in_session
from frazil.replay import (
    CatalogRequest,
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
        channel = self._make_channel(
            self.file(name),
            number=self._numbers,
            session=name,
            epoch=ledger.epoch,
            generation=ledger.generation,
            since=ledger.head + 1,
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
        for name in self.names:
            if name in was_open:
                self.start(name)
            else:
                self._numbers += 1
                old = before.of_session(name)
                since = old.published + 1
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


STEPS = st.tuples(
    st.sampled_from(
        ["begin", "begin", "commit", "commit", "commit", "commit", "close", "start", "restart", "beat", "lose"]
        + ["lose one", "double", "late", "kill", "read", "read", "drain"]
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
