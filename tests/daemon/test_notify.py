"""The service manager's side door, and who hangs: real sockets, real threads."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from frazil.health.heartbeat import Heartbeats
from frazil.health.systemd import Notifier
from frazil.health.watchdog import Supervision


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A bound datagram socket, and how NOTIFY_SOCKET names it."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@frazil-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0"))
        bound.settimeout(10)
        yield name, bound


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_everything_that_is_told_arrives_in_the_manager_s_words(manager: tuple[str, socket.socket]) -> None:
    name, bound = manager
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    with contextlib.closing(Notifier(environment)) as notifier:
        assert environment == {"HOME": "/"}
        assert notifier.watchdog_seconds == 3
        notifier.starting("loading\nREADY=1", within_seconds=20)
        notifier.ready()
        notifier.status("picking\n a.mrc")
        notifier.alive()
        notifier.reloading()
        notifier.stopping()
    assert heard(bound) == ["STATUS=starting: loading READY=1", "EXTEND_TIMEOUT_USEC=20000000"]
    assert heard(bound) == ["READY=1"]
    assert heard(bound) == ["STATUS=picking a.mrc"]
    assert heard(bound) == ["WATCHDOG=1"]
    reloading = heard(bound)
    assert reloading[0] == "RELOADING=1"
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", reloading[1])
    assert heard(bound)[0] == "STOPPING=1"


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "vsock:2:1"}],
)
def test_where_no_manager_listens_nothing_fails(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready()
    notifier.close()


@pytest.mark.parametrize("watched", [{"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {}])
def test_a_watchdog_that_watches_another_is_not_fed(watched: dict[str, str]) -> None:
    assert Notifier(watched).watchdog_seconds is None


def test_a_thread_that_does_not_beat_is_named_with_what_it_is_at() -> None:
    heartbeats = Heartbeats(limit_seconds=30)
    reading, picking = heartbeats.of("reading"), heartbeats.of("picking")
    reading.beat("reading b.mrc", more_seconds=60)
    picking.beat("picking a.mrc")
    now = time.monotonic()
    assert heartbeats.hanging(now) is None
    hangs = heartbeats.hanging(now + 31)
    assert hangs is not None
    assert re.fullmatch(r"picking at picking a\.mrc for 31 s", hangs)
    assert picking.doing == "picking a.mrc"
    picking.beat()
    assert heartbeats.hanging(now + 29) is None
    hangs = heartbeats.hanging(now + 91)
    assert hangs is not None
    assert hangs.startswith("reading at reading b.mrc")


def test_the_watchdog_hears_nothing_while_a_thread_hangs(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000"})
        heartbeats = Heartbeats(limit_seconds=30)
        supervision = Supervision(notifier, heartbeats.hanging)
        picking = heartbeats.of("picking")
        supervision.ready(lambda: "fine")
        assert [heard(bound) for _ in range(3)] == [["READY=1"], ["WATCHDOG=1"], ["STATUS=fine"]]
        now = time.monotonic()
        supervision.look(now + 40)
        assert heard(bound)[0].startswith("STATUS=HANGS: picking")
        picking.beat()
        supervision.look(now + 20)
        assert heard(bound) == ["WATCHDOG=1"]
        notifier.close()
