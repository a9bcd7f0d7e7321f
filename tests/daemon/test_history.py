"""The follower against a real ledger that is cut, restored, archived and damaged beneath it; only the sockets are left
out."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.client.cursor import Cursor, Place
from frazil.client.followers import Followers
from frazil.documents import Heartbeat, MicrographDocument, add_generation, encode_document
from frazil.replay import ReplayPage, ReplayRequest, decode_answer, decode_request
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, Witness, archive
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.outbox.stream.pages import Pages
from frazil.session.outbox.stream.reports import Reports

HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
Make = Callable[..., MicrographDocument]
MakeChannel = Callable[..., ChannelState]


class Server:
    """A daemon's ledger and what it publishes; its history can be changed while it is down."""

    def __init__(self, folder: Path, make_document: Make, make_channel: MakeChannel) -> None:
        self.folder = folder
        self.file = folder / "ledger.sqlite"
        self._make = make_document
        self._make_channel = make_channel
        self._made = 0
        self.committed: list[tuple[int, str]] = []
        self.copy: Path | None = None
        self.sent: list[bytes] = []
        """What a subscriber that is connected has not read yet."""
        self.start()

    def start(self) -> None:
        self.witness = Witness(self.folder, watch=self.folder, ledger=self.file)
        self.ledger = Ledger(self.file, self.witness)
        self.channel = self._make_channel(
            self.file, epoch=self.ledger.epoch, generation=self.ledger.generation, published=self.ledger.head
        )
        self.beat()

    def stop(self) -> None:
        self.ledger.close()
        self.witness.close()

    def beat(self) -> None:
        self.sent.append(
            encode_document(
                Heartbeat(
                    epoch=self.ledger.epoch, seq=self.channel.published, replay="r", generation=self.ledger.generation
                )
            )
        )

    def commit(self) -> None:
        self._made += 1
        name = f"{self._made}.mrc"  # no two documents are alike, whatever their numbers
        one = self._make(f"/data/{name}")
        seq, body = self.ledger.commit_picked(
            name, HANDLED, lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq))
        )
        self.ledger.note_given_out(seq)
        self.ledger.mark_delivered(seq)
        self.channel.published = seq
        self.committed.append((seq, name))
        self.sent.append(add_generation(body, self.ledger.generation))

    def answer(self, request: bytes) -> list[bytes]:
        with LedgerReader(self.file) as reader:
            wanted = decode_request(request)
            assert isinstance(wanted, ReplayRequest)
            return Pages(Reports(), self.channel, reader).page(wanted)

    def documents(self) -> dict[int, str]:
        """Names of the micrographs of all that can be read, by their numbers."""
        with LedgerReader(self.file) as reader:
            found = {stored.seq: stored.decode() for stored in reader.documents()}
        return {seq: document.micrograph for seq, document in found.items() if document is not None}  # type: ignore[union-attr]

    # --- what happens to a history ---

    def back_up(self) -> None:
        self.copy = self.folder / "copy"
        with closing(sqlite3.connect(self.file)) as database, closing(sqlite3.connect(self.copy)) as copy:
            database.backup(copy)

    def restart(self) -> None:
        self.stop()
        self.start()

    def restore(self, *, witness_lost: bool) -> None:
        if self.copy is None:
            return
        self.stop()
        shutil.copy(self.copy, self.file)
        if witness_lost:
            self.witness.file.unlink()
        self.start()

    def damage(self) -> None:
        with sqlite3.connect(self.file) as database:
            database.execute("UPDATE documents SET body = '{' WHERE seq = (SELECT max(seq) FROM documents)")
        database.close()

    def archive(self) -> None:
        archive(self.file, self.folder / "archive", before=1e12, below="1")


class Client:
    """A subscriber that may be killed at any moment and goes on where it was."""

    def __init__(self, server: Server, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.server = server
        self.folder = folder
        self._caplog = caplog
        self.received: list[tuple[int, str, int]] = []
        """Number, micrograph, and how much had been said before."""
        self.kills = 0
        self.missing: set[int] = set()
        """Numbers that were ever said to be missing ..."""
        self.renounced: set[tuple[int, str]] = set()
        """... and what had been committed under them by then."""
        self.connect()

    @property
    def said(self) -> list[str]:
        """What it has logged."""
        return [record.message for record in self._caplog.records if record.name.startswith("frazil.client")]

    def connect(self) -> None:
        cursor = Cursor(self.folder / "cursor")
        self.followers = Followers([b""], 1, cursor.places)
        self.cursor = cursor
        self.server.sent.clear()  # whoever connects gets what is published from then on
        self.server.beat()

    def kill(self) -> None:
        self.kills += 1
        self.cursor.close()
        self.connect()

    def lose(self) -> None:
        """The network loses what is under way."""
        self.server.sent.clear()

    def read(self, count: int) -> None:
        for _ in range(count):
            document = self.followers.take()
            while document is None and self.server.sent:
                self.followers.hear(self.server.sent.pop(0))
                document = self.followers.take()
            if document is None and (request := self.followers.request()) is not None:
                answer = self.server.answer(request)
                page = decode_answer(answer[0])
                assert isinstance(page, ReplayPage)
                for first, last in page.missing or ():
                    assert not any(first <= seq <= last for seq in self.server.documents()), (
                        "said missing, and is there"
                    )
                before = len(self.followers.missing)
                self.followers.read_answer(answer)
                said = {seq for first, last in page.missing or () for seq in range(first, last + 1)}
                if len(self.followers.missing) > before:
                    self.missing |= said
                    self.renounced.update((seq, name) for seq, name in self.server.committed if seq in said)
                document = self.followers.take()
            if document is not None:
                warned = sum("starting over" in line or "going on after" in line for line in self.said)
                self.received.append((document.seq, document.micrograph, warned + self.kills))  # type: ignore[union-attr]
                assert self.followers.place is not None
                self.generation = self.followers.place.generation
                self.cursor.advance(self.followers.place)

    def drain(self) -> None:
        self.server.beat()
        self.read(3 * self.server._made + 30)


COMMON = ["commit", "commit", "commit", "drain", "drain", "back_up", "restore without witness", "restore", "read"]
RARE = ["restart", "damage", "archive", "lose", "kill", "beat"]
STEPS = st.tuples(st.sampled_from(COMMON * 2 + RARE), st.integers(1, 4))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "frazil.client"):
        yield caplog


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=8, max_size=30))
def test_whatever_happens_to_a_history_what_is_left_of_it_arrives_and_nothing_comes_twice_unsaid(
    steps: list[tuple[str, int]],
    make_document: Make,
    make_channel: MakeChannel,
    quiet: pytest.LogCaptureFixture,
) -> None:
    quiet.clear()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        server = Server(Path(name), make_document, make_channel)
        client = Client(server, Path(name), quiet)
        act = {
            "commit": server.commit,
            "drain": client.drain,
            "back_up": server.back_up,
            "restart": server.restart,
            "restore": lambda: server.restore(witness_lost=False),
            "restore without witness": lambda: server.restore(witness_lost=True),
            "damage": server.damage,
            "archive": server.archive,
            "lose": client.lose,
            "kill": client.kill,
            "beat": server.beat,
        }
        for step, count in steps:
            if step == "read":
                client.read(count)
            else:
                for _ in range(count if step == "commit" else 1):
                    act[step]()
        client.drain()
        got = {(seq, micrograph) for seq, micrograph, _ in client.received} | client.renounced
        unsent = [(seq, name) for seq, name in server.documents().items() if (seq, name) not in got]
        assert not unsent, "documents of the surviving history were missed"
        for (before, _, said_before), (seq, _, said) in zip(client.received, client.received[1:], strict=False):
            assert seq > before or said > said_before, f"{seq} after {before}, and nothing was said"
            assert client.missing.issuperset(range(before + 1, seq)), f"between {before} and {seq}, nothing was said"
        client.cursor.close()
        server.stop()


# --- one by one -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, make_document: Make, make_channel: MakeChannel) -> Iterator[Server]:
    made = Server(tmp_path, make_document, make_channel)
    yield made
    made.stop()


@pytest.fixture
def client(server: Server, tmp_path: Path, quiet: pytest.LogCaptureFixture) -> Iterator[Client]:
    made = Client(server, tmp_path, quiet)
    yield made
    made.cursor.close()


def test_a_restart_costs_one_question_and_nothing_is_said(server: Server, client: Client) -> None:
    for _ in range(3):
        server.commit()
    client.drain()
    server.restart()
    server.commit()
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 3, 4]
    assert not client.said
    assert client.generation == server.ledger.generation


def test_a_document_of_another_generation_is_taken_only_after_it_was_asked_what_still_holds(
    server: Server, client: Client
) -> None:
    for _ in range(3):
        server.commit()
    client.drain()
    server.restart()
    client.lose()  # with the heartbeat that would say so
    server.commit()
    client.followers.hear(server.sent.pop())
    assert client.followers.take() is None
    request = client.followers.request()
    assert request is not None
    assert decode_request(request).generation == client.generation != server.ledger.generation
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 3, 4]
    assert not client.said


def test_with_its_witness_a_restored_ledger_goes_on_behind_all_numbers_and_the_hole_is_said(
    server: Server, client: Client
) -> None:
    server.commit()
    server.back_up()
    for _ in range(3):
        server.commit()
    client.read(2)
    client.lose()
    server.restore(witness_lost=False)
    server.commit()
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 5]
    assert client.followers.missing == [(3, 4)]
    assert "documents 3 to 4 are no longer in the ledger" in client.said[-1]


def test_without_a_witness_what_was_cut_off_is_said_and_its_numbers_come_again(server: Server, client: Client) -> None:
    for _ in range(3):
        server.commit()
    server.back_up()
    for _ in range(2):
        server.commit()
    client.drain()
    server.restore(witness_lost=True)
    for _ in range(3):
        server.commit()
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 3, 4, 5, 4, 5, 6]
    assert "it no longer has documents 4 to 5 as they were read" in client.said[-1]


def test_where_the_ledger_forgot_the_generation_too_it_starts_over(server: Server, client: Client) -> None:
    server.commit()
    server.back_up()
    server.restart()
    server.commit()
    client.drain()
    server.restore(witness_lost=True)
    server.commit()
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 1, 2]
    assert "starting over at its first document" in client.said[-1]


def test_a_cursor_beyond_the_head_is_noticed_though_it_knows_no_generation(
    server: Server, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    """As an earlier frazil wrote it."""
    for _ in range(3):
        server.commit()
    cursor = Cursor(tmp_path / "cursor")
    cursor.advance(Place(server.ledger.epoch, 50))
    cursor.close()
    client = Client(server, tmp_path, quiet)
    client.drain()
    assert [seq for seq, _, _ in client.received] == [1, 2, 3]
    assert "no longer has the documents read" in client.said[0]
    client.cursor.close()


def test_a_cursor_of_an_earlier_frazil_goes_on_where_it_was(
    server: Server, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        server.commit()
    old = msgspec.json.encode({"epoch": server.ledger.epoch, "seq": 2}).ljust(127) + b"\n"
    (tmp_path / "cursor").write_bytes(old)
    client = Client(server, tmp_path, quiet)
    client.drain()
    assert [seq for seq, _, _ in client.received] == [3]
    assert not client.said
    client.cursor.close()


def test_a_daemon_of_before_is_followed_and_a_place_beyond_its_head_noticed(
    make_document: Make, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Followers([b""], 1, {"e": Place("e", 50, "abc")})
    follower.hear(encode_document(Heartbeat(epoch="e", seq=50, replay="r")))
    assert follower.request() is None
    follower.hear(encode_document(make_document("/data/a.mrc", epoch="e", seq=51)))
    assert follower.take() is not None
    cut = Followers([b""], 1, {"e": Place("e", 50, "abc")})
    cut.hear(encode_document(Heartbeat(epoch="e", seq=30, replay="r")))
    request = cut.request()
    assert request is not None
    assert decode_request(request).first == 1
    assert "generation" not in msgspec.json.decode(request)  # which it would not understand
    assert "starting over" in caplog.text


def test_the_longest_place_fits_into_a_cursor(tmp_path: Path) -> None:
    place = Place("f" * 32, 2**63 - 1, "0" * 12)
    cursor = Cursor(tmp_path / "cursor")
    cursor.advance(place)
    cursor.close()
    assert (tmp_path / "cursor").stat().st_size == 128
    again = Cursor(tmp_path / "cursor")
    assert again.places == {"f" * 32: place}
    again.close()
