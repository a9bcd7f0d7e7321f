"""Asking a daemon how it is: one of today, one of an earlier version, and whatever else has its address by now."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frazil.health.state import DaemonState, Disk, Gpu, IntakeState, ModelState, PickState, SessionState
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import Ledger

STARTED_AT = 1_795_816_338.043902
SESSION = SessionState(
    intake=IntakeState(incomplete=1),
    pick=PickState(read=2, pick=1),
    ledger_head=4,
    disks={"out": Disk(), "ledger": Disk(free_bytes=9, size_bytes=10, free_inodes=0.5)},
)
RUNNING = DaemonState(
    version="1",
    started_at=STARTED_AT,
    model=ModelState(name="fcn", version=2),
    gpus={1: Gpu(used_bytes=1, bytes=2)},
    sessions=(SESSION,),
)
METRICS = f'frazil_start_time_seconds {STARTED_AT!r}\nfrazil_queue_depth{{queue="read"}} 2.0\n'


def presence(url: str, **changes: object) -> DaemonInfo:
    named = DaemonInfo(
        pid=1,
        started_at=STARTED_AT,
        watch="/data",
        out="/out",
        stream="tcp://127.0.0.1:5556",
        metrics=f"{url}metrics",
        page=url,
        model="fcn/2",
        provider="CPUExecutionProvider",
    )
    return msgspec.structs.replace(named, **changes)


@contextmanager
def serving(answers: dict[str, bytes]) -> Iterator[str]:
    """Answer at these paths and with 404 elsewhere; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def status(folder: Path, *options: str) -> str:
    command = [Path(sys.executable).parent / "frazil", "status", "--ledger", folder / "ledger.sqlite", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(DaemonState)])
def test_a_state_that_lacks_what_another_version_did_not_know_can_be_read(field: str) -> None:
    told = msgspec.to_builtins(RUNNING, str_keys=True)
    del told[field]
    read = msgspec.json.decode(msgspec.json.encode(told | {"of a later version": 1}), type=DaemonState)
    default = getattr(DaemonState(), field)
    assert read == msgspec.structs.replace(RUNNING, **{field: default})


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/api/state": msgspec.json.encode(RUNNING), "/metrics": METRICS.encode()}, RUNNING),
        # Of an earlier version.
        ({"/metrics": METRICS.encode()}, DaemonState(started_at=STARTED_AT)),
        # Another daemon has the address by now, of today or of an earlier version.
        ({"/api/state": msgspec.json.encode(DaemonState(started_at=1.0)), "/metrics": METRICS.encode()}, None),
        ({"/metrics": b"frazil_start_time_seconds 1.0\n"}, None),
        # Another program.
        ({"/api/state": b"<html>", "/metrics": b"<html>"}, None),
        ({"/api/state": b"[]", "/metrics": b"\xff"}, None),
        ({}, None),
    ],
)
def test_a_daemon_is_asked_and_known_by_when_it_started(
    answers: dict[str, bytes], expected: DaemonState | None
) -> None:
    with serving(answers) as url:
        assert presence(url).ask() == expected
        assert presence(url, stopped_at=STARTED_AT + 1).ask() is None
    assert presence(url).ask() is None


def test_a_program_that_speaks_something_else_is_no_daemon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with listening.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=greet)
        thread.start()
        assert presence(f"http://127.0.0.1:{listening.getsockname()[1]}/").ask() is None
        thread.join()


def test_the_status_tells_what_a_daemon_does(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page()
    page.state = RUNNING
    page.ledger.remember("daemon", presence(page.server.url).encode())
    said = status(tmp_path)
    assert said.startswith("running since 2026-11-27 ")
    assert "\nnothing needs you\nnow: 1 incomplete, 2 in line, 1 being picked, 0 being written\n" in said
    told = json.loads(status(tmp_path, "--json"))
    assert told["running"] is True
    assert told["metrics"]["frazil_queue_depth{queue=read}"] == 2
    page.state = msgspec.structs.replace(RUNNING, sessions=(msgspec.structs.replace(SESSION, blocked="full"),))
    said = status(tmp_path)
    assert "\nTROUBLE: Results cannot be written, and picking waits. " in said
    assert "nothing needs you" not in said


def test_of_a_daemon_of_an_earlier_version_the_status_says_that_it_runs_and_no_more(tmp_path: Path) -> None:
    with serving({"/metrics": METRICS.encode()}) as url:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        ledger.remember("daemon", presence(url).encode())
        ledger.close()
        said = status(tmp_path)
        told = json.loads(status(tmp_path, "--json"))
    assert said.startswith("running since ")
    assert "\nnow: not known, since this daemon is of an earlier version" in said
    assert "nothing needs you" not in said
    assert told["running"] is True
    assert told["metrics"]["frazil_queue_depth{queue=read}"] == 2
