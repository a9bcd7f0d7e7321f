"""What tests of the whole share: a microscope whose daemon can be killed and started again, and a Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from benchmarks.prometheus_process import PrometheusProcess
from frazil.documents import MicrographDocument
from frazil.errors import OutputError
from frazil.session.outbox.ledger import LedgerReader

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BIN = Path(sys.executable).parent
AXE = Path(__file__).parent.parent / "axe" / "axe.min.js"
PATIENCE_SECONDS = 240.0


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Microscope:
    """A daemon with a root, which can be killed and started again at the same addresses."""

    def __init__(self, folder: Path, model: Path, pattern: str = "*/Averages", **settings: object) -> None:
        self.root, self.out = folder / "titan1", folder / "picks"
        self.root.mkdir()
        publish, replay, http = free_ports(3)
        self.stream, self.page = f"tcp://127.0.0.1:{publish}", f"http://127.0.0.1:{http}/"
        lines = {
            "root": str(self.root),
            "sessions": pattern,
            "out": str(self.out),
            "model": str(model),
            "device": "cpu",
            "threads": 1,
            "scan_seconds": 0.5,
            "assess": False,
            "publish_address": self.stream,
            "replay_address": f"tcp://127.0.0.1:{replay}",
            "http_address": f"127.0.0.1:{http}",
            **settings,
        }
        self.config = folder / "titan1.toml"
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([BIN / "frazil", "serve", "--config", self.config], stderr=log)
        until(self.is_ready, lambda: self.log.read_text())

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(f"{self.page}readyz", timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def frazil(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [BIN / "frazil", *words, "--out", self.out]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr + self.log.read_text()
        return done

    def sessions(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.frazil("session", "list", "--json").stdout)
        return {session["name"]: session for session in listed}

    def session_folder(self, name: str, settings: str = "") -> Path:
        folder = self.root / name / "Averages"
        folder.mkdir(parents=True)
        (folder / "frazil.toml").write_text(settings)
        return folder

    def results(self, name: str) -> list[MicrographDocument]:
        """What the ledger of a session has."""
        found: list[MicrographDocument] = []
        file = self.out / name / "frazil-ledger.sqlite"
        with suppress(OutputError), LedgerReader(file) as reader:  # not yet there, or just being made
            documents = [stored.decode() for stored in reader.documents(after=0)]
            found = [document for document in documents if isinstance(document, MicrographDocument)]
        return found


@pytest.fixture
def make_microscope(tmp_path: Path, blob_model: Path) -> Iterator[Callable[..., Microscope]]:
    """Make microscopes, one in each folder; their daemons are killed when the test ends."""
    made: list[Microscope] = []

    def make(pattern: str = "*/Averages", *, folder: Path = tmp_path, **settings: object) -> Microscope:
        folder.mkdir(exist_ok=True)
        made.append(Microscope(folder, blob_model, pattern, **settings))
        return made[-1]

    yield make
    for microscope in made:
        if microscope.process is not None and microscope.process.poll() is None:
            microscope.kill()


@pytest.fixture
def prometheus(
    find_prometheus: Callable[[str], str], tmp_path: Path
) -> Iterator[Callable[[Mapping[str, str]], PrometheusProcess]]:
    """Start a Prometheus over daemons: addresses by the names of their microscopes."""
    program = find_prometheus("prometheus")
    with contextlib.ExitStack() as stack:

        def start(targets: Mapping[str, str]) -> PrometheusProcess:
            return stack.enter_context(PrometheusProcess(program, targets, tmp_path))

        yield start


# --- browsers ---------------------------------------------------------------------------------------------------

CHROMIUM = "/usr/bin/chromium"
BROWSER_MS = 240_000


@pytest.fixture(scope="module")  # its event loop must not outlive the module: others run their own
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is missing, and CI must not skip what needs it")
        pytest.skip(f"needs Debian's chromium in {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield launched
        launched.close()


@dataclass
class Looker:
    """Opens pages, and remembers what went wrong on them."""

    browser: Browser
    pictures: Path | None
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of complaints that a test brings about, however late they come."""
    opened: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    contexts: list[Any] = field(default_factory=list)

    def open(self, url: str, *, size: tuple[int, int] = (1400, 1000), scheme: Any = "light") -> Page:
        context = self.browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        context.set_default_timeout(BROWSER_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.opened.add(urlsplit(url).netloc)
        page.goto(url)
        return page

    def check(self, page: Page, name: str) -> None:
        """Nothing serious is found, and nothing is cut off, on a desk and on a phone."""
        page.evaluate(AXE.read_text("utf-8"))
        for width, height in ((1400, 1000), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
            serious = [
                (fault["id"], [node["html"][:160] for node in fault["nodes"][:3]])
                for fault in found
                if fault["impact"] in ("serious", "critical")
            ]
            assert serious == []
            self.keep(page, f"{name}-{width}")
        page.set_viewport_size({"width": 1400, "height": 1000})

    def keep(self, page: Page, name: str) -> None:
        """Keep what the page looks like, if a report is asked for."""
        if self.pictures is not None:
            page.screenshot(path=self.pictures / f"{name}.png", full_page=True)


@pytest.fixture
def look(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Looker]:
    """Every test that looks also finds that nothing was asked of anybody else, and that the console stays clean."""
    pictures: Path | None = request.config.getoption("--report")
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    looker = Looker(browser, pictures)
    yield looker
    for context in looker.contexts:
        context.close()
    assert [text for text in looker.complaints if not any(part in text for part in looker.expected)] == []
    assert looker.hosts <= looker.opened
