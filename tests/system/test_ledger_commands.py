"""status, requeue and ledger: beside a daemon that runs, and after it."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.documents import decode_document

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Write = Callable[..., Path]
PATIENCE_SECONDS = 240.0


def frazil(*arguments: object) -> str:
    done = subprocess.run(
        [str(a) for a in (BIN / "frazil", *arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def drop(write_mrc: Write, make_scene: Callable[..., object]) -> Callable[..., None]:
    def put(folder: Path, *names: str, seed: int = 0) -> None:
        for name in names:
            aside = folder.parent / "aside.tmp"
            write_mrc(aside, make_scene(seed=seed).pixels, 2.0)  # type: ignore[attr-defined]
            (folder / name).parent.mkdir(exist_ok=True)
            aside.rename(folder / name)

    return put


def test_a_ledger_is_read_and_mended_while_its_daemon_runs(
    serve: Serve, blob_model: Path, drop: Callable[..., None], tmp_path: Path
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--stall", "0.5")
    drop(daemon.watched, "a.mrc", "b.mrc", "grid/c.mrc")
    (daemon.watched / "bad.mrc").write_bytes(b"plain text " * 500)
    for name in ("a", "b", "grid/c"):
        daemon.wait_log(rf"picked {name}\.mrc")
    daemon.wait_log("failed .not_mrc.")

    assert "running since" in (said := frazil("status", "--ledger", daemon.out))
    assert "nothing needs you but 1 that could not be picked" in said
    assert re.search(r"the page is http://127\.0\.0\.1:\d+/", said)
    assert "micrographs: 3 picked, 1 quarantined" in said
    status = json.loads(frazil("status", "--json", "--ledger", daemon.out))
    assert status["running"] is True
    assert status["micrographs"] == {"picked": 3, "quarantined": 1}
    assert status["daemon"]["stream"] == daemon.stream
    assert status["metrics"]["frazil_ledger_sequence"] == 4

    listed = frazil("ledger", "list", "--ledger", daemon.out)
    assert [line.split()[-1] for line in listed.splitlines()] == ["a.mrc", "b.mrc", "not_mrc", "grid/c.mrc"]
    assert "bad.mrc" in frazil("ledger", "list", "--state", "quarantined", "--ledger", daemon.out)
    assert "c.mrc" in frazil("ledger", "list", "--below", "grid/", "--ledger", daemon.out)
    shown = frazil("ledger", "show", daemon.watched / "a.mrc", "--ledger", daemon.out)
    assert "12 picks by blob/1" in shown
    assert "score map of" in shown
    records = [json.loads(line) for line in frazil("ledger", "export", "--ledger", daemon.out).splitlines()]
    assert {r["path"]: r["state"] for r in records}["bad.mrc"] == "quarantined"
    table = list(csv.DictReader(frazil("ledger", "export", "--format", "csv", "--ledger", daemon.out).splitlines()))
    assert [row["path"] for row in table] == [r["path"] for r in records]
    documents = frazil("ledger", "export", "--documents", "--ledger", daemon.out).splitlines()
    assert [decode_document(line.encode()).seq for line in documents] == [1, 2, 3, 4]

    # Asked for again, a picked one gets a new result, and a mended one its first.
    assert "2 to be picked again" in frazil("requeue", "a.mrc", daemon.watched / "b.mrc", "--ledger", daemon.out)
    daemon.wait_log(r"picked .*sequence number 6\)")
    drop(daemon.watched, "bad.mrc")
    daemon.wait_log(r"picked bad\.mrc")
    status = json.loads(frazil("status", "--json", "--ledger", daemon.out))
    assert status["micrographs"] == {"picked": 4}
    assert daemon.stop() == 0
    assert "not running: stopped" in frazil("status", "--ledger", daemon.out)

    # And with the daemon down, a request waits for the next one.
    frazil("requeue", "grid/c.mrc", "--ledger", daemon.out)
    again = serve("--diameter", "48", "--model", blob_model)
    again.wait_log(r"picked grid/c\.mrc: .*sequence number 8\)")
    assert again.stop(signal.SIGKILL) == -signal.SIGKILL
    assert "did not end in order" in frazil("status", "--ledger", again.out)
    assert "8 results" in frazil("ledger", "archive", "--to", tmp_path / "archive", "--ledger", again.out)
    assert frazil("ledger", "list", "--ledger", tmp_path / "archive").count("picked") == 4


def test_requeue_of_all_that_failed_gives_each_another_chance(
    serve: Serve, blob_model: Path, drop: Callable[..., None]
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    (daemon.watched / "x.mrc").write_bytes(b"plain text " * 500)
    daemon.wait_log("failed .not_mrc.")
    before = len(daemon.log)
    assert "1 to be picked again" in frazil("requeue", "--failed", "--ledger", daemon.out)
    wait_for(lambda: any("failed (not_mrc)" in line for line in daemon.log[before:]))


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    for arguments, says in (
        (["status", "--ledger", tmp_path], "expected a ledger, found none"),
        (["requeue", "--ledger", tmp_path], "expected micrographs, or one of --failed, --held, --directory and --all"),
        (["ledger", "show", "a", "--ledger", tmp_path / "l"], "expected a ledger, found none"),
    ):
        done = subprocess.run([BIN / "frazil", *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
