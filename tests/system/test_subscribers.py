"""Subscribers as users have them: processes, command lines, examples, the tutorial, and RELION behind them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import msgspec
import numpy as np
import pytest

import frazil
from frazil.documents import MicrographDocument, PickColumns, encode_document
from frazil.keys import new_keys
from frazil.pick_files import PickFileWriter
from frazil.picking.coordinates.star import read_tables

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821
Write = Callable[..., Path]
Picked = Callable[[str, str], MicrographDocument]


def frazil_listen(address: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "frazil"), "listen", address, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def test_late_sleeping_killed_and_cut_off_subscribers_end_with_the_ledgers_documents(repository: Path) -> None:
    command = [sys.executable, repository / "benchmarks" / "stream_endurance.py"]
    command += ["--documents", "300", "--kills", "5", "--blocks", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the ledger's") == 5
    assert "killed 5 times" in done.stdout


def test_the_daemon_picks_on_beside_a_stalled_subscriber_which_misses_nothing(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    with (tmp_path / "received").open("w") as out:
        stalled = subprocess.Popen([BIN / "frazil", "listen", daemon.stream, "--since", "1", "--json"], stdout=out)
    try:
        write_mrc(daemon.watched / "m0.mrc", make_scene().pixels)
        while not (tmp_path / "received").stat().st_size:
            assert stalled.poll() is None
        stalled.send_signal(signal.SIGSTOP)
        for i in range(1, 20):
            shutil.copyfile(daemon.watched / "m0.mrc", tmp_path / "aside.mrc")
            (tmp_path / "aside.mrc").rename(daemon.watched / f"m{i}.mrc")
        with frazil.PickStream(daemon.stream, since=1) as other:
            expected = [other.receive(PATIENCE_SECONDS) for _ in range(20)]
        stalled.send_signal(signal.SIGCONT)
        while (tmp_path / "received").read_bytes().count(b"\n") < 20:
            assert stalled.poll() is None
    finally:
        stalled.kill()
        stalled.wait()
    assert (tmp_path / "received").read_bytes().splitlines() == [encode_document(d) for d in expected if d]


def test_failures_are_in_the_stream_in_the_picks_own_sequence(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object]
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    (daemon.watched / "grid 1").mkdir()
    (daemon.watched / "grid 1" / "bad.mrc").write_bytes(b"plain text " * 500)
    daemon.wait_log(r"failed .*bad\.mrc")
    write_mrc(daemon.watched / "grid 1" / "good.mrc", make_scene().pixels)
    with frazil.PickStream(daemon.stream, since=1, topics=["picks", "failed"], directory="grid 1") as stream:
        failed, picked = (stream.receive(PATIENCE_SECONDS) for _ in range(2))
    assert failed is not None
    assert picked is not None
    assert (failed.seq, failed.micrograph, failed.reason, failed.directory) == (1, "bad.mrc", "not_mrc", "grid 1")
    assert (picked.seq, picked.micrograph, picked.directory) == (2, "good.mrc", "grid 1")


def test_a_daemon_with_keys_is_read_by_who_is_listed_and_by_nobody_else(
    serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object], tmp_path: Path
) -> None:
    made = subprocess.run(
        [BIN / "frazil", "keys", "new", tmp_path, "--name", "titan"], capture_output=True, text=True, check=True
    )
    assert made.stdout.split() == [f"{tmp_path}/titan.key", f"{tmp_path}/titan.key_secret"]
    (tmp_path / "clients").mkdir()
    public, secret = new_keys(tmp_path / "alice", "alice")
    shutil.copy(public, tmp_path / "clients")
    daemon = serve(
        *("--diameter", "48", "--model", blob_model),
        *("--curve-key", tmp_path / "titan.key_secret", "--curve-clients", tmp_path / "clients"),
    )
    write_mrc(daemon.watched / "a.mrc", make_scene().pixels)
    listed = frazil_listen(
        *(daemon.stream, "--since", 1, "--count", 1, "--key", secret, "--server-key", tmp_path / "titan.key")
    )
    assert (listed.returncode, "a.mrc" in listed.stdout) == (0, True), listed.stderr
    unlisted = frazil_listen(daemon.stream, "--since", 1, "--count", 1, "--timeout", 2)
    assert (unlisted.returncode, unlisted.stdout) == (1, "")
    assert "nobody answers" in unlisted.stderr


def test_listen_goes_on_at_its_cursor_and_writes_files(open_stream: Open, tmp_path: Path) -> None:
    daemon = open_stream()
    for i in range(6):
        daemon.commit(f"{i}.mrc", directory="a")
    cursor, out = tmp_path / "cursor", tmp_path / "out"
    first = frazil_listen(daemon.address, "--resume", cursor, "--count", 2)
    assert [line.split()[-1] for line in first.stdout.splitlines()] == ["0.mrc", "1.mrc"]
    second = frazil_listen(
        daemon.address, "--resume", cursor, "--count", 4, "--to", out, "--format", "box", "--box-size", 2
    )
    assert (second.returncode, second.stdout) == (0, ""), second.stderr
    assert sorted(f.name for f in (out / "a").iterdir()) == [f"{i}.box" for i in range(2, 6)]
    held = frazil.PickStream(daemon.address, resume=cursor)
    refused = frazil_listen(daemon.address, "--resume", cursor)
    held.close()
    assert "expected a free cursor, found another program holds it" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_listen_passes_over_what_alone_cannot_be_written_and_says_so(open_stream: Open, tmp_path: Path) -> None:
    daemon = open_stream()
    long = "L" * 250 + ".mrc"
    for name, directory in (
        ("0.mrc", ""),
        ("1.mrc", "file"),
        (long, ""),
        ("2.mrc", ""),
        ("3.mrc.gz", ""),
        ("4.MRC", ""),
    ):
        daemon.commit(name, directory=directory)
    cursor, out = tmp_path / "cursor", tmp_path / "out"
    (out / "0_picks.star").mkdir(parents=True)
    (out / "file").write_text("notes")
    done = frazil_listen(daemon.address, "--resume", cursor, "--count", 6, "--to", out)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, lines
    for line, said in zip(lines, ("out/0_picks.star: Is a directory", "a folder at", "name too long"), strict=True):
        assert said in line
    # They have the names that the daemon gives them.
    assert sorted(f.name for f in out.iterdir() if f.is_file()) == [
        "2_picks.star",
        "3_picks.star",
        "4_picks.star",
        "file",
    ]
    daemon.commit("5.mrc")
    again = frazil_listen(daemon.address, "--resume", cursor, "--count", 1, "--to", out)
    assert (again.returncode, again.stderr) == (0, "")
    assert (out / "5_picks.star").is_file()


def test_listen_ends_on_a_full_disk_with_its_cursor_where_it_was(
    open_stream: Open, small_disk: Callable[..., Path], tmp_path: Path
) -> None:
    daemon = open_stream()
    disk, cursor = small_disk("disk", 256), tmp_path / "cursor"
    daemon.commit("0.mrc")
    assert frazil_listen(daemon.address, "--resume", cursor, "--count", 1, "--to", disk).returncode == 0
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    daemon.commit("1.mrc")
    daemon.commit("2.mrc")
    full = frazil_listen(daemon.address, "--resume", cursor, "--count", 2, "--to", disk)
    assert full.returncode == 1
    assert full.stderr == f"frazil: error: {disk}: expected a directory that can be written: No space left on device\n"
    (disk / "filler").unlink()
    assert frazil_listen(daemon.address, "--resume", cursor, "--count", 2, "--to", disk).returncode == 0
    assert sorted(f.name for f in disk.iterdir()) == ["0_picks.star", "1_picks.star", "2_picks.star"]


def test_a_cursor_on_a_full_disk_leaves_nothing_that_cannot_be_read_again(
    open_stream: Open, small_disk: Callable[..., Path]
) -> None:
    daemon = open_stream()
    disk = small_disk("disk", 256)
    cursor = disk / "cursor"
    cursor.touch()
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    daemon.commit("0.mrc")
    full = frazil_listen(daemon.address, "--resume", cursor, "--count", 1)
    assert full.returncode == 1
    assert full.stderr == f"frazil: error: {cursor}: the cursor cannot be written: No space left on device\n"
    (disk / "filler").unlink()
    assert frazil_listen(daemon.address, "--resume", cursor, "--count", 1).returncode == 0


def test_a_name_that_no_table_can_hold_is_told_and_the_next_one_is_written(open_stream: Open, tmp_path: Path) -> None:
    daemon = open_stream()
    for name in ("a.mrc", "b\tc.mrc", "d.mrc"):
        daemon.commit(name)
    done = frazil_listen(
        *(
            daemon.address,
            "--resume",
            tmp_path / "cursor",
            "--count",
            3,
            "--to",
            tmp_path / "out",
            "--format",
            "cryosparc",
        )
    )
    (line,) = done.stderr.splitlines()
    assert re.search(r"particles\.star: expected a name that can stand in a STAR file, found '\S+b\\tc\.mrc'", line)
    (table,) = read_tables(tmp_path / "out" / "particles.star")
    assert [Path(name).name for name in table.columns["rlnMicrographName"]] == ["a.mrc", "d.mrc"]


# --- what the docs show -------------------------------------------------------------------------------------------


def test_the_tutorial_runs_and_says_what_it_says(open_stream: Open, repository: Path, tmp_path: Path) -> None:
    daemon = open_stream()
    for i in range(1, 4):
        daemon.commit(f"{i}.mrc")
    daemon.commit_failed("bad.mrc")
    text = (repository / "docs" / "tutorial" / "read-the-stream.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    # Nothing more comes here, so no need to wait long for it.
    program = "\n".join(blocks).replace("tcp://127.0.0.1:5556", daemon.address)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *[f"{i} {i}.mrc 1 picks" for i in (1, 2, 3)],
        *[f"dealing with {i}" for i in (1, 2)],
        *[f"dealing with {i}" for i in (2, 3)],
        "bad.mrc could not be picked: truncated",
        *[f"{i} m" for i in (1, 2, 3)],
    ]


def node_with_zeromq() -> list[str]:
    node = shutil.which("node")
    found = node and subprocess.run([node, "-e", 'require("zeromq")'], capture_output=True).returncode == 0
    return [node] if node and found else []


@pytest.mark.parametrize("example", ["subscribe.py", "subscribe.mjs"])
def test_examples_without_frazil_get_every_document(
    open_stream: Open, repository: Path, example: str, tmp_path: Path
) -> None:
    program = [sys.executable, "-I"] if example.endswith(".py") else node_with_zeromq()
    if not program:
        pytest.skip("needs node and its package zeromq (npm install zeromq), which frazil does not bring")
    daemon = open_stream()
    for i in range(1, 151):
        daemon.commit(f"{i}.mrc")
    daemon.commit_failed("bad.mrc")
    source = repository / "examples" / example
    if example.endswith(".mjs"):  # modules are looked for beside the program
        source = shutil.copy(source, tmp_path)
        (tmp_path / "node_modules").symlink_to(os.environ.get("NODE_PATH", "/usr/lib/node_modules"))
    process = subprocess.Popen([*program, source, daemon.address], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(150)]
        for i in range(152, 160):
            daemon.commit(f"{i}.mrc")
        lines += [process.stdout.readline() for _ in range(8)]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert lines == [f"{i} {i}.mrc 1\n" for i in [*range(1, 151), *range(152, 160)]]


# --- RELION -------------------------------------------------------------------------------------------------------


@pytest.fixture
def relion() -> str:
    found = shutil.which("relion_preprocess")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("relion_preprocess is missing, and CI must not skip what needs it (apt-get install relion)")
        pytest.skip("needs relion_preprocess (Debian: apt-get install relion), which is not installed")
    return found


@dataclass(frozen=True)
class RelionProject:
    """A RELION project in the working directory.

    Each particle is one bright pixel of its own height, on a micrograph that is neither square nor symmetric.
    """

    preprocess: str
    places = ((60, 300, 0.9), (150, 40, 0.8), (170, 380, 0.7))
    shape = (200, 420)

    def add_micrograph(self, path: Path) -> None:
        pixels = np.zeros(self.shape, np.float32)
        for height, (y, x, _) in enumerate(self.places, start=1):
            pixels[y, x] = 1000 * height
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path) as mrc:
            mrc.set_data(pixels)
            mrc.voxel_size = 1.5

    def extract(self, names: Sequence[str], suffix: str = "_autopick.star") -> None:
        """Have RELION extract from our files what it knows under these names, and see that every particle is right."""
        rows = "".join(f'"{name}" 1\n' if " " in name else f"{name} 1\n" for name in names)
        Path("micrographs.star").write_text(
            "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n"
            "_rlnMicrographPixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
            "one 1 1.5 300 2.7 0.1\n\n\n# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n"
            f"_rlnOpticsGroup #2\n{rows}\n"
        )
        done = subprocess.run(
            [
                *(self.preprocess, "--i", "micrographs.star", "--extract", "--extract_size", "16"),
                *("--coord_dir", "AutoPick/job006/", "--coord_suffix", suffix),
                *("--part_dir", "Extract/job007/", "--part_star", "Extract/job007/particles.star"),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        stacks = list(Path("Extract/job007").rglob("*.mrcs"))
        assert len(stacks) == len(names), done.stdout + done.stderr
        for file in stacks:
            with mrcfile.open(file) as stack:
                found = stack.data.copy()
            assert found.shape == (3, 16, 16)
            for height, particle in enumerate(found, start=1):
                # The pixel that was picked is the centre of RELION's box.
                assert np.unravel_index(particle.argmax(), particle.shape) == (8, 8)
                assert particle.max() == pytest.approx(1000 * height)
        # RELION wrote the names as it knows them, and we read them as it does.
        (particles,) = (t for t in read_tables(Path("Extract/job007/particles.star")) if t.block == "particles")
        assert set(particles.columns["rlnMicrographName"]) == set(names)


@pytest.fixture
def project(relion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RelionProject:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return RelionProject(preprocess=relion)


@pytest.fixture
def picked(project: RelionProject, make_document: Callable[..., MicrographDocument]) -> Picked:
    """What the daemon says that watches a folder and has picked a micrograph below it."""

    def make(watch: str, key: str) -> MicrographDocument:
        y, x, score = zip(*project.places, strict=True)
        directory = str(Path(key).parent)
        return msgspec.structs.replace(
            make_document(str(Path.cwd() / watch / key)),
            shape=project.shape,
            diameter_px=20.0,
            directory="" if directory == "." else directory,
            picks=PickColumns(y=list(map(float, y)), x=list(map(float, x)), score=list(score)),
        )

    return make


def test_relion_extracts_particles_where_we_picked_them(project: RelionProject, picked: Picked) -> None:
    micrographs = [
        *(("MotionCorr/job002", "Movies/m.17.mrc"), ("MotionCorr/job003/Movies", "m.18.mrc"), (".", "Loop_/m.mrc")),
        # RELION cannot write into a folder with a blank or a quote, nor read a micrograph with # in its name.
        *(("data_20230101", "m.mrc"), ("raw", "m é 1.mrc"), ("mics", "m\u00a01.mrc"), ("save_", "1/it's.mrc")),
    ]
    files = PickFileWriter(Path("AutoPick/job006"), "relion")
    names = [f"{watch}/{key}".removeprefix("./") for watch, key in micrographs]
    for (watch, key), name in zip(micrographs, names, strict=True):
        project.add_micrograph(Path(name))
        files.write(picked(watch, key))
    # RELION 4 and later look a micrograph up here, by its name.
    (listed,) = read_tables(Path("AutoPick/job006/autopick.star"))
    assert listed.columns["rlnMicrographName"] == names
    assert all(Path(file).is_file() for file in listed.columns["rlnMicrographCoordinates"])
    project.extract(names)


def test_relion_reads_star_files_that_name_their_micrograph(project: RelionProject, picked: Picked) -> None:
    project.add_micrograph(Path("m.mrc"))
    PickFileWriter(Path("AutoPick/job006"), "star").write(picked(".", "m.mrc"))
    assert "_rlnMicrographName" in Path("AutoPick/job006/m_picks.star").read_text()
    project.extract(["m.mrc"], "_picks.star")


def test_a_linked_folder_keeps_the_name_that_it_was_given_all_the_way_to_relion(
    project: RelionProject, serve: Serve, blob_model: Path, write_mrc: Write, make_scene: Callable[..., object]
) -> None:
    scene = make_scene()
    raid = Path("../raid/disk7")
    raid.mkdir(parents=True)
    for name in ("a.mrc", "b.mrc", "bad.mrc"):
        write_mrc(raid / name, scene.pixels)  # type: ignore[attr-defined]
    (raid / "bad.mrc").write_bytes(bytes(range(256)) * 8)
    Path("Micrographs").symlink_to(raid.absolute())
    daemon = serve("--diameter", "48", "--model", blob_model, watched=Path("Micrographs"), out=Path("Frazil"))
    received = [
        json.loads(line)
        for line in frazil_listen(
            *(daemon.stream, "--since", 1, "--count", 3, "--json", "--topic", "picks", "--topic", "failed")
        ).stdout.splitlines()
    ]
    here = Path.cwd() / "Micrographs"
    assert {one["path"] for one in received} == {str(here / name) for name in ("a.mrc", "b.mrc", "bad.mrc")}
    (failed,) = (one for one in received if one["type"] == "failed")
    assert failed["message"].startswith(f"{here}/bad.mrc: expected")
    assert {file.name for file in Path("Frazil").glob("*.star")} == {"a_picks.star", "b_picks.star"}

    listened = frazil_listen(
        *(daemon.stream, "--since", 1, "--count", 2, "--to", "AutoPick/job006", "--format", "relion")
    )
    assert listened.returncode == 0, listened.stderr
    (listed,) = read_tables(Path("AutoPick/job006/autopick.star"))
    assert set(listed.columns["rlnMicrographName"]) == {"Micrographs/a.mrc", "Micrographs/b.mrc"}
    assert set(listed.columns["rlnMicrographCoordinates"]) == {
        "AutoPick/job006/Micrographs/a_autopick.star",
        "AutoPick/job006/Micrographs/b_autopick.star",
    }
    # By any of its names a micrograph is the one that the ledger knows by its path below the watched folder.
    for path in ("Micrographs/a.mrc", (raid / "a.mrc").resolve()):
        shown = subprocess.run(
            [BIN / "frazil", "retune", "Frazil", "--threshold", "0.5", "--micrograph", path, "--json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["path"] == "a.mrc"
    # Started by its real name, the session goes on: nothing is new.
    daemon.stop()
    again = serve("--diameter", "48", "--model", blob_model, watched=raid.resolve(), out=Path("Frazil"))
    write_mrc(raid / "c.mrc", scene.pixels)  # type: ignore[attr-defined]
    again.wait_log(r"picked c\.mrc: \d+ picks in .* \(sequence number 4\)")


def test_metrics_tell_of_the_stream(serve: Serve, blob_model: Path) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    with frazil.PickStream(daemon.stream) as stream, contextlib.closing(urllib.request.urlopen(daemon.metrics)):
        assert stream.wait_connected(PATIENCE_SECONDS)
        text = ""
        while "frazil_stream_subscribers 1.0" not in text:
            text = urllib.request.urlopen(daemon.metrics, timeout=300).read().decode()
