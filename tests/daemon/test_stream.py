"""The stream over real sockets: live, replayed, and whatever others send to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

import frazil
from frazil.documents import FailedDocument, Heartbeat, MicrographDocument, NumberedDocument, decode_document
from frazil.errors import AddressError
from frazil.replay import MAX_PAGE_BYTES, ReplayError, ReplayPage, decode_answer

PATIENCE_SECONDS = 240.0
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821


def take(stream: frazil.PickStream, count: int) -> list[NumberedDocument]:
    """So many documents, each waited for with patience."""
    taken = []
    for _ in range(count):
        document = stream.receive(PATIENCE_SECONDS)
        assert document is not None, f"only {len(taken)} of {count} came"
        taken.append(document)
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


def ask(socket: zmq.Socket[bytes], body: bytes) -> list[bytes]:
    socket.send(body)
    assert socket.poll(PATIENCE_SECONDS * 1000)
    return socket.recv_multipart()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- live -------------------------------------------------------------------------------------------------------


def test_documents_arrive_in_order_and_as_committed(open_stream: Open) -> None:
    daemon = open_stream()
    with frazil.PickStream(daemon.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        sent = [daemon.commit(f"{i}.mrc") for i in range(200)]
        assert take(stream, 200) == sent
        assert stream.epoch == daemon.ledger.epoch


def test_a_stream_without_since_begins_with_what_comes_after_the_connection(open_stream: Open) -> None:
    daemon = open_stream()
    daemon.commit("before.mrc")
    daemon.wait_published()
    with frazil.PickStream(daemon.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        daemon.commit("after.mrc")
        assert [d.micrograph for d in take(stream, 1)] == ["after.mrc"]


def test_a_message_is_a_topic_and_a_json_document(open_stream: Open) -> None:
    daemon = open_stream()
    with raw_socket(zmq.SUB, daemon.address) as socket:
        socket.subscribe(b"")
        topic, body = socket.recv_multipart()
        heartbeat = decode_document(body)
        assert topic == b"heartbeat"
        assert isinstance(heartbeat, Heartbeat)
        assert heartbeat.replay == f"tcp://*:{daemon.stream.replay.rpartition(':')[2]}"
        daemon.commit("a.mrc", directory="grid 1/ä")
        daemon.commit_failed("b.mrc")
        frames = []
        while len(frames) < 2:
            message = socket.recv_multipart()
            if message[0] != b"heartbeat":
                frames.append(message)
    assert [frame[0] for frame in frames] == [b"picks/grid%201/%C3%A4/", b"failed/"]
    assert [json.loads(frame[1])["micrograph"] for frame in frames] == ["a.mrc", "b.mrc"]


def test_a_new_subscriber_is_greeted_at_once(open_stream: Open) -> None:
    daemon = open_stream()
    for _ in range(3):  # the beat once a second would need three seconds
        with frazil.PickStream(daemon.address) as stream:
            assert stream.wait_connected(PATIENCE_SECONDS)


def test_topics_and_directories_choose_what_comes(open_stream: Open) -> None:
    daemon = open_stream()
    for i, directory in enumerate(("", "a", "a/b", "ab", "a")):
        daemon.commit(f"{i}.mrc", directory=directory)
        daemon.commit_failed(f"bad{i}.mrc")
    with frazil.PickStream(daemon.address, since=1, directory="a") as stream:
        assert [d.micrograph for d in take(stream, 3)] == ["1.mrc", "2.mrc", "4.mrc"]
    with frazil.PickStream(daemon.address, since=1, topics=["failed"]) as failures:
        documents = take(failures, 5)
        assert all(isinstance(d, FailedDocument) for d in documents)
    with frazil.PickStream(daemon.address, since=1, topics=["picks", "failed"]) as both:
        assert [d.seq for d in take(both, 10)] == list(range(1, 11))


# --- what was missed ----------------------------------------------------------------------------------------------


def test_who_comes_late_gets_everything_from_since_on(open_stream: Open) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(250)]
    daemon.wait_published()
    for since in (0, 1, 100, 250):
        with frazil.PickStream(daemon.address, since=since) as stream:
            assert take(stream, 250 - max(0, since - 1)) == sent[max(0, since - 1) :]
            assert stream.replayed == 250 - max(0, since - 1)


def test_late_and_live_join_without_a_gap_or_a_repeat(open_stream: Open) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(150)]
    with frazil.PickStream(daemon.address, since=1) as stream:
        received = take(stream, 10)
        sent += [daemon.commit(f"{i}.mrc") for i in range(150, 300)]
        received += take(stream, 290)
        assert received == sent
        assert stream.receive(0.1) is None


def test_a_gap_is_filled_whatever_was_lost(open_stream: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = open_stream()
    publish = daemon.channel.publish
    lost = {2, 3, 7, 12}
    with frazil.PickStream(daemon.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)

        def publish_some(seq: int, topic: bytes, body: bytes) -> None:
            publish(seq, b"nowhere" if seq in lost else topic, body)

        monkeypatch.setattr(daemon.channel, "publish", publish_some)
        sent = [daemon.commit(f"{i}.mrc") for i in range(12)]
        assert take(stream, 12) == sent  # the last one is missed by a heartbeat
        assert stream.replayed == len(lost)


def test_a_reader_that_sleeps_through_more_than_the_sockets_hold_misses_nothing(
    open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.client.source._HIGH_WATER_MARK", 10)
    daemon = open_stream()
    padding = {"path": "/data/" + "x" * 20_000}
    with frazil.PickStream(daemon.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        sent = [daemon.commit("m.mrc", **padding).seq for _ in range(2000)]
        wait_until(lambda: daemon.sample("frazil_stream_overflows_total") >= 1)
        assert [d.seq for d in take(stream, 2000)] == sent
        assert stream.replayed > 0


def test_another_ledger_starts_over_at_its_first_document(open_stream: Open) -> None:
    first = open_stream("first")
    address, replay = first.address, first.stream.replay
    with frazil.PickStream(address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        before = [first.commit(f"{i}.mrc") for i in range(3)]
        assert take(stream, 3) == before
        first.stream.close()
        second = open_stream("second", address=address, replay=replay)
        after = [second.commit(f"{i}.mrc") for i in range(5)]
        assert take(stream, 5) == after
        assert stream.epoch == second.ledger.epoch != before[0].epoch


def test_a_sequence_number_that_the_ledger_never_reached_starts_over(open_stream: Open) -> None:
    daemon = open_stream()
    daemon.commit("a.mrc")
    with frazil.PickStream(daemon.address, since=1000) as stream:
        assert [d.seq for d in take(stream, 1)] == [1]


def test_asyncio_gets_the_same(open_stream: Open) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(120)]

    async def follow() -> list[MicrographDocument]:
        received = []
        async with frazil.AsyncPickStream(daemon.address, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
            async for document in stream:
                received.append(document)
                if len(received) == 120:
                    sent.extend(daemon.commit(f"{i}.mrc") for i in range(120, 140))
                if len(received) == 140:
                    break
        return received

    assert asyncio.run(follow()) == sent


def test_picks_come_as_arrays(open_stream: Open) -> None:
    daemon = open_stream()
    daemon.commit("a.mrc")
    with frazil.PickStream(daemon.address, since=1) as stream:
        y, x, score = take(stream, 1)[0].picks.arrays()
    assert (y.dtype, y.shape, x.tolist(), score.tolist()) == ("float64", (1,), [2.0], [0.9])


# --- the cursor -----------------------------------------------------------------------------------------------------


def test_a_restarted_program_goes_on_where_it_was(open_stream: Open, tmp_path: Path) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(10)]
    cursor = tmp_path / "cursor"
    with frazil.PickStream(daemon.address, resume=cursor) as stream:
        assert take(stream, 4) == sent[:4]
    with frazil.PickStream(daemon.address, resume=cursor) as stream:
        # The fourth was in hand: nobody knows whether it was dealt with.
        assert take(stream, 2) == sent[3:5]
        stream.acknowledge()
    with frazil.PickStream(daemon.address, resume=str(cursor), since=1) as stream:
        assert take(stream, 5) == sent[5:]


def test_a_cursor_of_another_ledger_starts_over(open_stream: Open, tmp_path: Path) -> None:
    first, second = open_stream("first"), open_stream("second")
    for i in range(5):
        first.commit(f"{i}.mrc")
        second.commit(f"{i}.mrc")
    with frazil.PickStream(first.address, resume=tmp_path / "cursor") as stream:
        take(stream, 4)
    with frazil.PickStream(second.address, resume=tmp_path / "cursor") as stream:
        assert [d.seq for d in take(stream, 5)] == [1, 2, 3, 4, 5]


# --- what others send -----------------------------------------------------------------------------------------------


def test_whoever_has_a_document_can_ask_for_it(open_stream: Open) -> None:
    daemon = open_stream()
    with raw_socket(zmq.SUB, daemon.address) as live, raw_socket(zmq.REQ, daemon.stream.replay) as asker:
        live.subscribe(b"")
        live.recv_multipart()
        for number in range(100):
            sent = daemon.commit(f"{number}.mrc")
            while live.recv_multipart()[0] == b"heartbeat":
                pass
            head, *bodies = ask(asker, json.dumps({"from": sent.seq}).encode())
            assert json.loads(head)["head"] == sent.seq
            assert [decode_document(body) for body in bodies] == [sent]


def test_a_replay_is_a_bounded_page(open_stream: Open) -> None:
    daemon = open_stream()
    for i in range(120):
        daemon.commit(f"{i}.mrc")
    daemon.commit("wide.mrc", path="/data/" + "x" * MAX_PAGE_BYTES)
    daemon.commit("last.mrc")
    with raw_socket(zmq.REQ, daemon.stream.replay) as socket:
        wait_until(lambda: json.loads(ask(socket, b'{"from": 1}')[0])["head"] == 122)
        pages, position = [], 1
        while position <= 122:
            header, *bodies = ask(socket, b'{"from": %d}' % position)
            page = decode_answer(header)
            assert isinstance(page, ReplayPage)
            assert (page.epoch, page.first, page.oldest) == (daemon.ledger.epoch, position, 1)
            assert page.documents == len(bodies)
            pages.append([json.loads(body)["seq"] for body in bodies])
            position = page.next
        assert pages == [list(range(1, 101)), list(range(101, 122)), [122]]
        header, *bodies = ask(socket, b'{"from": 5, "until": 9, "limit": 3}')
        assert (json.loads(header)["next"], len(bodies)) == (8, 3)
        header, *bodies = ask(socket, b'{"from": 1, "topics": ["failed"]}')
        assert (json.loads(header)["next"], len(bodies)) == (123, 0)
        header, *bodies = ask(socket, b'{"from": 4000}')
        assert (json.loads(header)["next"], len(bodies)) == (4000, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"{}",
        b"[" * 4000,
        b'{"from": -1}',
        b'{"from": 1e300}',
        b'{"from": 1, "limit": 1000000}',
        b'{"from": 1, "topics": [5]}',
        b'{"from": 1, "order": "reversed"}',
        b"\x80\x04\x95",
    ],
)
def test_a_malformed_request_is_answered_with_what_was_expected(open_stream: Open, body: bytes) -> None:
    daemon = open_stream()
    with raw_socket(zmq.DEALER, daemon.stream.replay) as socket:
        answer = decode_answer(ask(socket, body)[0])
        assert isinstance(answer, ReplayError)
        assert "expected a replay request" in answer.error
        assert isinstance(decode_answer(ask(socket, b'{"from": 1}')[0]), ReplayPage)
    daemon.wait_sample("frazil_replay_requests_total", 1, outcome="malformed")


def test_an_oversize_request_costs_its_sender_the_connection(open_stream: Open) -> None:
    daemon = open_stream()
    with raw_socket(zmq.DEALER, daemon.stream.replay) as socket:
        socket.send(b" " * 5000)
        assert not socket.poll(300)
        assert isinstance(decode_answer(ask(socket, b'{"from": 1}')[0]), ReplayPage)


def test_a_client_that_asks_and_never_reads_gets_no_more_than_a_bounded_heap(open_stream: Open) -> None:
    daemon = open_stream()
    for _ in range(20):
        daemon.commit("wide.mrc", path="/data/" + "x" * MAX_PAGE_BYTES)
    with raw_socket(zmq.DEALER, daemon.stream.replay) as greedy:
        greedy.rcvhwm = 1
        before = memory_bytes(daemon.stream.process.pid)
        sent = 0

        def flood() -> bool:
            nonlocal sent
            for _ in range(20):
                try:
                    greedy.send(b'{"from": 1}', zmq.NOBLOCK)
                    sent += 1
                except zmq.Again:
                    break
            return daemon.sample("frazil_replay_requests_total", outcome="undeliverable") >= 500

        wait_until(flood)
        assert (
            memory_bytes(daemon.stream.process.pid) - before < 100 * 2**20
        )  # all pages together: 20 times as much and more
        with frazil.PickStream(daemon.address, since=1) as other:
            take(other, 20)


def memory_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_random_bytes_on_either_socket_change_nothing(open_stream: Open, repository: Path) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(10)]
    with frazil.PickStream(daemon.address, since=1) as stream:
        assert take(stream, 10) == sent
        fuzz = [sys.executable, repository / "benchmarks" / "fuzz_stream.py", "--messages", "1000"]
        subprocess.run([*fuzz, "--at", daemon.address, daemon.stream.replay], check=True, timeout=300)
        sent = [daemon.commit(f"{i}.mrc") for i in range(10)]
        assert take(stream, 10) == sent
    assert daemon.stream.dead_thread() is None
    wait_until(lambda: daemon.sample("frazil_replay_requests_total", outcome="malformed") > 0)


def test_what_is_no_document_is_passed_over(open_stream: Open) -> None:
    daemon = open_stream()
    with frazil.PickStream(daemon.address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        daemon.channel.publish(0, b"picks/", b"\x80\x04 no document")
        sent = daemon.commit("a.mrc")
        assert take(stream, 1) == [sent]


def test_subscribers_are_counted_while_they_are_there(open_stream: Open) -> None:
    daemon = open_stream()
    with frazil.PickStream(daemon.address) as one, frazil.PickStream(daemon.address) as other:
        assert one.wait_connected(PATIENCE_SECONDS)
        assert other.wait_connected(PATIENCE_SECONDS)
        wait_until(lambda: daemon.stream.subscribers == 2)
    wait_until(lambda: daemon.stream.subscribers == 0)


# --- addresses --------------------------------------------------------------------------------------------------


def test_port_0_takes_free_ports_and_says_which(open_stream: Open) -> None:
    first, second = open_stream("first"), open_stream("second")
    ports = {a.rpartition(":")[2] for d in (first, second) for a in (d.address, d.stream.replay)}
    assert len(ports) == 4
    assert "0" not in ports


def test_replays_are_asked_for_at_the_next_port(open_stream: Open) -> None:
    probe = open_stream("probe")
    port = int(probe.address.rpartition(":")[2])
    for candidate in range(port + 100, port + 200, 2):
        try:
            daemon = open_stream(f"{candidate}", address=f"tcp://127.0.0.1:{candidate}")
        except AddressError:
            continue
        assert daemon.stream.replay == f"tcp://127.0.0.1:{candidate + 1}"
        return
    pytest.fail("no two free ports in a row")


def test_a_stream_may_be_a_local_socket(open_stream: Open, tmp_path: Path) -> None:
    daemon = open_stream(address=f"ipc://{tmp_path}/s")
    daemon.commit("a.mrc")
    with frazil.PickStream(daemon.address, since=1) as stream:
        take(stream, 1)


def test_a_port_in_use_is_refused(open_stream: Open) -> None:
    daemon = open_stream("first")
    with pytest.raises(AddressError, match=f"{daemon.address}: cannot publish there: Address already in use"):
        open_stream("second", address=daemon.address)


@pytest.mark.parametrize("address", ["", "5556", "tcp://", "tcp://127.0.0.1", "udp://127.0.0.1:1", "tcp://*:99999x"])
def test_malformed_addresses_are_refused(open_stream: Open, address: str) -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        open_stream(address=address)


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.168.1.5:5556", "tcp://example.org:1"]
)
def test_an_address_that_others_reach_needs_keys_or_to_be_meant(open_stream: Open, address: str) -> None:
    with pytest.raises(AddressError, match=r"`curve_key = .* and `curve_clients = .* `publish_unencrypted = true`"):
        open_stream("a", address=address)
    with pytest.raises(AddressError, match="`publish_unencrypted = true`"):
        open_stream("b", address="tcp://127.0.0.1:0", replay=address)


def test_an_address_that_others_reach_can_be_meant(open_stream: Open) -> None:
    open_stream(address="tcp://0.0.0.0:0", allow_unencrypted=True)


def test_a_malformed_address_to_listen_to_is_refused() -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        frazil.PickStream("nonsense")


# --- nobody there -------------------------------------------------------------------------------------------------


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frazil.client.source._SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("frazil.client.source._RENEWAL_SECONDS", 0.1)
    monkeypatch.setattr("frazil.client.streams._POLL_SECONDS", 0.02)


@pytest.mark.usefixtures("short_patience")
def test_a_wrong_address_is_told_once_and_its_documents_come_when_somebody_is_there(
    open_stream: Open, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_stream("first")
    address, replay = first.address, first.stream.replay
    first.stream.close()
    with frazil.PickStream(address, since=1) as stream:
        assert stream.receive(0.8) is None
        [said] = [record.getMessage() for record in caplog.records if "nobody answers" in record.getMessage()]
        assert said.startswith(f"{address}: expected a frazil daemon, found that nobody answers")
        second = open_stream("second", address=address, replay=replay)
        sent = second.commit("a.mrc")
        assert take(stream, 1) == [sent]
    assert f"{address}: the daemon answers" in caplog.text


def test_an_empty_stream_ends_in_peace_and_none_at_all_does_not(
    open_stream: Open, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = open_stream()
    with frazil.PickStream(daemon.address, timeout_seconds=1) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        assert list(stream) == []
    assert "answer" not in caplog.text
    daemon.stream.close()
    with (
        frazil.PickStream(daemon.address, timeout_seconds=0.3) as nobody,
        pytest.raises(AddressError, match="expected a frazil daemon, found that nobody answers"),
    ):
        list(nobody)

    async def follow() -> None:
        async with frazil.AsyncPickStream(daemon.address, timeout_seconds=0.3) as stream:
            async for _ in stream:
                pass

    with pytest.raises(AddressError, match="nobody answers"):
        asyncio.run(follow())


# --- what a program downstream pays -------------------------------------------------------------------------------


def test_the_client_loads_without_onnxruntime_opencv_and_numpy() -> None:
    code = (
        "import sys, frazil; frazil.PickStream, frazil.AsyncPickStream; "
        "print(sorted({'onnxruntime', 'cv2', 'torch', 'numpy', 'gemmi', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_loads_within_a_third_of_a_second() -> None:
    code = "import time; t = time.process_time(); import frazil; frazil.PickStream; print(time.process_time() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in "123"
    ]
    assert min(seconds) < 0.3
