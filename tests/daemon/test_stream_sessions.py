"""The stream of a microscope, over real sockets: several sessions that begin, close and are followed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

import frazil
from frazil.documents import Heartbeat, NumberedDocument, decode_document
from frazil.errors import AddressError
from frazil.replay import CatalogPage, CatalogRequest, ReplayError, ReplayPage, decode_answer
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import ChannelState

PATIENCE_SECONDS = 240.0
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821


def take(stream: frazil.PickStream, count: int) -> dict[str, list[NumberedDocument]]:
    """So many documents, each waited for with patience, by session."""
    taken: dict[str, list[NumberedDocument]] = {}
    for number in range(count):
        document = stream.receive(PATIENCE_SECONDS)
        assert document is not None, f"only {number} of {count} came"
        taken.setdefault(document.session, []).append(document)
    return taken


@contextmanager
def raw_socket(kind: int, address: str) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.connect(address)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


def ask(socket: zmq.Socket[bytes], **request: object) -> list[bytes]:
    socket.send(json.dumps({"from" if name == "first" else name: value for name, value in request.items()}).encode())
    assert socket.poll(PATIENCE_SECONDS * 1000)
    return socket.recv_multipart()


def catalog(socket: zmq.Socket[bytes]) -> dict[str, tuple[int, int, bool]]:
    """Since, head and whether it is open, of every session."""
    found: dict[str, tuple[int, int, bool]] = {}
    after = ""
    while True:
        [frame] = ask(socket, catalog=True, after=after)
        page = decode_answer(frame)
        assert isinstance(page, CatalogPage)
        found |= {one.session: (one.since, one.head, one.live) for one in page.sessions}
        if not page.more:
            return found
        after = page.sessions[-1].session


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def memory_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- documents --------------------------------------------------------------------------------------------------------


def test_all_sessions_come_live_and_replayed_and_one_comes_alone(open_stream: Open) -> None:
    a = open_stream("a", session="2026/a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    with frazil.PickStream(a.address) as live:
        assert live.wait_connected(PATIENCE_SECONDS)
        sent = {"2026/a": [], "b": []}
        for number in range(150):
            for name, daemon in (("2026/a", a), ("b", b)):
                sent[name].append(daemon.commit(f"{number}.mrc"))
        assert take(live, 300) == sent
    with frazil.PickStream(a.address, since=1) as late:
        assert take(late, 300) == sent
        assert late.replayed == 300
    with frazil.PickStream(a.address, "b", since=101) as one:
        assert take(one, 50) == {"b": sent["b"][100:]}
        a.commit("more.mrc")
        last = b.commit("last.mrc")
        assert take(one, 1) == {"b": [last]}


def test_documents_of_a_microscope_name_their_session_in_schema_2(open_stream: Open) -> None:
    daemon = open_stream(session="apo", is_microscope=True)
    with raw_socket(zmq.SUB, daemon.address) as live, raw_socket(zmq.REQ, daemon.stream.replay) as asker:
        live.subscribe(b"")
        live.recv_multipart()
        daemon.commit("a.mrc")
        while (message := live.recv_multipart())[0] == b"heartbeat":
            pass
        assert message[0] == b"picks/"
        content = json.loads(message[1])
        assert (content["schema"], content["session"]) == (2, "apo")
        for request in ({}, {"session": "apo"}):
            header, _ = ask(asker, first=1, **request)
            page = json.loads(header)
            assert (page["schema"], page["session"]) == (2, "apo")


def test_a_daemon_with_one_session_sends_what_it_always_did(open_stream: Open) -> None:
    daemon = open_stream()
    with raw_socket(zmq.SUB, daemon.address) as live, raw_socket(zmq.REQ, daemon.stream.replay) as asker:
        live.subscribe(b"")
        heartbeat = json.loads(live.recv_multipart()[1])
        daemon.commit("a.mrc")
        while (message := live.recv_multipart())[0] == b"heartbeat":
            pass
        published = json.loads(message[1])
        header, body = ask(asker, first=1)
    assert list(heartbeat) == ["type", "schema", "epoch", "seq", "replay", "generation"]
    assert heartbeat["schema"] == published["schema"] == 1
    assert list(published)[-2:] == ["blank_fraction", "generation"]
    assert list(json.loads(body))[-1] == "blank_fraction"
    assert list(json.loads(header)) == (
        ["type", "schema", "epoch", "from", "next", "head", "oldest", "documents", "generation", "common", "missing"]
    )


def test_asyncio_gets_the_same(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    sent = [daemon.commit("a.mrc") for daemon in (a, b, a)]

    async def follow() -> list[NumberedDocument]:
        received = []
        async with frazil.AsyncPickStream(a.address, session=["a", "b"], since=1) as stream:
            for _ in range(3):
                received.append(await stream.receive(PATIENCE_SECONDS))
        return received

    received = asyncio.run(follow())
    assert sorted(received, key=lambda one: (one.session, one.seq)) == [sent[0], sent[2], sent[1]]


# --- sessions that begin and close ------------------------------------------------------------------------------------


def test_from_now_on_brings_all_of_a_session_that_begins_later(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    a.commit("before.mrc")
    a.wait_published()
    with frazil.PickStream(a.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        b = open_stream("b", session="b", beside=a)
        sent = [b.commit(f"{number}.mrc") for number in range(5)]
        after = a.commit("after.mrc")
        assert take(stream, 6) == {"a": [after], "b": sent}


def test_a_microscope_without_sessions_is_heard_and_they_come_when_they_begin(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    a.channel.close()
    with frazil.PickStream(a.address, timeout_seconds=0.1) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        assert list(stream) == []
        b = open_stream("b", session="b", beside=a)
        sent = b.commit("a.mrc")
        assert take(stream, 1) == {"b": [sent]}


def test_a_closed_session_has_no_heartbeats_and_its_documents_can_be_requested(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    sent = [b.commit(f"{number}.mrc") for number in range(3)]
    with frazil.PickStream(a.address, since=1) as stream:
        assert take(stream, 3) == {"b": sent}
        sent.append(b.commit("last.mrc"))
        b.channel.close()
        assert take(stream, 1) == {"b": sent[3:]}
    with raw_socket(zmq.REQ, a.stream.replay) as asker, raw_socket(zmq.SUB, a.address) as live:
        wait_until(lambda: catalog(asker) == {"a": (1, 0, True), "b": (1, 4, False)})
        live.subscribe(b"heartbeat")
        heard = [decode_document(live.recv_multipart()[1]) for _ in range(3)]
        assert {one.session for one in heard if isinstance(one, Heartbeat)} <= {"a", ""}
    with frazil.PickStream(a.address, since=1) as stream:
        assert take(stream, 4) == {"b": sent}


def test_a_session_may_be_opened_again_and_no_two_at_once_have_a_name(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    sent = [a.commit("first.mrc")]
    for name in ("a", ""):
        with pytest.raises(ValueError, match=f"expected a new name for a session, found '{name}' beside 'a'"):
            a.stream.add(name, ledger=a.ledger.file, epoch="e", published=0)
    with frazil.PickStream(a.address, since=1) as stream:
        assert take(stream, 1) == {"a": sent}
        a.channel.close()
        a.ledger.close()
        again = open_stream("a", session="a", beside=a)
        sent.append(again.commit("second.mrc"))
        assert take(stream, 1) == {"a": sent[1:]}
        with raw_socket(zmq.REQ, a.stream.replay) as asker:
            assert catalog(asker) == {"a": (1, 2, True)}


def test_the_end_of_an_old_channel_that_comes_late_takes_no_place_of_the_new_one() -> None:
    channels = Channels(awaited=0, is_microscope=True)

    def put(number: int, *, live: bool) -> None:
        state = ChannelState(
            number=number, session="a", ledger=b"", epoch="e", generation="", since=1, published=number, live=live
        )
        channels.put(state)

    put(1, live=True)
    put(2, live=True)
    put(1, live=False)
    assert channels.of_session("a").number == 2
    assert list(channels.live) == [2]
    (entry,) = channels.page(CatalogRequest(catalog=True)).sessions
    assert (entry.live, entry.head) == (True, 2)
    put(2, live=False)
    assert not channels.of_session("a").live


def test_another_process_of_the_sockets_knows_all_channels(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    sent = {"a": [a.commit("a.mrc")], "b": [b.commit("b.mrc")]}
    a.wait_published()
    b.channel.close()
    with frazil.PickStream(a.address) as early:
        assert early.wait_connected(PATIENCE_SECONDS)
        os.kill(a.stream.process.pid, signal.SIGKILL)
        sent["a"] += [a.commit(f"{number}.mrc") for number in range(20)]
        assert take(early, 20) == {"a": sent["a"][1:]}
        with frazil.PickStream(a.address, since=1) as late:
            assert take(late, 22) == sent
        c = open_stream("c", session="c", beside=a)
        sent_later = c.commit("c.mrc")
        assert take(early, 1) == {"c": [sent_later]}
    a.wait_sample("frazil_stream_restarts_total", 1)


# --- the cursor -------------------------------------------------------------------------------------------------------


def test_a_restarted_program_goes_on_in_each_session_where_it_was(open_stream: Open, tmp_path: Path) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    sent = {"a": [a.commit(f"{n}.mrc") for n in range(5)], "b": [b.commit(f"{n}.mrc") for n in range(3)]}
    cursor = tmp_path / "cursor"
    with frazil.PickStream(a.address, resume=cursor) as stream:
        first = take(stream, 6)
        stream.acknowledge()
    assert cursor.stat().st_size == 2 * 128
    c = open_stream("c", session="c", beside=a)
    sent["c"] = [c.commit("c.mrc")]
    with frazil.PickStream(a.address, resume=cursor) as stream:
        rest = take(stream, 3)
        stream.acknowledge()
    assert {name: first.get(name, []) + rest.get(name, []) for name in "abc"} == sent
    assert cursor.stat().st_size == 3 * 128


def test_a_cursor_serves_the_session_that_its_only_record_is_of(open_stream: Open, tmp_path: Path) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    sent = [a.commit(f"{n}.mrc") for n in range(3)]
    record = json.dumps({"epoch": a.ledger.epoch, "seq": 2}).encode().ljust(127) + b"\n"
    (tmp_path / "cursor").write_bytes(record)  # as an earlier frazil wrote it
    with frazil.PickStream(a.address, resume=tmp_path / "cursor") as stream:
        assert take(stream, 1) == {"a": sent[2:]}


# --- frazil listen ----------------------------------------------------------------------------------------------------


def listen(*arguments: object) -> list[str]:
    command = [Path(sys.executable).with_name("frazil"), "listen", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    return done.stdout.splitlines()


def test_listen_prints_all_sessions_or_those_that_are_named(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="2026/b", beside=a)
    for daemon in (a, b, a):
        daemon.commit("m.mrc")
    lines = listen(a.address, "--since", 1, "--count", 3)
    assert sorted(line.split()[:2] for line in lines) == [["1", "2026/b"], ["1", "a"], ["2", "a"]]
    [line] = listen(a.address, "--session", "2026/b", "--since", 1, "--count", 1, "--json")
    assert json.loads(line)["session"] == "2026/b"
    lines = listen(a.address, "--session", "2026/b", "--session", "a", "--since", 2, "--count", 1)
    assert [line.split()[:2] for line in lines] == [["2", "a"]]


def test_listen_writes_each_session_to_a_directory_of_its_own_and_none_outside(
    open_stream: Open, tmp_path: Path
) -> None:
    names = ["a", "2026/b", "../outside", "/absolute/c"]
    first = open_stream("0", session=names[0], is_microscope=True)
    others = [open_stream(f"{number}", session=name, beside=first) for number, name in enumerate(names[1:], start=1)]
    for daemon in (first, *others):
        daemon.commit("m.mrc")
    listen(first.address, "--since", 1, "--count", 4, "--to", tmp_path / "out")
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.star")} == {
        "out/a/m_picks.star",
        "out/2026/b/m_picks.star",
        "out/outside/m_picks.star",
        "out/absolute/c/m_picks.star",
    }


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_names_a_session_that_there_is(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    a.commit("a.mrc")
    b.wait_published()
    with raw_socket(zmq.DEALER, a.stream.replay) as asker:
        for request, said in (
            ({"first": 1}, "this daemon has several sessions: expected the name of one in `session`, found none"),
            ({"first": 1, "session": "c"}, "expected a session of this daemon's catalog, found 'c'"),
            ({"first": 1, "session": "x" * 1025}, "expected a replay request: Expected `str` of length <= 1024"),
            ({"catalog": True, "first": 1}, "expected a replay request: Object contains unknown field `from`"),
            ({"catalog": False}, "expected a replay request: Object contains unknown field `catalog`"),
        ):
            answer = decode_answer(ask(asker, **request)[0])
            assert isinstance(answer, ReplayError)
            assert answer.error.startswith(said)
        assert isinstance(decode_answer(ask(asker, first=1, session="a")[0]), ReplayPage)
    a.wait_sample("frazil_replay_requests_total", 5, outcome="malformed")


def test_a_daemon_with_one_session_knows_no_names_and_has_no_catalog(open_stream: Open) -> None:
    daemon = open_stream()
    with raw_socket(zmq.DEALER, daemon.stream.replay) as asker:
        for request, said in (
            ({"first": 1, "session": "a"}, "this daemon has one session: expected a request without one, found 'a'"),
            ({"catalog": True}, "this daemon has one session, and no catalog"),
        ):
            answer = decode_answer(ask(asker, **request)[0])
            assert answer == ReplayError(error=said)
    with (
        frazil.PickStream(daemon.address, "a") as stream,
        pytest.raises(AddressError, match="expected a microscope with session a, found a daemon with one session"),
    ):
        stream.receive(PATIENCE_SECONDS)


def test_a_catalog_of_hundreds_of_sessions_comes_in_pages(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    names = [f"{number:03}" for number in range(250)]
    for name in names:
        a.stream.add(name, ledger=a.ledger.file, epoch=name, published=7, live=False)
    with raw_socket(zmq.REQ, a.stream.replay) as asker:
        wait_until(lambda: len(catalog(asker)) == 251)
        assert catalog(asker) == dict.fromkeys(names, (8, 7, False)) | {"a": (1, 0, True)}
        [frame] = ask(asker, catalog=True)
        assert len(json.loads(frame)["sessions"]) == 100
        [frame] = ask(asker, catalog=True, after="zzz")
        assert json.loads(frame)["sessions"] == []


def test_more_closed_sessions_are_read_than_ledgers_stay_open(open_stream: Open) -> None:
    first = open_stream("0", session="0", is_microscope=True)
    others = [open_stream(f"{number}", session=f"{number}", beside=first) for number in range(1, 20)]
    sent = {daemon.channel.session: [daemon.commit("a.mrc")] for daemon in (first, *others)}
    for daemon in (first, *others):
        daemon.channel.close()
    with frazil.PickStream(first.address, since=1) as stream:
        assert take(stream, 20) == sent
    open_files = {link.readlink() for link in Path(f"/proc/{first.stream.process.pid}/fd").iterdir()}
    assert sum(file.name == "ledger.sqlite" for file in open_files) == 8


def test_the_names_that_others_ask_for_are_not_kept(open_stream: Open) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    with raw_socket(zmq.DEALER, a.stream.replay) as asker:

        def ask_for(many: range) -> int:
            for number in many:
                assert b"error" in ask(asker, first=1, session=f"{number}" * 200)[0]
            return memory_bytes(a.stream.process.pid)

        before = ask_for(range(1000, 3000))
        assert ask_for(range(3000, 9000)) - before < 2**20


def test_a_session_whose_ledger_is_away_does_not_keep_the_others_away(
    open_stream: Open, caplog: pytest.LogCaptureFixture
) -> None:
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    sent = {"a": [a.commit("a.mrc")], "b": [b.commit("b.mrc")]}
    away = a.ledger.file.rename(a.ledger.file.with_suffix(".away"))
    with frazil.PickStream(a.address, since=1) as stream:
        assert take(stream, 1) == {"b": sent["b"]}
        away.rename(a.ledger.file)
        assert take(stream, 1) == {"a": sent["a"]}
    assert "a: the daemon refused a replay, others go on: the ledger cannot be read at present" in caplog.text
