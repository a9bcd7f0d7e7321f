"""The journal: entries with their fields, over a real socket, from a logger and from a real daemon."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frazil.health.journal import JournalHandler, reaches_journal
from frazil.health.logs import event

Entry = dict[str, str]


def decode(content: bytes) -> Entry:
    """An entry as journald reads it."""
    fields = {}
    while content:
        line, _, rest = content.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode(errors="surrogateescape")
        content = rest
    return fields


def receive(journal: socket.socket) -> Entry:
    content, files, _, _ = socket.recv_fds(journal, 1 << 20, 1)
    for file in files:
        with os.fdopen(file, "rb") as sealed:
            sealed.seek(0)
            content = sealed.read()
    return decode(content)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "journal"))
        bound.settimeout(30)
        yield bound


@pytest.fixture
def log(journal: socket.socket) -> Iterator[logging.Logger]:
    handler = JournalHandler(Path(journal.getsockname()))
    logger = logging.Logger("frazil.test", logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_an_event_has_its_fields(journal: socket.socket, log: logging.Logger) -> None:
    log.warning("failed %s", "a.mrc", extra=event("failed", micrograph="a.mrc", reason="truncated", attempt=2))
    entry = receive(journal)
    assert entry["MESSAGE"] == "failed a.mrc"
    assert entry["PRIORITY"] == "4"
    assert entry["SYSLOG_IDENTIFIER"] == "frazil"
    assert entry["LOGGER"] == "frazil.test"
    assert entry["FRAZIL_EVENT"] == "failed"
    assert entry["FRAZIL_MICROGRAPH"] == "a.mrc"
    assert entry["FRAZIL_REASON"] == "truncated"
    assert entry["FRAZIL_ATTEMPT"] == "2"
    assert Path(entry["CODE_FILE"]).name == "test_journal.py"


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_levels_are_priorities(journal: socket.socket, log: logging.Logger, level: str, priority: str) -> None:
    getattr(log, level)("x")
    assert receive(journal)["PRIORITY"] == priority


def test_a_hostile_name_makes_no_field_and_no_second_line(journal: socket.socket, log: logging.Logger) -> None:
    name = "a\nPRIORITY=0\nFRAZIL_EVENT=picked\x1b[2J\udcff.mrc"
    log.error("failed %s", name, extra=event("failed", micrograph=name))
    entry = receive(journal)
    assert entry["PRIORITY"] == "3"
    assert entry["FRAZIL_EVENT"] == "failed"
    assert entry["FRAZIL_MICROGRAPH"] == name
    assert "\n" not in entry["MESSAGE"]
    assert "\x1b" not in entry["MESSAGE"]


def test_a_traceback_is_a_field_and_the_event_stays_one_line(journal: socket.socket, log: logging.Logger) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.exception("it failed")
    entry = receive(journal)
    assert entry["MESSAGE"] == "it failed"
    assert "RuntimeError: boom" in entry["FRAZIL_TRACEBACK"]
    assert entry["FRAZIL_TRACEBACK"].count("\n") > 2


def test_an_entry_too_long_for_a_datagram_arrives_whole(journal: socket.socket, log: logging.Logger) -> None:
    log.info("long", extra=event("long", text="x" * (4 << 20)))
    entry = receive(journal)
    assert entry["MESSAGE"] == "long"
    assert len(entry["FRAZIL_TEXT"]) == 4 << 20


def test_without_the_journal_a_line_goes_to_stderr(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with contextlib.closing(JournalHandler(tmp_path / "gone")) as handler:
        handler.handle(logging.LogRecord("frazil", logging.INFO, __file__, 1, "heard %s", ("anyway",), None))
    assert capfd.readouterr().err == "heard anyway\n"


def test_only_the_stream_that_systemd_names_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert reaches_journal(named, file.fileno())
        assert not reaches_journal({"JOURNAL_STREAM": "1:1"}, file.fileno())
        assert not reaches_journal({}, file.fileno())
    assert not reaches_journal(named, 9999)


@pytest.mark.system
def test_a_daemon_whose_stderr_is_the_journal_sends_entries_and_no_lines(
    journal: socket.socket,
    tmp_path: Path,
    blob_model: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    settings = {"watch": watched, "out": tmp_path / "out", "diameter": 48.0, "model": blob_model, "device": "cpu"}
    settings |= {"publish": "tcp://127.0.0.1:0", "http": "127.0.0.1:0"}
    code = (
        "from pathlib import Path, PosixPath\n"
        "from frazil.settings import load_settings\n"
        "from frazil.daemon import Daemon\n"
        "from frazil.health.logs import configure_logging\n"
        f"configure_logging('info', Path({journal.getsockname()!r}))\n"
        f"Daemon(load_settings({settings!r}, None)).run()\n"
    )
    with (tmp_path / "stderr").open("w+") as stderr:
        status = os.fstat(stderr.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        with subprocess.Popen([sys.executable, "-c", code], stderr=stderr, env=environment) as daemon:
            try:
                entries = list(until(journal, "ready"))
                assert entries[-1]["FRAZIL_MODEL"] == "blob/1"
                write_mrc(tmp_path / "a.tmp", make_scene().pixels, 2.0)
                shutil.move(tmp_path / "a.tmp", watched / "a.mrc")
                picked = list(until(journal, "picked"))[-1]
                (watched / "bad.mrc").write_bytes(b"no picture " * 200)
                (failed,) = list(until(journal, "failed"))
                daemon.send_signal(signal.SIGTERM)
                list(until(journal, "stopped"))
            finally:
                daemon.kill()
        stderr.seek(0)
        assert stderr.read() == ""
    assert picked["FRAZIL_MICROGRAPH"] == "a.mrc"
    assert picked["FRAZIL_SEQ"] == "1"
    assert int(picked["FRAZIL_PICKS"]) == 12
    assert picked["MESSAGE"].startswith("picked a.mrc: 12 picks in ")
    assert failed["FRAZIL_MICROGRAPH"] == "bad.mrc"
    assert failed["FRAZIL_REASON"] == "not_mrc"


def until(journal: socket.socket, name: str) -> Iterator[Entry]:
    """Entries up to the first of an event."""
    while True:
        entry = receive(journal)
        yield entry
        if entry.get("FRAZIL_EVENT") == name:
            return
