"""The whole daemon: real processes, real micrographs, real sockets."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from gemmi import cif

from frazil import PickStream
from frazil.documents import MicrographDocument
from frazil.machine import KNOWN_MICROGRAPH
from frazil.picking import read_star
from frazil.session.outbox.ledger import LedgerReader

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Write = Callable[..., Path]


class Subscriber:
    """Collects documents in the background."""

    def __init__(self, stream: PickStream) -> None:
        self.documents: list[MicrographDocument] = []
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._stream = stream
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        while not self._done.is_set():
            document = self._stream.receive(0.1)
            if document is not None:
                with self._changed:
                    self.documents.append(document)
                    self._changed.notify_all()

    def wait(self, count: int) -> list[MicrographDocument]:
        """Wait for this many documents."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.documents) >= count, PATIENCE_SECONDS), self.names()
            return list(self.documents)

    def names(self) -> list[str]:
        return [document.micrograph for document in self.documents]

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


@contextmanager
def subscribed(address: str) -> Iterator[Subscriber]:
    with PickStream(address) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        subscriber = Subscriber(stream)
        try:
            yield subscriber
        finally:
            subscriber.stop()


def sample(metrics_url: str, name: str) -> float:
    text = urllib.request.urlopen(metrics_url, timeout=300).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


PICKED = 'frazil_micrographs_total{outcome="picked",reason=""}'


def assert_star_equals_document(out: Path, document: MicrographDocument) -> None:
    file = out / f"{Path(document.micrograph).stem}_picks.star"
    picks = read_star(file)
    np.testing.assert_allclose(picks.y, document.picks.y, atol=1e-3)
    np.testing.assert_allclose(picks.x, document.picks.x, atol=1e-3)
    np.testing.assert_allclose(picks.score, document.picks.score, atol=1e-5)
    # gemmi reads it with RELION's columns and no complaint.
    loop = cif.read_file(str(file)).sole_block().find_loop("_rlnCoordinateX").get_loop()
    columns = ["_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit", "_rlnMicrographName"]
    assert loop.tags == columns
    assert loop.length() == len(picks)


def hit_share(document: MicrographDocument, labels: Path) -> float:
    """Share of the labelled particles with a pick within half a diameter."""
    truth = read_star(labels)
    y, x = np.array(document.picks.y), np.array(document.picks.x)
    nearest = np.hypot(truth.y[:, None] - y, truth.x[:, None] - x).min(axis=1)
    return float((nearest < document.diameter_px / 2).mean())


@pytest.fixture
def copy_slowly() -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        """In seven pieces, opened and closed for each, as a slow and clumsy copy does."""
        content = source.read_bytes()
        step = len(content) // 7 + 1
        target.write_bytes(b"")
        for start in range(0, len(content), step):
            with target.open("ab") as file:
                file.write(content[start : start + step])
        shutil.copystat(source, target)

    return copy


@pytest.mark.parametrize(("dataset", "diameter", "count"), [("beta-galactosidase", 191, 12), ("apoferritin", 117, 13)])
@pytest.mark.parametrize("how", ["at once", "in pieces"])
def test_every_real_micrograph_comes_out_once_as_document_and_star(
    serve: Serve,
    real_micrographs: Path,
    copy_slowly: Callable[[Path, Path], None],
    dataset: str,
    diameter: int,
    count: int,
    how: str,
    is_long: bool,
) -> None:
    files = sorted((real_micrographs / dataset).glob("*.mrc"))
    assert len(files) == count
    if not is_long:  # micrographs of one kind differ little from each other
        files = files[:: 2 if how == "at once" else 4]
        count = len(files)
    daemon = serve("--diameter", str(diameter))
    with subscribed(daemon.stream) as subscriber:
        for file in files:
            target = daemon.watched / file.name
            if how == "at once":
                shutil.copyfile(file, target)
            else:
                copy_slowly(file, target)
        documents = subscriber.wait(count)
        assert sample(daemon.metrics, PICKED) == count
        assert daemon.stop() == 0
    # After the end nothing more can come: none missing, none twice.
    assert sorted(subscriber.names()) == [file.name for file in files]
    assert [document.seq for document in documents] == list(range(1, count + 1))
    assert len({document.epoch for document in documents}) == 1
    assert sorted(p.name for p in daemon.out.glob("*.star")) == [f"{file.stem}_picks.star" for file in files]
    for document in documents:
        assert_star_equals_document(daemon.out, document)
        assert document.path == str(daemon.watched / document.micrograph)
        assert document.pixel_size_angstrom == pytest.approx({"apoferritin": 1.5}.get(dataset, 1.77))
    hits = [hit_share(d, real_micrographs / dataset / f"{Path(d.micrograph).stem}.star") for d in documents]
    assert np.mean(hits) > 0.85, hits


def test_one_second_is_enough_from_a_closed_file_to_its_star(serve: Serve, real_micrographs: Path) -> None:
    file = sorted((real_micrographs / "apoferritin").glob("*.mrc"))[0]
    daemon = serve("--diameter", "117")
    with subscribed(daemon.stream) as subscriber:
        shutil.copyfile(file, daemon.watched / file.name)
        (document,) = subscriber.wait(1)
        # The file is there before the message says so.
        assert (daemon.out / f"{file.stem}_picks.star").is_file()
    assert document.seconds.total > 0  # how much is measured by benchmarks/


def write_many(watched: Path, write_mrc: Write, make_scene: Callable[..., object], count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        # Written aside, since the file's own writer must not be slower than the test.
        aside = watched.parent / f"{i}.tmp.mrc"
        write_mrc(aside, make_scene(seed=i).pixels, 2.0)
        aside.rename(watched / f"m{i:03}.mrc")


def results(daemon: object) -> Counter[str]:
    """How often each micrograph's picks stand in the ledger's documents."""
    import sqlite3

    database = sqlite3.connect(daemon.out / "frazil-ledger.sqlite")  # type: ignore[attr-defined]
    picked = database.execute("SELECT path FROM documents WHERE topic = 'picks'")
    found = Counter(Path(path).name for (path,) in picked)
    database.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_daemon_stopped_in_midstream_misses_and_repeats_nothing(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], number: signal.Signals
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    with subscribed(daemon.stream) as before:
        write_many(daemon.watched, write_mrc, make_scene, 30)
        before.wait(3)
        status = daemon.stop(number)
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else 0)
    if number is not signal.SIGKILL:
        assert any("stopped after" in line for line in daemon.log)

    write_many(daemon.watched, write_mrc, make_scene, 5, start=30)
    again = serve("--diameter", "48", "--model", blob_model)
    names = [f"m{i:03}.mrc" for i in range(35)]
    with subscribed(again.stream) as after:
        again.wait_log(r"picked m034\.mrc")
        while sample(again.metrics, "frazil_ledger_sequence") < 35:
            assert again.process.poll() is None
        assert again.stop() == 0
    assert results(again) == Counter(names)
    assert sorted(p.name for p in again.out.glob("*.star")) == [f"m{i:03}_picks.star" for i in range(35)]
    numbers = Counter(d.seq for d in (*before.documents, *after.documents))
    assert max(numbers) <= 35
    if number is not signal.SIGKILL:  # killed between commit and note of delivery, it may repeat one
        assert max(numbers.values()) == 1


def test_bad_files_are_counted_and_said_and_the_next_one_runs(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--stall", "0.5")
    scene = make_scene()
    aside = tmp_path / "aside"
    aside.mkdir()
    write_mrc(aside / "truncated.mrc", scene.pixels, 2.0)
    (aside / "truncated.mrc").write_bytes((aside / "truncated.mrc").read_bytes()[:-1000])
    (aside / "empty.mrc").write_bytes(b"")
    (aside / "not_mrc.mrc").write_bytes(b"plain text " * 500)
    with mrcfile.new(aside / "stack.mrc") as mrc:
        mrc.set_data(np.stack([scene.pixels] * 2))
        mrc.set_image_stack()
    holed = scene.pixels.copy()
    holed[5, 5] = np.nan
    with pytest.warns(RuntimeWarning):
        write_mrc(aside / "not_finite.mrc", holed, 2.0)
    write_mrc(aside / "constant.mrc", np.full((300, 400), 7, np.float32), 2.0)
    write_mrc(aside / "pixel_size.mrc", scene.pixels, 1.0)
    write_mrc(aside / "diameter.mrc", scene.pixels, 30.0)
    (aside / "line\nbreak.mrc").write_bytes(b"plain text " * 500)
    with subscribed(daemon.stream) as subscriber:
        for file in aside.iterdir():
            file.rename(daemon.watched / file.name)
        expected = {
            "truncated": 2,
            "not_mrc": 2,
            "stack": 1,
            "not_finite": 1,
            "constant": 1,
            "pixel_size": 1,
            "diameter": 1,
        }
        for reason, count in expected.items():
            name = f'frazil_micrographs_total{{outcome="failed",reason="{reason}"}}'
            while sample(daemon.metrics, name) < count:
                assert daemon.process.poll() is None
            assert sample(daemon.metrics, name) == count
        write_mrc(daemon.watched / "good.mrc", scene.pixels, 2.0)
        assert [d.micrograph for d in subscriber.wait(1)] == ["good.mrc"]
        assert daemon.stop() == 0
    log = "".join(daemon.log)
    assert "Traceback" not in log
    assert r"line\nbreak.mrc" in log
    assert "truncated.mrc: expected" in log
    assert len(list(daemon.out.glob("*.star"))) == 1


def test_a_named_pipe_with_the_name_of_a_micrograph_stops_nothing(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    os.mkfifo(tmp_path / "pipe.mrc")
    (tmp_path / "pipe.mrc").rename(daemon.watched / "pipe.mrc")
    daemon.wait_log(r"not_a_file.* expected a regular file, found a named pipe")
    with subscribed(daemon.stream) as subscriber:
        write_mrc(daemon.watched / "good.mrc", make_scene().pixels, 2.0)
        assert [d.micrograph for d in subscriber.wait(1)] == ["good.mrc"]
    assert daemon.stop() == 0


def test_listen_prints_documents_and_leaves_after_count(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object]
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    listeners = [
        subprocess.Popen(
            [BIN / "frazil", "listen", daemon.stream, "--count", "2", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for options in ([], ["--json"])
    ]
    # A publisher sends nothing to a subscriber it does not know yet, so files keep coming until both have two.
    i = 0
    while any(listener.poll() is None for listener in listeners):
        write_many(daemon.watched, write_mrc, make_scene, 1, start=i)
        daemon.wait_log(rf"picked m{i:03}\.mrc")
        i += 1
        assert i < 200
    plain, as_json = (listener.communicate(timeout=300) for listener in listeners)
    assert [listener.returncode for listener in listeners] == [0, 0], (plain, as_json)
    assert len(plain[0].splitlines()) == 2
    assert "12 picks" in plain[0]
    documents = [json.loads(line) for line in as_json[0].splitlines()]
    assert documents[1]["seq"] == documents[0]["seq"] + 1


def test_settings_come_from_the_file_and_the_command_line_beats_it(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    file = tmp_path / "frazil.toml"
    file.write_text(f'diameter = 48\nmodel = "{blob_model}"\nthreshold = 0.99\nlog_level = "info"\n')
    daemon = serve("--config", file, "--threshold", "0.8")
    with subscribed(daemon.stream) as subscriber:
        write_mrc(daemon.watched / "a.mrc", make_scene().pixels, 2.0)
        (document,) = subscriber.wait(1)
    assert document.threshold == 0.8
    assert document.model.name == "blob"


def test_two_daemons_do_not_share_a_ledger(serve: Serve, blob_model: Path, tmp_path: Path) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    command = [BIN / "frazil", "serve", "--watch", daemon.watched, "--out", daemon.out, "--diameter", "48"]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--model", blob_model]
    second = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert second.returncode == 1
    assert "in use by another frazil daemon" in second.stderr
    assert "Traceback" not in second.stderr


def test_two_files_that_would_share_a_star_file_do_not(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object]
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--include", "*.mrc", "--include", "*.mrc.gz")
    first = write_mrc(daemon.watched / "a.mrc", make_scene(seed=1).pixels, 2.0)
    daemon.wait_log(r"picked a\.mrc")
    star = (daemon.out / "a_picks.star").read_bytes()
    other = gzip.compress(first.read_bytes())
    (daemon.watched / "a.mrc.gz").write_bytes(other)
    (daemon.watched / "b.mrc.gz").write_bytes(other)
    daemon.wait_log(r"failed \(name\) .*a\.mrc\.gz: expected a name of its own, found the name of a\.mrc")
    daemon.wait_log(r"picked b\.mrc\.gz")
    assert daemon.stop() == 0
    assert (daemon.out / "a_picks.star").read_bytes() == star
    assert sorted(results(daemon)) == ["a.mrc", "b.mrc.gz"]


def test_a_failure_that_is_tried_again_stands_in_the_ledger_while_it_rests(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    """Memory runs out for real: the process is given less than one micrograph takes."""
    daemon = serve("--diameter", "48", "--model", blob_model)
    pid = daemon.process.pid
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    used = 1024 * int(next(line.split()[1] for line in status if line.startswith("VmSize")))
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (50 << 20), resource.RLIM_INFINITY))
    aside = write_mrc(tmp_path / "aside.tmp", np.random.default_rng(0).random((5000, 5000), np.float32), 0.3)
    aside.rename(daemon.watched / "large.mrc")
    daemon.wait_log(r"failed \(memory\), retried in .*large\.mrc")
    daemon.wait_log(r"failed \(memory\), retried in [2-9] s")
    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        record = reader.micrograph("large.mrc")
    assert record is not None
    assert (record.state, record.reason) == ("failed", "memory")
    assert record.attempts >= 2


def test_a_session_with_the_wrong_contrast_is_told_so_after_its_picks(serve: Serve) -> None:
    daemon = serve("--diameter", "172", "--contrast", "bright")
    with gzip.open(KNOWN_MICROGRAPH) as known:
        (daemon.watched / "a.mrc").write_bytes(known.read())
    daemon.wait_log("picked a.mrc: [0-9]+ picks")
    daemon.wait_log("WARNING particles look dark here, and contrast is bright: 3[0-9]{2} picks instead of [0-9]+ ")
    assert sample(daemon.metrics, 'frazil_doubt{about="contrast"}') == 1
    assert sample(daemon.metrics, 'frazil_doubt{about="diameter"}') == 0
