"""A session is picked again while its daemon goes on picking what is new, and each of them is killed once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frazil.cluster.run import RepickRun
from frazil.documents import FailedDocument, MicrographDocument
from frazil.file_picker import FilePicker
from frazil.micrograph_names import Named
from frazil.model.repository import ModelFolder
from frazil.picking import PickingSettings, read_star
from frazil.session.outbox.handover import Handover, handover_file
from frazil.session.outbox.ledger import LedgerReader

pytestmark = pytest.mark.system

PATIENCE_SECONDS = 240.0

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821
Documents = Callable[[Path], list[tuple[str, MicrographDocument | FailedDocument]]]


@pytest.fixture
def feed(make_archive: Callable[..., list[str]]) -> Iterator[Callable[..., Any]]:
    """Copy micrographs into a folder one by one, as a microscope does, until the test says that it is enough."""
    stops: list[Callable[[], list[str]]] = []

    def start(source: Path, folder: Path, seconds: float) -> Callable[[], list[str]]:
        make_archive(source, 4)
        files = sorted(source.rglob("*.mrc"))
        folder.mkdir(parents=True)
        enough, names = threading.Event(), []

        def write() -> None:
            while not enough.wait(seconds):
                file = folder / f"n{len(names):04}.mrc"
                file.write_bytes(files[len(names) % len(files)].read_bytes())
                names.append(f"{folder.name}/{file.name}")

        thread = threading.Thread(target=write)
        thread.start()

        def stop() -> list[str]:
            enough.set()
            thread.join()
            return names

        stops.append(stop)
        return stop

    yield start
    for stop in stops:
        stop()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def results(out: Path, after: int = 0) -> Counter[str]:
    """How often each micrograph has a result with a higher sequence number."""
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        return Counter(stored.path for stored in reader.documents(after=after) if stored.topic == "picks")


@contextlib.contextmanager
def handover_of(out: Path) -> Iterator[Handover]:
    handover = Handover(handover_file(out / "frazil-ledger.sqlite"))
    try:
        yield handover
    finally:
        handover.close()


def begin_of_run(out: Path) -> int:
    """The sequence number after which the run began."""
    with handover_of(out) as handover:
        run = handover.run()
    assert run is not None
    begun = RepickRun.decode(run.run)
    assert begun is not None
    return begun.after_seq


def waits(out: Path) -> bool:
    """Whether a result waits for the daemon."""
    with handover_of(out) as handover:
        return bool(handover.waiting())


def without_times(document: MicrographDocument) -> MicrographDocument:
    nothing = msgspec.structs.replace(document.seconds, read=0, prepare=0, infer=0, junk=0, peaks=0, total=0)
    return msgspec.structs.replace(document, epoch="", seq=0, supersedes=0, seconds=nothing, picked_at="", directory="")


def test_a_live_session_gets_the_new_model_once_whoever_is_killed(
    repick: Repick,
    serve: Callable[..., Any],
    feed: Callable[..., Any],
    make_archive: Callable[..., list[str]],
    make_blob_model: Callable[..., Path],
    tmp_path: Path,
    is_long: bool,
) -> None:
    watched, out, model = tmp_path / "watched", tmp_path / "out", tmp_path / "models" / "blob"
    make_blob_model(model)
    make_blob_model(model, 2, bias=-5.5)
    old = make_archive(watched, 1000 if is_long else 70)
    options = ("--diameter", "48", "--model", model, "--threads", "1")
    daemon = serve(*options, watched=watched, out=out)
    wait_until(lambda: results(out).keys() == set(old))
    ModelFolder(model).promote(2)
    stop = feed(tmp_path / "source", watched / "new", 0.2)
    daemon.wait_log(r"model blob/2 .* serves from here on")

    # The daemon, a worker, and who hands out the work: each is killed while results are handed over.
    running = repick(watched, "--model", model)
    daemon.wait_log(r"results are taken of frazil repick")
    begin = begin_of_run(out)

    def repicked() -> int:
        return len(results(out, begin).keys() & set(old))

    wait_until(lambda: repicked() >= 5)
    daemon.process.kill()
    daemon.process.wait()
    os.kill(running.workers()[0], signal.SIGKILL)
    daemon = serve(*options, watched=watched, out=out)
    wait_until(lambda: repicked() >= 20)
    running.kill()
    wait_until(lambda: not waits(out))  # the daemon takes what was handed over
    so_far = repicked()
    assert 20 <= so_far < len(old)

    status, summary, said = repick(watched, "--model", model, "--resume").end()
    new = stop()
    assert status == 0, said
    assert "is a running daemon's: it takes the results" in said
    assert summary["already"] >= so_far
    assert begin_of_run(out) == begin
    wait_until(lambda: results(out).keys() == {*old, *new})
    assert daemon.stop() == 0
    check_each_is_picked_once(out, watched, model, begin, [*old, *new], tmp_path)

    # All is done: nothing is picked again, whether the daemon is there or not.
    status, summary, said = repick(watched, "--model", model, "--resume").end()
    assert (status, summary["picked"], summary["already"]) == (0, 0, len(old) + len(new)), said


def check_each_is_picked_once(
    out: Path, watched: Path, model: Path, begin: int, keys: list[str], tmp_path: Path
) -> None:
    """See that each has one result of the new model, as a daemon with that model from the start would give it."""
    assert results(out, begin) == Counter(keys)
    picker = FilePicker(
        PickingSettings(diameter_angstrom=48.0),
        out=tmp_path / "pick",
        model=model / "2",
        device="cpu",
        threads=1,
        find_junk=False,
    )
    expected: dict[bytes, MicrographDocument] = {}
    newest: dict[str, MicrographDocument] = {}
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        stored = list(reader.documents())
        states = {record.path: record.state for record in reader.micrographs()}
    assert [one.seq for one in stored] == list(range(1, len(stored) + 1))
    assert states == dict.fromkeys(keys, "picked")
    for one in stored:
        document = one.decode()
        if not isinstance(document, MicrographDocument):
            continue
        if earlier := newest.get(one.path):
            assert document.supersedes == earlier.seq
        newest[one.path] = document
    for key, document in newest.items():
        content = (watched / key).read_bytes()
        if content not in expected:
            expected[content] = picker.pick(Named(watched / key, key)).document
        wanted = msgspec.structs.replace(
            expected[content], micrograph=Path(key).name, path=str(watched / key), model=document.model
        )
        assert document.model.sha256 == expected[content].model.sha256
        assert without_times(document) == without_times(wanted), key
        assert read_star(out / f"{key.removesuffix('.mrc')}_picks.star").score.tolist() == document.picks.score


def test_other_settings_than_the_daemons_are_refused_in_a_line(
    repick: Repick, serve: Callable[..., Any], make_archive: Callable[..., list[str]], blob_model: Path, tmp_path: Path
) -> None:
    watched, out = tmp_path / "watched", tmp_path / "out"
    make_archive(watched, 1)
    daemon = serve("--diameter", "48", "--model", blob_model, watched=watched, out=out)
    daemon.wait_log(r"picked .*sequence number 1\)")
    running = repick(watched, "--diameter", "52", workers=1)
    printed, said = running.process.communicate()
    assert (running.process.returncode, printed) == (1, "")
    assert (
        "takes no results of this run: expected the settings of the session's daemon, diameter 48.0 (found 52" in said
    )
    assert "Traceback" not in said
