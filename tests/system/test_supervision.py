"""The daemon and its service manager: the test stands where systemd does, with the socket that the daemon speaks to."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PATIENCE_SECONDS = 240.0
WATCHDOG_SECONDS = 1.5
ALL_POWERS = (0.2, 0.3)
"""Mean square of the tiles of any micrograph: a model that loops between these hangs on each."""
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Looping = Callable[[Path, int, float, float], Path]
Write = Callable[..., Path]


class Manager:
    """Hears what a daemon tells its service manager, and when."""

    def __init__(self, bound: socket.socket, environment: dict[str, str]) -> None:
        self.environment = environment
        self.heard: list[tuple[float, dict[str, str]]] = []
        self._changed = threading.Condition()
        self._socket = bound
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while datagram := self._socket.recv(65536):
            lines = dict(line.split("=", 1) for line in datagram.decode().split("\n"))
            with self._changed:
                self.heard.append((time.monotonic(), lines))
                self._changed.notify_all()

    def wait(self, key: str, pattern: str = "", after: float = 0.0) -> float:
        """Wait until it is told this; when that was."""

        def times() -> list[float]:
            return [at for at, lines in self.heard if at > after and key in lines and re.search(pattern, lines[key])]

        with self._changed:
            assert self._changed.wait_for(times, PATIENCE_SECONDS), (key, pattern, self.heard[-20:])
            return times()[0]

    def keys(self) -> list[str]:
        """First keys of all datagrams, in order."""
        with self._changed:
            return [next(iter(lines)) for _, lines in self.heard]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", self._socket.getsockname())
        self._thread.join()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 1e6:.0f}"}
        manager = Manager(bound, environment)
        yield manager
        manager.close()


def test_start_work_reload_and_stop_are_told_in_their_order(
    serve: Serve, manager: Manager, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object]
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, env=manager.environment)
    ready = manager.wait("READY")
    manager.wait("STATUS", r"^waiting for micrographs; 0 picked, 0 failed; blob/1 on CPUExecutionProvider in float32$")
    write_mrc(daemon.watched / "a.mrc", make_scene().pixels, 2.0)
    manager.wait("STATUS", r"; 1 picked, 0 failed; ")
    fed = [manager.wait("WATCHDOG", after=ready)]
    for _ in range(4):
        fed.append(manager.wait("WATCHDOG", after=fed[-1]))
    daemon.process.send_signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING")
    reloaded = manager.wait("READY", after=reloading)
    assert daemon.stop() == 0
    stopping = manager.wait("STOPPING")
    starts = [lines["STATUS"] for _, lines in manager.heard if "EXTEND_TIMEOUT_USEC" in lines]
    assert [re.sub(r" the model .*", " the model", step) for step in starts] == [
        "starting: opening the ledger",
        "starting: loading the model",
        "starting: warming up the model",
    ]
    keys = manager.keys()
    assert keys[: len(starts) + 1] == ["STATUS"] * len(starts) + ["READY"]
    assert manager.wait("EXTEND_TIMEOUT_USEC") < ready < reloading < reloaded < stopping
    assert keys.count("STOPPING") == 1
    assert keys[-1] == "STOPPING"
    (moment,) = [int(lines["MONOTONIC_USEC"]) for _, lines in manager.heard if "RELOADING" in lines]
    assert abs(moment / 1e6 - reloading) < PATIENCE_SECONDS


def test_it_is_ready_only_once_its_model_is_warm(
    serve: Serve, manager: Manager, make_looping_model: Looping, tmp_path: Path
) -> None:
    """The model takes its time over the zeros with which it warms up, and over nothing else."""
    model = make_looping_model(tmp_path / "slow", 600_000, -1.0, 0.1)
    daemon = serve("--diameter", "48", "--model", model, env=manager.environment)
    warm_seconds = float(daemon.wait_log(r"one batch in (\S+) s")[1])
    assert warm_seconds >= 0.1
    rounded = 0.05
    assert manager.wait("READY") - manager.wait("STATUS", "warming up") >= warm_seconds - rounded
    assert daemon.stop() == 0


def test_a_reload_tries_a_refused_model_again_and_ends_when_that_is_decided(
    serve: Serve,
    manager: Manager,
    make_blob_model: Callable[..., Path],
    spoil_model: Callable[[str, Path, int], None],
    tmp_path: Path,
) -> None:
    folder = make_blob_model(tmp_path / "blob")
    spoil_model("changed byte", folder, 2)
    daemon = serve("--diameter", "48", "--model", folder, env=manager.environment)
    (folder / "CURRENT").write_text("2\n1\n")
    daemon.wait_log(r"refused \(hash\) model blob/2", PATIENCE_SECONDS)
    count = sum("refused (hash)" in line for line in daemon.log)
    daemon.process.send_signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING")
    manager.wait("READY", after=reloading)
    with daemon.changed:
        assert daemon.changed.wait_for(
            lambda: sum("refused (hash)" in line for line in daemon.log) > count, PATIENCE_SECONDS
        )
    assert daemon.stop() == 0


def test_a_stage_that_hangs_in_its_work_stops_the_watchdog_and_shows_where_it_is(
    serve: Serve,
    manager: Manager,
    make_looping_model: Looping,
    write_mrc: Write,
    make_scene: Callable[..., object],
    tmp_path: Path,
) -> None:
    """ONNX Runtime never comes back from this model, on any micrograph."""
    model = make_looping_model(tmp_path / "endless", 2**60, *ALL_POWERS)
    daemon = serve("--diameter", "48", "--model", model, "--hang-timeout", "2", env=manager.environment)
    manager.wait("WATCHDOG")
    write_mrc(daemon.watched / "a.mrc", make_scene().pixels, 2.0)
    hangs = manager.wait("STATUS", r"^HANGS: frazil-picking at picking a\.mrc for \d+ s$")
    daemon.wait_log(r"frazil-picking at picking a\.mrc for \d+ s hangs: the watchdog is no longer fed")
    # The status goes on, as the process lives; the watchdog hears nothing for several of its times.
    manager.wait("STATUS", after=hangs + 3 * WATCHDOG_SECONDS)
    with pytest.raises(StopIteration):
        next(at for at, lines in manager.heard if at > hangs and "WATCHDOG" in lines)
    # What systemd does then.
    assert daemon.stop(signal.SIGABRT) == -signal.SIGABRT
    daemon.reader.join()
    assert re.search(r'pipeline\.py", line \d+ in _picking', "".join(daemon.log))


def test_what_waits_for_a_blocked_disk_does_not_hang(
    serve: Serve,
    manager: Manager,
    blob_model: Path,
    write_mrc: Write,
    make_scene: Callable[..., object],
    small_disk: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out = small_disk("disk", 256)
    daemon = serve(
        *("--diameter", "48", "--model", blob_model, "--hang-timeout", "2", "--ledger", tmp_path / "ledger"),
        out=out,
        env=manager.environment,
    )
    with contextlib.suppress(OSError), (out / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    for i in range(20):  # more than the queues hold
        write_mrc(daemon.watched / f"m{i:02}.mrc", make_scene(seed=i).pixels, 2.0)
    daemon.wait_log(r"cannot write .*: picking waits until it can")
    manager.wait("STATUS", r"cannot write .*No space left on device.*picking waits until it can; ")
    blocked = manager.wait("WATCHDOG", after=time.monotonic())
    fed = blocked
    while fed < blocked + 4:
        after = manager.wait("WATCHDOG", after=fed)
        assert after - fed < PATIENCE_SECONDS  # on a busy machine
        fed = after
    assert not any("HANGS" in lines.get("STATUS", "") for _, lines in manager.heard)
    (out / "filler").unlink()
    manager.wait("STATUS", r"; 20 picked, 0 failed; ")
    assert daemon.stop() == 0


def test_an_output_directory_that_is_mounted_later_is_waited_for(tmp_path: Path, blob_model: Path) -> None:
    """As in systemd's sandbox, where all is read only that is not mounted yet."""
    (tmp_path / "watched").mkdir()
    (mounted := tmp_path / "mounted").mkdir()
    daemon = [Path(sys.executable).with_name("frazil"), "serve", "--watch", tmp_path / "watched", "--diameter", "48"]
    daemon += ["--out", mounted / "out", "--ledger", tmp_path / "ledger.sqlite", "--model", blob_model]
    daemon += ["--device", "cpu", "--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
    with subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"', mounted, *daemon],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "is not there: is its file system mounted?" in line:
                    inside = ["nsenter", f"--target={process.pid}", "--user", "--mount", "--preserve-credentials"]
                    subprocess.run([*inside, "mount", "-o", "remount,rw", mounted], check=True, timeout=30)
                if "ready after" in line:
                    break
        finally:
            process.terminate()
    said = "".join(lines)
    assert f"{mounted}/out is not there: is its file system mounted?" in said
    assert f"{mounted}/out is there now" in said
    assert "ready after" in lines[-1], said
    assert process.returncode == 0
