"""Publisher and client over real sockets."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zmq

from frazil.client import PickStream
from frazil.documents import MicrographDocument, encode_document
from frazil.errors import AddressError
from frazil.service.publisher import Publisher

LOCAL = "tcp://127.0.0.1:0"


Document = Callable[..., MicrographDocument]


@pytest.fixture
def document(make_document: Document) -> Document:
    def make(seq: int, epoch: str = "e") -> MicrographDocument:
        return make_document(f"/data/{seq}.mrc", seq=seq, epoch=epoch)

    return make


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher(LOCAL)
    yield made
    made.close()


def connect(publisher: Publisher, stream: PickStream) -> None:
    """Send heartbeats until the subscriber has heard one."""
    heard = threading.Event()

    def beat() -> None:
        while not heard.wait(0.02):
            publisher.send_heartbeat("e", 0)

    sender = threading.Thread(target=beat)
    sender.start()
    try:
        assert stream.wait_connected(10)
    finally:
        heard.set()
        sender.join()


def test_documents_arrive_in_order_and_as_sent(publisher: Publisher, document: Document) -> None:
    with PickStream(publisher.address, timeout_seconds=10) as stream:
        connect(publisher, stream)
        sent = [document(seq) for seq in range(1, 201)]
        for one in sent:
            publisher.send_document(encode_document(one))
        received = [next(stream) for _ in sent]
    assert received == sent
    assert stream.missed == 0


def test_a_message_is_a_topic_and_a_json_document(publisher: Publisher, document: Document) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.subscribe(b"")
    socket.connect(publisher.address)
    try:
        frames: list[bytes] = []
        while not frames or frames[0] != b"picks":
            publisher.send_document(encode_document(document(1)))
            if socket.poll(50):
                frames = socket.recv_multipart()
        assert len(frames) == 2
        assert msgspec.json.decode(frames[-1])["micrograph"] == "1.mrc"
    finally:
        socket.close()
        context.term()


def test_a_gap_is_counted_and_said(publisher: Publisher, caplog: pytest.LogCaptureFixture, document: Document) -> None:
    with PickStream(publisher.address, timeout_seconds=10) as stream:
        connect(publisher, stream)
        for seq in (1, 2, 6):
            publisher.send_document(encode_document(document(seq)))
        assert [next(stream).seq for _ in range(3)] == [1, 2, 6]
        assert stream.missed == 3
    assert "missed 3 documents" in caplog.text


def test_a_heartbeat_shows_a_gap_at_the_end(publisher: Publisher, document: Document) -> None:
    with PickStream(publisher.address) as stream:
        connect(publisher, stream)
        publisher.send_document(encode_document(document(1)))
        assert stream.receive(10) is not None
        publisher.send_heartbeat("e", 4)
        while stream.missed == 0:
            stream.receive(0.05)
        assert stream.missed == 3


def test_another_epoch_or_a_repeat_is_no_gap(publisher: Publisher, document: Document) -> None:
    with PickStream(publisher.address, timeout_seconds=10) as stream:
        connect(publisher, stream)
        for one in (document(5), document(5), document(1, "f"), document(2, "f")):
            publisher.send_document(encode_document(one))
        for _ in range(4):
            next(stream)
        assert stream.missed == 4  # 1 to 4, which the first heartbeat (0) says were sent; none after


def test_what_is_no_document_is_passed_over(publisher: Publisher, document: Document) -> None:
    with PickStream(publisher.address, timeout_seconds=10) as stream:
        connect(publisher, stream)
        publisher.send_document(b"\x80\x04junk")
        publisher.send_document(encode_document(document(1)))
        assert next(stream).seq == 1


def test_iteration_ends_when_nothing_comes(publisher: Publisher) -> None:
    with PickStream(publisher.address, timeout_seconds=0.1) as stream:
        assert list(stream) == []


def test_port_0_takes_a_free_port_and_says_which() -> None:
    first, second = Publisher(LOCAL), Publisher(LOCAL)
    assert first.address != second.address
    assert not first.address.endswith(":0")
    first.close()
    second.close()


def test_a_port_in_use_is_refused(publisher: Publisher) -> None:
    with pytest.raises(AddressError, match=f"{publisher.address}: cannot publish there: Address already in use"):
        Publisher(publisher.address)


@pytest.mark.parametrize("address", ["", "5556", "tcp://", "tcp://127.0.0.1", "udp://127.0.0.1:1", "tcp://*:99999x"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        Publisher(address)


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.168.1.5:5556", "tcp://example.org:1"]
)
def test_an_address_that_others_reach_needs_to_be_meant(address: str) -> None:
    with pytest.raises(AddressError, match="--publish-unencrypted"):
        Publisher(address)


def test_an_address_that_others_reach_can_be_meant() -> None:
    Publisher("tcp://0.0.0.0:0", allow_unencrypted=True).close()


def test_a_malformed_address_to_listen_to_is_refused() -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        PickStream("nonsense")


def test_the_client_loads_without_onnxruntime_and_opencv() -> None:
    code = "import sys, frazil.client; print(sorted({'onnxruntime', 'cv2', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
