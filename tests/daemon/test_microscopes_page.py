"""The page that lists several microscopes: real pages of ledgers, and programs that answer badly, side by side."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from frazil.addresses import check_page_url
from frazil.documents import MicrographDocument, PickColumns, encode_document
from frazil.errors import AddressError, SettingsError
from frazil.health.state import DaemonState, PickState, SessionState
from frazil.page import asker
from frazil.page.microscopes import MicroscopesPage
from frazil.page.server import PageServer
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled
from frazil.session.outbox.thumbnails import Thumbnails

PATIENCE_SECONDS = 240.0
OpenPage = Callable[..., Any]
Answer = Callable[[socket.socket], None]
STATE = {"version": "1", "sessions": [{"name": ""}]}
NOW = {"queues": {}, "rate_per_minute": 1.0, "troubles": []}


def as_http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


def say(*pieces: bytes) -> Answer:
    """A program that says the same to whoever asks, and then hangs up."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)

    return answer


def pretend(**answers: object) -> Answer:
    """A program that answers as a daemon does, by the name of what is asked."""

    def answer(connection: socket.socket) -> None:
        target = connection.recv(65536).split()[1].decode()
        name = target.removeprefix("/api/").partition("?")[0].partition("/")[0]
        given = answers.get(name)
        connection.sendall(given if isinstance(given, bytes) else as_http(json.dumps(given).encode()))

    return answer


def keep_silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def trickle(connection: socket.socket) -> None:
    connection.recv(65536)
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\n"[:1])
        time.sleep(0.05)


@pytest.fixture
def program() -> Iterator[Callable[[Answer], str]]:
    """Run programs at addresses of their own; what they do with a connection is given."""
    with ExitStack() as stack:

        def run(answer: Answer) -> str:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(listening.shutdown, socket.SHUT_RDWR)

            def talk(connection: socket.socket) -> None:
                with connection, suppress(OSError):
                    answer(connection)

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield run


@pytest.fixture
def serve_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Serve the list of microscopes; each is asked every half second."""
    monkeypatch.setattr(asker, "_REST_SECONDS", 0.5)
    monkeypatch.setattr(asker, "_ANSWER_SECONDS", 2.0)
    with ExitStack() as stack:

        def serve(**urls: str) -> str:
            server = PageServer("127.0.0.1:0", MicroscopesPage(urls, names=[]), allow_others=False)
            stack.callback(server.close)
            return server.url.rstrip("/")

        yield serve


def listed(url: str) -> dict[str, dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/microscopes", timeout=PATIENCE_SECONDS) as answer:
        return {one["name"]: one for one in json.load(answer)["microscopes"]}


def until(condition: Callable[[], object], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def all_asked(url: str) -> dict[str, dict[str, Any]]:
    until(lambda: all(one["fault"] or one["heard_at"] for one in listed(url).values()), lambda: listed(url))
    return listed(url)


def test_microscopes_are_listed_with_what_their_pages_say(
    open_page: OpenPage,
    serve_list: Callable[..., str],
    make_document: Callable[..., MicrographDocument],
    tmp_path: Path,
) -> None:
    folders = [tmp_path / name for name in ("titan1", "krios2")]
    for folder in folders:
        folder.mkdir()
    titan, krios = (open_page(folder) for folder in folders)
    titan.state = DaemonState(sessions=(SessionState(pick=PickState(picked=1, picks=2)),))
    krios.state = DaemonState(unready="the model is being loaded", sessions=(SessionState(blocked="full"),))
    picks = PickColumns(y=[18.0, 46.0], x=[26.0, 90.0], score=[0.9, 0.7])
    document = msgspec.structs.replace(make_document("a.mrc"), shape=(90, 140), threshold=0.5, picks=picks)
    with closing(Thumbnails(titan.ledger.file)) as thumbnails:
        jpeg = cv2.imencode(".jpg", np.zeros((90, 140), np.uint8))[1].tobytes()
        thumbnails.keep("a.mrc", jpeg)
    titan.ledger.commit_picked(
        "a.mrc",
        Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=""),
        lambda epoch, seq, older: encode_document(
            msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=older)
        ),
    )
    url = serve_list(titan1=titan.url, krios2=f"{krios.url}/")
    microscopes = all_asked(url)
    assert list(microscopes) == ["titan1", "krios2"]
    first, second = microscopes.values()
    assert (first["fault"], first["url"], first["unready"]) == ("", titan.url, "")
    [session] = first["sessions"]
    assert (session["picked"], session["picks"], session["threshold"], session["waiting"]) == (1, 2, 0.5, 0)
    assert (first["newest"]["path"], first["newest"]["picks"], first["newest"]["seq"]) == ("a.mrc", 2, 1)
    with urllib.request.urlopen(f"{url}/api/picture/0", timeout=PATIENCE_SECONDS) as answer:
        assert answer.read() == jpeg
    assert (second["unready"], second["newest"], second["picture"]) == ("the model is being loaded", None, "")
    assert [trouble["level"] for trouble in second["troubles"]] == ["fault"]
    assert "cannot be written" in second["troubles"][0]["says"]
    # One ends: what was heard last stays, and the other one goes on.
    titan.server.close()
    until(lambda: listed(url)["titan1"]["fault"], lambda: listed(url))
    gone, there = listed(url).values()
    assert "nobody answers" in gone["fault"]
    assert gone["newest"] == first["newest"]
    until(lambda: listed(url)["krios2"]["heard_at"] > there["heard_at"], lambda: listed(url))
    assert listed(url)["krios2"]["fault"] == ""


DEEP = b'{"version":"1","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
BAD: dict[str, tuple[Answer, str]] = {
    "silent": (keep_silent, "within 2 s"),
    "trickling": (trickle, "no HTTP|within 2 s"),
    "hung up": (say(), "no HTTP"),
    "not http": (say(b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP"),
    "other program": (say(as_http(b"<h1>hello</h1>")), "something else"),
    "other json": (say(as_http(b"{}")), "something else"),
    "deep": (say(as_http(DEEP)), "something else"),
    "no utf-8": (say(as_http(b'{"version": "\xff"}')), "something else"),
    "large": (say(b"HTTP/1.1 200 OK\r\n\r\n", b" " * (2 << 20)), "at most 1048576 bytes"),
    "long header": (say(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20)), "no HTTP"),
    "elsewhere": (say(as_http(b"", "302 Found", "location: http://127.0.0.1:1/\r\n")), "found 302"),
    "other name": (say(as_http(b'{"error": "expected a Host"}', "421 Misdirected")), "found 421: .*expected a Host"),
    "negative": (pretend(state=STATE, now={**NOW, "rate_per_minute": -1}), "something else"),
    "other types": (pretend(state=STATE, now={**NOW, "troubles": [{"level": "fault", "says": 1}]}), "something else"),
}


def test_none_that_answers_badly_holds_up_another_and_each_is_said(
    open_page: OpenPage, program: Callable[[Answer], str], serve_list: Callable[..., str]
) -> None:
    good = open_page()
    good.state = DaemonState(sessions=(SessionState(),))
    url = serve_list(**{name: program(answer) for name, (answer, _) in BAD.items()}, good=good.url)
    until(lambda: listed(url)["good"]["heard_at"], lambda: listed(url))
    microscopes = all_asked(url)
    for name, (_, words) in BAD.items():
        assert microscopes[name]["heard_at"] is None, name
        assert re.search(words, microscopes[name]["fault"]), microscopes[name]
        assert len(microscopes[name]["fault"]) < 1000
    heard = microscopes["good"]["heard_at"]
    until(lambda: listed(url)["good"]["heard_at"] > heard, lambda: listed(url))


def test_what_a_microscope_says_is_shortened_counted_and_made_printable(
    program: Callable[[Answer], str], serve_list: Callable[..., str]
) -> None:
    troubles = [{"level": "warning", "says": f"<b>\x1b[2J\u202e{i}" + "x" * 5000, "todo": ""} for i in range(50)]
    newest = {"seq": 1, "path": "../<script>.mrc", "picks": 3}
    now = {**NOW, "troubles": troubles, "standing": {"epoch": "e", "latest": [newest]}}
    state = {"version": "1", "sessions": [{"name": f"s{i}"} for i in range(30)]}
    url = serve_list(one=program(pretend(state=state, now=now, picture=as_http(b"<svg onload=alert(1)>"))))
    one = all_asked(url)["one"]
    assert (one["fault"], len(one["sessions"]), one["more_sessions"], len(one["troubles"])) == ("", 12, 18, 20)
    assert all(len(trouble["says"]) < 500 and trouble["says"].isprintable() for trouble in one["troubles"])
    assert one["picture"] == ""  # what is no JPEG is not handed on
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)) as connection:
        connection.request("GET", "/api/picture/0")
        assert connection.getresponse().status == 404


def test_the_gate_is_that_of_the_daemon_and_nothing_can_be_changed(serve_list: Callable[..., str]) -> None:
    url = serve_list(gone="http://127.0.0.1:1")

    def ask(method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage]:
        with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers

    status, headers = ask("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert ask("GET", "/static/microscopes.js")[0] == 200
    assert ask("GET", "/", Host="evil.example")[0] == 421
    assert ask("POST", "/api/microscopes", Authorization="Bearer x")[0] == 405
    assert ask("GET", "/micrographs")[0] == ask("GET", "/api/picture/7")[0] == 404


@pytest.mark.parametrize(
    "url",
    ["titan1:9457", "ftp://titan1/", "http://", "http://me:secret@titan1/", "http://titan1/x", "http://titan1:99999/"],
)
def test_an_address_that_is_none_of_a_page_is_refused(url: str) -> None:
    with pytest.raises(AddressError, match="expected the address of a daemon's page"):
        check_page_url(url)


def test_so_many_microscopes_and_no_more() -> None:
    with pytest.raises(SettingsError, match="at most 100 microscopes"):
        MicroscopesPage({str(i): f"http://m{i}/" for i in range(101)}, names=[])
