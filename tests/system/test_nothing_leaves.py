"""Nothing leaves the machine: what frazil's programs connect to and write, as the kernel sees it.

strace shows each socket that is connected and each file that is made (of training: ``test_trainer_cli.py``).
The short form ends when the work is done; with ``--long`` what holds a model stays for longer than ONNX Runtime's
telemetry waits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
TELEMETRY_SECONDS = 45.0
"""Longer than ONNX Runtime 1.31 waits before it calls home, some 20 s."""
Traced = Any
TraceCalls = Callable[[Path], Traced]
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Write = Callable[..., Path]


@pytest.fixture
def traced(trace_calls: TraceCalls, tmp_path: Path) -> Traced:
    """A place for programs to be watched in."""
    return trace_calls(tmp_path)


def stay(request: pytest.FixtureRequest) -> float:
    return TELEMETRY_SECONDS if request.config.getoption("--long") else 0.0


@pytest.mark.system
def test_the_daemon_and_a_subscriber_reach_nobody_and_write_where_they_should(
    serve: Serve,
    traced: Traced,
    trace_calls: TraceCalls,
    blob_model: Path,
    write_mrc: Write,
    make_scene: Callable[..., object],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, prefix=traced.prefix, env=traced.environment)
    write_mrc(daemon.watched / "a.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    listener = trace_calls(tmp_path / "listener")
    received = tmp_path / "received"
    listener.run(
        *(BIN / "frazil", "listen", daemon.stream, "--since", "1", "--count", "1", "--to", received),
        *("--resume", received.with_name("cursor")),
    )
    time.sleep(stay(request))
    assert daemon.stop() == 0
    traced.check(daemon.out)
    listener.check(received, received.with_name("cursor"))


@pytest.mark.system
def test_the_page_of_several_microscopes_reaches_their_daemons_alone_and_writes_nothing(
    serve: Serve, traced: Traced, blob_model: Path, request: pytest.FixtureRequest
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    command = [*traced.prefix, BIN / "frazil", "page", "--http", "127.0.0.1:0", "--of", f"titan1={daemon.page}"]
    environment = os.environ | traced.environment
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment) as serving:
        try:
            assert serving.stdout is not None
            url = serving.stdout.readline().strip()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not ask(f"{url}api/microscopes")["microscopes"][0]["heard_at"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(stay(request))
        finally:
            serving.terminate()
    traced.check()


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


@pytest.mark.system
def test_picking_files_reaches_nobody_and_writes_where_it_should(
    traced: Traced, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    micrograph = write_mrc(tmp_path / "a.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    traced.run(
        *(BIN / "frazil", "pick", micrograph, "--diameter", "48", "--model", blob_model, "--device", "cpu"),
        *("--out", tmp_path / "out", "--picture"),
    )
    traced.check(tmp_path / "out")


def test_the_telemetry_that_is_turned_off_would_be_seen(
    traced: Traced, blob_model: Path, request: pytest.FixtureRequest
) -> None:
    """What these tests look for is there without `frazil.model.runtime`, or they would prove nothing."""
    code = (
        "import onnxruntime, sys, time; "
        "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']); time.sleep(float(sys.argv[2]))"
    )
    model = next(blob_model.rglob("model.onnx"), blob_model)
    traced.run(sys.executable, "-c", code, model, stay(request))
    with pytest.raises(AssertionError, match=r"home|htons\(53\)"):
        traced.check()
