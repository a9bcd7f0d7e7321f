"""Precision in a running daemon: what picks by a twin says so, and a model without one serves all the same."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.documents import MicrographDocument, ModelDocument, decode_document
from frazil.model import ModelFolder, int8_instructions

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(int8_instructions() is None, reason="this processor has no instructions for int8"),
]

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
DIAMETER = 48


def wait_status(out: Path, wanted: str) -> None:
    """Wait until ``frazil status`` says it: what a daemon does, it tells every second or so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    command = [BIN / "frazil", "status", "--ledger", out]
    while wanted not in (said := subprocess.run(command, capture_output=True, text=True, check=True).stdout):
        assert time.monotonic() < deadline, said


def test_each_model_serves_in_int8_if_it_can_and_documents_say_in_which_precision(
    serve: Callable[..., RunningDaemon],  # type: ignore[name-defined]  # noqa: F821
    make_blob_model: Callable[..., Path],
    make_twin: Callable[..., Path],
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    for version in (2, 3, 4):
        make_blob_model(folder, version, bias=-6.0 - version / 1000)
    make_twin(folder / "1")
    make_twin(folder / "3")
    make_twin(folder / "4", bias=-6.02)
    (folder / "4" / "model.int8.onnx").write_bytes((folder / "3" / "model.int8.onnx").read_bytes())
    daemon = serve("--diameter", str(DIAMETER), "--model", folder, "--precision", "int8")
    daemon.wait_log(r"model blob/1 .* runs on CPUExecutionProvider in int8: ", PATIENCE_SECONDS)

    def pick(name: str) -> None:
        write_mrc(daemon.watched / f"{name}.mrc", make_scene(seed=1).pixels, 2.0)  # type: ignore[attr-defined]
        daemon.wait_log(rf" picked {name}\.mrc", PATIENCE_SECONDS)

    def promote(version: int, precision: str) -> None:
        ModelFolder(folder).promote(version)
        daemon.wait_log(rf"model blob/{version} .* serves from here on, on \S+ in {precision}", PATIENCE_SECONDS)

    daemon.wait_log("ready after", PATIENCE_SECONDS)
    pick("a")
    assert 'precision="int8"' in urllib.request.urlopen(daemon.metrics, timeout=300).read().decode()
    for version, name, precision, why in (
        (2, "b", "float32", r"model blob/2 serves in float32 although int8 is set: .* found none"),
        (3, "c", "int8", None),
        (4, "d", "float32", r"4 serves in float32 although int8 is set: .* expected sha256"),
    ):
        promote(version, precision)
        if why:
            daemon.wait_log(why, PATIENCE_SECONDS)
        pick(name)
    wait_status(daemon.out, "blob/4 on CPUExecutionProvider in float32")
    with sqlite3.connect(daemon.out / "frazil-ledger.sqlite") as ledger:
        rows = ledger.execute("SELECT body FROM documents ORDER BY seq").fetchall()
    ledger.close()
    documents = [decode_document(body) for (body,) in rows]
    picked = [d for d in documents if isinstance(d, MicrographDocument)]
    assert [(d.micrograph, d.model.version, d.model.precision) for d in picked] == [
        ("a.mrc", 1, "int8"),
        ("b.mrc", 2, "float32"),
        ("c.mrc", 3, "int8"),
        ("d.mrc", 4, "float32"),
    ]
    assert [d.model.precision for d in documents if isinstance(d, ModelDocument)] == ["float32", "int8", "float32"]
