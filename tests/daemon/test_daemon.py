"""The daemon's main loop, turned by hand on a clock that is given: real parts in this process, no signal."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from frazil.daemon import Daemon
from frazil.errors import OutputError
from frazil.picking import read_star
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import DAEMON_KEY, LedgerReader
from frazil.settings import ServeSettings, load_settings

HANGS = 1000.0


class Manager:
    """A service manager: what the daemon tells it, one message a line."""

    def __init__(self, place: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    yield made
    made.close()


@pytest.fixture
def settings(tmp_path: Path, blob_model: Path) -> ServeSettings:
    (tmp_path / "watch").mkdir()
    given = {
        "watch": tmp_path / "watch",
        "out": tmp_path / "out",
        "diameter_angstrom": 48.0,
        "model": blob_model,
        "device": "cpu",
        "threads": 1,
        "publish_address": "tcp://127.0.0.1:0",
        "http_address": "127.0.0.1:0",
        "hang_timeout_seconds": HANGS / 2,
        "scan_seconds": 0.2,
    }
    return load_settings(given, None)


@pytest.fixture
def daemon(settings: ServeSettings, manager: Manager) -> Iterator[Daemon]:
    made = Daemon(settings)
    with closing(made):
        made.startup()
        yield made
        made.shutdown()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def info(settings: ServeSettings) -> DaemonInfo:
    with LedgerReader(settings.ledger_file) as reader:
        found = DaemonInfo.decode(reader.meta()[DAEMON_KEY])
    assert found is not None
    return found


def test_each_step_of_the_start_is_said_and_the_end_is_remembered(
    daemon: Daemon, manager: Manager, settings: ServeSettings
) -> None:
    heard = manager.heard()
    steps = [line.partition("starting: ")[2] for line in heard if line.startswith("STATUS=starting")]
    assert steps == ["opening the ledger", f"loading the model {settings.model}", "warming up the model blob/1"]
    assert "READY=1" in heard
    assert info(settings).stopped_at is None
    assert daemon.shutdown()
    daemon.close()
    assert info(settings).stopped_at is not None


def test_while_a_thread_hangs_the_watchdog_is_not_fed(daemon: Daemon, manager: Manager) -> None:
    manager.heard()
    daemon.turn(time.monotonic() + HANGS)  # by then no thread has given a sign of life
    heard = manager.heard()
    assert any(line.startswith("STATUS=HANGS: frazil-") for line in heard)
    assert "WATCHDOG=1" not in heard
    daemon.turn(time.monotonic() + HANGS / 4)
    assert "WATCHDOG=1" in manager.heard()


def test_a_micrograph_is_picked_while_nobody_turns_the_loop(
    daemon: Daemon,
    manager: Manager,
    settings: ServeSettings,
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
) -> None:
    write_mrc(settings.watch / "a.mrc", make_scene().pixels)
    until(lambda: (settings.out / "a_picks.star").exists())
    assert len(read_star(settings.out / "a_picks.star")) >= 10
    until(lambda: daemon.turn(time.monotonic()) or any("1 picked, 0 failed" in line for line in manager.heard()))


def test_a_ledger_that_is_gone_ends_the_loop_in_words(daemon: Daemon, settings: ServeSettings) -> None:
    settings.ledger_file.unlink()

    def turned() -> bool:
        daemon.turn(time.monotonic())
        return False

    with pytest.raises(OutputError, match=str(settings.ledger_file)):
        until(turned)
