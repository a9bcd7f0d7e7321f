"""Two microscopes, seen by one subscriber, one Prometheus and one page. Real processes, killed and started again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboards.panels import Window, evaluate, read_dashboard

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
AXE = Path(__file__).parent.parent / "axe" / "axe.min.js"
PATIENCE_SECONDS = 240.0
Microscope = Any
Prometheus = Any
Looker = Any
"""All of conftest.py."""


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


class Listener:
    """``frazil listen`` over several daemons, with a cursor, which can be killed and started again."""

    def __init__(self, addresses: dict[str, str], folder: Path) -> None:
        self._command = [BIN / "frazil", "listen", *(f"{name}={address}" for name, address in addresses.items())]
        self._command += ["--resume", folder / "cursor", "--json"]
        self._file = folder / "received"
        self.start()

    def start(self) -> None:
        with self._file.open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def received(self) -> list[dict[str, Any]]:
        """The documents that came, in their order; the line that is being written is left out."""
        return [json.loads(line) for line in self._file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def numbers(self, source: str, session: str) -> list[int]:
        """Sequence numbers of one session; a document that came again, as after a kill, counts once."""
        numbers = [d["seq"] for d in self.received() if (d["source"], d["session"]) == (source, session)]
        return [number for place, number in enumerate(numbers) if number not in numbers[:place]]


@pytest.mark.timeout(1200)
def test_two_microscopes_are_seen_by_one_subscriber_and_one_prometheus(
    make_microscope: Callable[..., Microscope],
    prometheus: Callable[..., Prometheus],
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    tmp_path: Path,
) -> None:
    microscopes = {
        name: make_microscope(folder=tmp_path / name, diameter_angstrom=48.0) for name in ("titan1", "krios2")
    }
    sessions = {("titan1", "1101_apo"): 0, ("titan1", "1102_80S"): 0, ("krios2", "1101_apo"): 0}
    folders = {one: microscopes[one[0]].session_folder(one[1]) for one in sessions}
    pixels = make_scene(diameter_px=16.0).pixels

    def collect(*names: str) -> None:
        """One micrograph more in each session of these microscopes."""
        for one in [one for one in sessions if one[0] in names]:
            write_mrc(folders[one] / f"{sessions[one]}.mrc", pixels, 3.0)
            sessions[one] += 1

    def all_received() -> bool:
        return all(len(listener.numbers(*one)) == count for one, count in sessions.items())

    collect("titan1", "krios2")
    for microscope in microscopes.values():
        microscope.start()
    server = prometheus({name: microscope.page[7:-1] for name, microscope in microscopes.items()})
    listener = Listener({name: microscope.stream for name, microscope in microscopes.items()}, tmp_path)
    try:
        until(all_received, listener.received)
        microscopes["krios2"].kill()
        collect("titan1", "krios2")
        until(lambda: len(listener.numbers("titan1", "1102_80S")) == 2, listener.received)  # not held up
        until(lambda: server.values("microscope:frazil_up:min", "microscope") == {("titan1",): 1, ("krios2",): 0})
        listener.kill()
        collect("titan1")
        microscopes["krios2"].start()
        listener.start()
        until(all_received, listener.received)
    finally:
        listener.kill()
    for one, count in sessions.items():
        assert len(stored := microscopes[one[0]].results(one[1])) == count
        assert listener.numbers(*one) == [document.seq for document in stored], one
    # At most the one document that was in hand at the kill came twice.
    assert len(listener.received()) <= sum(sessions.values()) + 1

    # titan1 was never killed, so its counts are those of everything; krios2 began again.
    def picked() -> dict[tuple[str, ...], float]:
        expression = 'sum by (microscope, session) (frazil_session_micrographs_total{outcome="picked"})'
        return server.values(expression, "microscope", "session")

    expected = {one: sessions[one] - (one[0] == "krios2") for one in sessions}
    until(lambda: picked() == expected, picked)
    dashboard = read_dashboard("frazil-fleet")
    expressions = {
        target["expr"].replace("$microscope", "titan1|krios2").replace("$session", "1101_apo|1102_80S")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    missing = set(expressions)

    def all_have_data() -> bool:
        nonlocal missing
        missing = {expression for expression in missing if not server.has(expression)}
        if missing:
            collect("titan1")  # rates want something to go on
            time.sleep(1)
        return not missing

    until(all_have_data, lambda: missing)
    until(lambda: server.values("microscope:frazil_up:min", "microscope") == {("titan1",): 1, ("krios2",): 1})

    def lines(title: str) -> list[tuple[str, str]]:
        """Microscope and session of each line of a table, as Grafana joins them."""
        (panel,) = [panel for panel in dashboard["panels"] if panel["title"] == title]
        window = Window(began=time.time() - 60, ended=time.time())
        shown = evaluate(server, panel, {"microscope": ".*", "session": ".*"}, window)
        columns = {column.name: column.values for column in shown.columns}
        names = columns.get("Microscope", [])
        return sorted(zip(names, columns.get("Session", [""] * len(names)), strict=True))

    until(lambda: lines("Microscopes") == [("krios2", ""), ("titan1", "")], lambda: lines("Microscopes"))
    until(lambda: lines("Sessions") == sorted(sessions), lambda: lines("Sessions"))
    for microscope in microscopes.values():
        assert microscope.stop() == 0


def test_one_page_lists_two_microscopes_of_which_one_is_killed(
    make_microscope: Callable[..., Microscope],
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    look: Looker,
    tmp_path: Path,
) -> None:
    titan, krios = (
        make_microscope(folder=tmp_path / name, diameter_angstrom=48.0) for name in ("titan1", "krios2 <b>")
    )
    for microscope, names in ((titan, ("1101_apo", "1102_80S")), (krios, ("1101_apo",))):
        for name in names:
            write_mrc(microscope.session_folder(name) / "a.mrc", make_scene(diameter_px=16.0).pixels, 3.0)
        microscope.start()
    command = [BIN / "frazil", "page", "--http", "127.0.0.1:0"]
    command += ["--of", f"titan1={titan.page}", "--of", f"krios2 <b>={krios.page}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving, contextlib.ExitStack() as ending:
        ending.callback(serving.kill)
        assert serving.stdout is not None
        page = look.open(url := serving.stdout.readline().strip())
        cards = page.locator("#list > li")
        page.wait_for_selector("text=2 of 2 microscopes work.")
        cards.nth(0).locator("img").wait_for()
        cards.nth(1).locator("img").wait_for()
        page.wait_for_function("[...document.images].every((one) => one.complete && one.naturalWidth)")
        assert cards.locator("h2").all_inner_texts() == ["titan1", "krios2 <b>"]
        assert cards.nth(0).locator(".events a").all_inner_texts() == ["1101_apo", "1102_80S"]
        look.keep(page, "microscopes")
        krios.kill()
        page.wait_for_selector("text=1 of 2 microscopes works.")
        assert "does not answer" in cards.nth(1).locator(".verdict").inner_text()
        assert "Nobody answers" in cards.nth(1).inner_text()
        assert "Yes" in cards.nth(0).locator(".verdict").inner_text()
        look.keep(page, "microscopes-killed")
        for name, size, scheme in (("phone", (390, 844), "light"), ("dark", (1400, 1000), "dark")):
            other = look.open(url, size=size, scheme=scheme)
            other.wait_for_selector("text=1 of 2 microscopes works.")
            assert other.evaluate("document.documentElement.scrollWidth") <= size[0]
            look.keep(other, f"microscopes-{name}")
            other.evaluate(AXE.read_text("utf-8"))
            faults = other.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            assert [one["id"] for one in faults if one["impact"] in ("serious", "critical")] == []
        krios.start()
        page.wait_for_selector("text=2 of 2 microscopes work.")
        look.opened.add(titan.page[7:-1])
        cards.nth(0).get_by_role("link", name="1102_80S").click()  # leads to the daemon's own page
        page.wait_for_selector("#session:text('1102_80S')")
        assert page.url.startswith(titan.page)
        look.expected.append("ERR_CONNECTION_REFUSED")  # the other two pages go on asking
        serving.terminate()
        assert serving.wait(PATIENCE_SECONDS) == 0
