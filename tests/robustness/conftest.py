"""What the proofs of robustness share: their size, their report, small disks, injected faults, a subscriber.

`pytest tests/robustness` runs the short forms, with ``--long`` the long ones. With ``--report`` what they measured goes
into the docs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from frazil.client import PickStream
from frazil.documents import MicrographDocument

SHIM = Path(__file__).with_name("faults.c")
PATIENCE_SECONDS = 240.0


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Print what was measured, and write it where ``--report`` says."""
    folder: Path | None = request.config.getoption("--report")

    def say(name: str, text: str) -> None:
        print(f"\n{text}")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            machine = (
                f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
            )
            command = "pytest tests/robustness --report docs/reference/robustness"
            command += " --long" if request.config.getoption("--long") else ""
            (folder / name).write_text(
                text if name.endswith(".svg") else f"{text}\n\nMade by `{command}` on {machine}.\n", "utf-8"
            )

    return say


@pytest.fixture(scope="session")
def tiny_micrograph(
    tmp_path_factory: pytest.TempPathFactory, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> bytes:
    """A whole micrograph of 64 x 96 pixels with one disc: as little work as picking can be."""
    scene = make_scene(shape=(64, 96), count=1, diameter_px=24.0)
    return write_mrc(tmp_path_factory.mktemp("tiny") / "t.mrc", scene.pixels, 2.0).read_bytes()  # type: ignore[attr-defined]


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for thousands of files when it is not the disk that is tested."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


# --- waiting ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Wait for a condition; fail when it does not come true."""

    def wait(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def metric() -> Callable[[str, str], float]:
    """A metric's value; NaN where the daemon has none of that name, or does not answer."""

    def ask(url: str, name: str) -> float:
        try:
            text = urllib.request.urlopen(url, timeout=300).read().decode()
        except OSError:
            return float("nan")
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[-1]) if lines else float("nan")

    return ask


# --- a subscriber that stays ------------------------------------------------------------------------------------


@dataclass
class Subscriber:
    """Collects documents in the background, for as long as its daemon's address is served again and again."""

    stream: PickStream
    documents: list[MicrographDocument] = field(default_factory=list)

    def collect(self, done: threading.Event) -> None:
        while not done.is_set():
            document = self.stream.receive(0.1)
            if document is not None:
                self.documents.append(document)


@pytest.fixture
def subscribe() -> Iterator[Callable[[str], Subscriber]]:
    with contextlib.ExitStack() as stack:
        done = threading.Event()

        def start(address: str) -> Subscriber:
            subscriber = Subscriber(stack.enter_context(PickStream(address, since=1)))
            thread = threading.Thread(target=subscriber.collect, args=(done,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(done.set)
            return subscriber

        yield start


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fault_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes system calls fail, and turns the clock, on command; see faults.c."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for the library that injects faults")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    """The folder whose files command the faults of `faulty` processes."""
    folder = tmp_path / "faults"
    folder.mkdir()
    return folder


@pytest.fixture
def faulty(fault_shim: Path, faults: Path) -> dict[str, str]:
    """The environment of a process whose system calls fail on command."""
    return {"LD_PRELOAD": str(fault_shim), "FAULTS": str(faults)}


@pytest.fixture(scope="session")
def without_root_rights() -> list[str]:
    """Command prefix under which root, too, is bound by the permissions of files."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux), since root reads what it likes")
    return [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]
