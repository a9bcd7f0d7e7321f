"""Junk in a running daemon: found, kept through other limits, shown on the page; its model is replaced or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from frazil.documents import JunkArea, MicrographDocument, ModelDocument
from frazil.limits import LimitsPatch
from frazil.model import ModelFolder
from frazil.picking import lie_inside
from frazil.session.outbox.ledger import LedgerReader, ledger_file
from frazil.session.retune import request_change

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0


def documents_of(out: Path) -> list[object]:
    with LedgerReader(ledger_file(out)) as reader:
        return [stored.decode() for stored in reader.documents()]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def junk_of(document: MicrographDocument) -> JunkArea:
    assert isinstance(document.junk, JunkArea)
    y, x, _ = document.picks.arrays()
    assert not lie_inside(document.junk.outlines, y, x).any()
    return document.junk


@pytest.mark.timeout(600)
def test_junk_is_found_kept_and_shown_and_its_model_replaced(
    serve: Callable[..., object],
    blob_model: Path,
    make_junk_model: Callable[..., Path],
    make_blob_model: Callable[..., Path],
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    look: object,
    tmp_path: Path,
) -> None:
    pixels: NDArray[np.float32] = make_scene(seed=3, count=16).pixels.copy()  # type: ignore[attr-defined]
    pixels[40:180, 240:400] -= 120
    folder = make_junk_model(tmp_path / "models" / "dark")
    daemon = serve("--diameter", "48", "--model", blob_model, "--find-junk", "--junk-model", folder)  # type: ignore[operator]
    content = write_mrc(tmp_path / "scene.mrc", pixels, 2.0).read_bytes()

    def pick(name: str) -> MicrographDocument:
        (daemon.watched / ".aside").write_bytes(content)
        (daemon.watched / ".aside").rename(daemon.watched / name)
        daemon.wait_log(rf"picked {name}")
        (document,) = [
            one for one in documents_of(daemon.out) if isinstance(one, MicrographDocument) and one.micrograph == name
        ]
        return document

    first = pick("a.mrc")
    found = junk_of(first)
    assert 0.1 < found.fraction < 0.25
    assert found.dropped > 0
    scraped = urllib.request.urlopen(daemon.metrics, timeout=60).read().decode()
    assert f"frazil_picks_dropped_total {float(found.dropped)}" in scraped
    assert "frazil_junk_fraction_count 1.0" in scraped
    assert 'frazil_junk_model_info{name="dark",' in scraped
    overlay = json.loads(urllib.request.urlopen(f"{daemon.page}api/overlay/{first.seq}", timeout=60).read())
    assert msgspec.convert(overlay["junk"], JunkArea) == found
    page = look.open(f"{daemon.page}micrograph?path=a.mrc")  # type: ignore[attr-defined]
    page.locator(".found-junk").wait_for(state="attached")
    assert f"{found.dropped} picks left out, by dark/1" in page.locator("#facts").inner_text()
    page.keyboard.press("u")
    page.locator(".found-junk").wait_for(state="detached")
    status = subprocess.run(
        [BIN / "frazil", "status", "--ledger", daemon.out], capture_output=True, text=True, check=True, timeout=120
    )
    assert "junk by dark/1 on CPUExecutionProvider" in " ".join(status.stdout.split())

    with LedgerReader(ledger_file(daemon.out)) as reader:
        request_change(reader, LimitsPatch(min_distance_angstrom=100.0))
    wait_for(lambda: any(getattr(one, "supersedes", 0) == first.seq for one in documents_of(daemon.out)))
    (revised,) = [one for one in documents_of(daemon.out) if getattr(one, "supersedes", 0) == first.seq]
    assert isinstance(revised, MicrographDocument)
    assert junk_of(revised).outlines == found.outlines
    assert 0 < junk_of(revised).dropped < found.dropped

    make_blob_model(folder, 2)
    ModelFolder(folder).promote(2)
    daemon.wait_log(r"refused \(contract\) model dark/2 .* of junk: .* finds particles")
    make_junk_model(folder, 3, bias=-50.0)  # finds none
    ModelFolder(folder).promote(3)
    daemon.wait_log(r"model dark/3 .* finds junk from here on")
    assert junk_of(pick("b.mrc")) == JunkArea(
        fraction=0.0, outlines=[], model=msgspec.structs.replace(found.model, version=3, sha256=sha256_of(folder, 3))
    )
    assert daemon.stop() == 0
    changes = [one for one in documents_of(daemon.out) if isinstance(one, ModelDocument)]
    assert [(one.event, one.finds, one.model.version) for one in changes] == [
        ("refused", "junk", 2),
        ("loaded", "junk", 3),
    ]
    assert "Traceback" not in "".join(daemon.log)


def sha256_of(folder: Path, version: int) -> str:
    return str(json.loads((folder / str(version) / "card.json").read_text())["sha256"])


@pytest.mark.timeout(600)
def test_a_daemon_without_a_model_of_junk_says_so_and_picks(
    serve: Callable[..., object],
    blob_model: Path,
    make_scene: Callable[..., object],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--find-junk", "--junk-model", tmp_path / "none")  # type: ignore[operator]
    daemon.wait_log(r"refused \(missing\) model none .* of junk: ")
    write_mrc(daemon.watched / "a.mrc", make_scene().pixels, 2.0)  # type: ignore[attr-defined]
    daemon.wait_log(r"picked a\.mrc: \d+ picks")
    now = json.loads(urllib.request.urlopen(f"{daemon.page}api/now", timeout=60).read())
    says = [trouble["says"] for trouble in now["troubles"]]
    assert "Junk is not looked for: no model that finds it can serve" in says
    assert daemon.stop() == 0
    (document,) = [one for one in documents_of(daemon.out) if isinstance(one, MicrographDocument)]
    assert isinstance(document.junk, msgspec.UnsetType)
    assert len(document.picks.y) == 12
