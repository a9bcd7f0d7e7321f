"""A real Prometheus scrapes a real daemon: every expression of every panel and rule has data there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from benchmarks.dashboards.drawing import draw_rows
from benchmarks.dashboards.panels import chosen_values, read_dashboard
from frazil.model import ModelFolder

pytestmark = pytest.mark.system

PATIENCE_SECONDS = 240.0
MICROGRAPHS = 34
"""Enough for a baseline, with some to spare."""
Prometheus = Any
"""That of conftest.py."""
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def panel_expressions(chosen: dict[str, str]) -> list[str]:
    panels = read_dashboard("frazil")["panels"]
    return [chosen_values(target["expr"], chosen, "1m") for panel in panels for target in panel.get("targets", [])]


def operands(repository: Path) -> set[str]:
    """The series that alerts compare: an alert that is quiet has no result, and may only lack data."""
    rules = (repository / "deploy" / "prometheus" / "frazil-rules.yml").read_text("utf-8")
    written = [rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    found = {selector for e in written for selector in re.findall(r"\b(?:up|frazil_\w+)(?:\{[^}]*\})?", e)}
    assert len(found) >= len(written)
    return found


def with_rings(pixels: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """A scene of 2 Å a pixel on ice that shows the rings of 1.2 µm, at 300 kV and 2.7 mm."""
    rng = np.random.default_rng(seed)
    h, w = pixels.shape
    s2 = np.fft.fftfreq(h, 2.0)[:, np.newaxis] ** 2 + np.fft.rfftfreq(w, 2.0) ** 2
    wavelength = 0.0197
    phase = np.pi * wavelength * s2 * (12_000 - wavelength**2 * 2.7e7 * s2 / 2) + 0.1
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(0, 10, (h, w))) * np.sin(phase), (h, w))
    return (pixels + noise).astype(np.float32)


@pytest.mark.timeout(600)
def test_every_panel_and_every_rule_has_data(
    serve: Serve,
    prometheus: Callable[..., Prometheus],
    repository: Path,
    make_blob_model: Callable[..., Path],
    make_junk_model: Callable[..., Path],
    spoil_model: Callable[[str, Path, int], None],
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    junk = make_junk_model(tmp_path / "models" / "dark")
    daemon = serve(
        *("--diameter", "48", "--model", folder, "--stall", "0.5"),
        *("--assess", "--find-junk", "--junk-model", junk),
    )
    target = daemon.metrics.removeprefix("http://").removesuffix("/metrics")
    began = time.time()
    server = prometheus({"titan1": target})
    wait_for(lambda: server.has("frazil_build_info"))  # what happens before the first look is no increase
    pixels = [with_rings(make_scene((640, 640), seed=i).pixels, seed=100 + i) for i in range(4)]
    pixels[3][:200] -= 200  # junk, on a quarter of the micrographs
    contents = [write_mrc(tmp_path / "aside.mrc", one, 2.0).read_bytes() for one in pixels]

    def drop(*names: str, first: int = 0) -> None:
        for number, name in enumerate(names, first):
            aside = daemon.watched / f".{name}"
            aside.write_bytes(contents[number % len(contents)])
            aside.rename(daemon.watched / name)

    spoil_model("torn file", folder, 2)
    (folder / "CURRENT").write_text("2\n")
    daemon.wait_log(r"refused \(hash\)", PATIENCE_SECONDS)
    make_blob_model(folder, 3, bias=-5.5)
    ModelFolder(folder).promote(3)
    daemon.wait_log(r"model blob/3 .* serves from here on", PATIENCE_SECONDS)
    (daemon.watched / "bad.mrc").write_bytes(b"plain text " * 500)
    daemon.wait_log(r"failed \(not_mrc\)", PATIENCE_SECONDS)
    drop(*(f"m{number}.mrc" for number in range(MICROGRAPHS)))
    for number in range(MICROGRAPHS):
        daemon.wait_log(rf"picked m{number}\.mrc", PATIENCE_SECONDS)

    chosen = {"microscope": "titan1"}
    wanted = {*panel_expressions(chosen), *operands(repository)}
    assert len(wanted) > 40
    deadline = time.monotonic() + PATIENCE_SECONDS
    later = 0
    while missing := {expression for expression in wanted if not server.has(expression)}:
        if not server.has("frazil_gpu_memory_bytes"):
            missing -= {e for e in missing if "frazil_gpu_memory" in e}
        if not missing:
            break
        assert time.monotonic() < deadline, "\n".join(sorted(missing))
        drop(f"later{later}.mrc", first=later)  # rates want something to go on
        later += 1
        time.sleep(0.5)

    gpu = server.has("frazil_gpu_memory_bytes")

    def drawn() -> bool:
        """Whether each panel has something to draw, by every query; a point of a line may come a second late."""
        rows = list(draw_rows(server, read_dashboard("frazil"), chosen, began, time.time()))
        without = {expression for _, _, empty in rows for expression in empty}
        return all("frazil_gpu_memory" in e and not gpu for e in without) and all(
            "No data" not in p for _, p, _ in rows
        )

    wait_for(drawn)
    rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    wait_for(lambda: server.has('ALERTS{alertname="FrazilModelRefused", alertstate="firing", reason="hash"}'))
    firing = server.ask("query", query='ALERTS{alertstate="firing"}')["result"]
    assert {alert["metric"]["alertname"] for alert in firing} == {"FrazilModelRefused"}
    assert daemon.stop() == 0
