"""What tests of bulk work share: an archive of small micrographs, real `frazil repick` processes, what they leave."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from frazil.documents import FailedDocument, MicrographDocument
from frazil.errors import OutputError
from frazil.session.outbox.ledger import LedgerReader

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
DIAMETER = "48"


@dataclass(kw_only=True)
class Running:
    """A `frazil repick` in a process of its own."""

    process: subprocess.Popen[str]
    out: Path

    def results(self) -> int:
        """Number of results that it has committed."""
        with contextlib.suppress(OutputError), LedgerReader(self.out / "frazil-ledger.sqlite") as reader:
            return reader.counts().get("picked", 0)
        return 0

    def wait_results(self, count: int) -> None:
        """Wait for results; fail where it ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.results() < count:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def workers(self) -> list[int]:
        """Processes of its workers; one more child looks after what they share."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def kill(self) -> None:
        """End it as the system does that has no memory left."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Exit status, the summary, and what it said."""
        printed, said = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in said, said
        assert printed.count("\n") == 1, (printed, said)
        return self.process.returncode, json.loads(printed), said


@pytest.fixture(scope="session")
def make_archive(write_mrc: Callable[..., Path], make_scene: Callable[..., Any]) -> Callable[..., list[str]]:
    """Lay micrographs out in three folders, four in turn under many names; their keys."""

    def make(folder: Path, count: int) -> list[str]:
        keys = [f"grid{number % 3}/m{number:04}.mrc" for number in range(count)]
        for number, key in enumerate(keys):
            file = folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            if number < 4:
                write_mrc(file, make_scene(seed=number).pixels, 2.0)
            else:
                os.link(folder / keys[number % 4], file)
        return keys

    return make


@pytest.fixture
def repick(blob_model: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start `frazil repick`; it is killed when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(
            watch: Path | str,
            *options: object,
            out: Path | None = None,
            workers: int = 2,
            env: Mapping[str, str] | None = None,
        ) -> Running:
            out = out or tmp_path / "out"
            command: Sequence[object] = (
                *(BIN / "frazil", "repick", "--watch", watch, "--out", out, "--diameter", DIAMETER, "--device", "cpu"),
                *(
                    "--model",
                    blob_model,
                    "--no-choose-threshold",
                    "--no-find-junk",
                    "--workers",
                    workers,
                    "--json",
                    *options,
                ),
            )
            process = subprocess.Popen(
                list(map(str, command)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(env or {})},
            )

            def end() -> None:
                process.kill()
                process.communicate()

            stack.callback(end)
            return Running(process=process, out=out)

        yield start


def documents_of(out: Path) -> list[tuple[str, MicrographDocument | FailedDocument]]:
    """The documents of micrographs in a ledger, in their order, by key."""
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        decoded = [(stored.path, stored.decode()) for stored in reader.documents()]
    return [(key, one) for key, one in decoded if isinstance(one, MicrographDocument | FailedDocument)]


@pytest.fixture(scope="session")
def read_documents() -> Callable[[Path], list[tuple[str, MicrographDocument | FailedDocument]]]:
    return documents_of


@pytest.fixture(scope="session")
def check_once() -> Callable[[Path, Sequence[str]], None]:
    """See that each micrograph has one result, and one whole pick file, and nothing else is there."""

    def check(out: Path, keys: Sequence[str]) -> None:
        found = documents_of(out)
        assert Counter(key for key, _ in found) == Counter(keys)
        assert all(isinstance(one, MicrographDocument) for _, one in found)
        assert [one.seq for _, one in found] == list(range(1, len(keys) + 1))
        files = {str(file.relative_to(out)) for file in out.rglob("*") if file.suffix in (".star", ".tmp")}
        assert files == {f"{key.removesuffix('.mrc')}_picks.star" for key in keys}
        with LedgerReader(out / "frazil-ledger.sqlite") as reader:
            assert int(reader.meta()["delivered"]) == len(keys)

    return check


def load_slurm() -> Any:
    """The module beside this file, which is in no package."""
    specification = importlib.util.spec_from_file_location("slurm", Path(__file__).with_name("slurm.py"))
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules["slurm"] = importlib.util.module_from_spec(specification)  # dataclasses look there
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running Slurm with two nodes."""
    module = load_slurm()
    if reason := module.what_is_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI must not skip what needs it")
        pytest.skip(reason)
    with module.run_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running
