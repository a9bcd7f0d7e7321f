"""The command line, as a user meets it: a process, its output, its exit status."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.picking import read_coordinates, read_star
from frazil.session.outbox.ledger import Ledger, Witness

BIN = Path(sys.executable).parent
Write = Callable[..., Path]


def frazil(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "frazil"), *(str(a) for a in args)]
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, **options)  # type: ignore[call-overload,no-any-return]


def assert_one_line(done: subprocess.CompletedProcess[str], *says: object) -> None:
    """The process failed with one line for the user, which says all of this."""
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("frazil: error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for said in says:
        assert str(said) in errors[0]


@pytest.fixture
def micrograph(tmp_path: Path, write_mrc: Write, make_scene: Callable[..., object]) -> Path:
    return write_mrc(tmp_path / "grid 1.mrc", make_scene().pixels, 2.0)


def test_help_names_the_commands() -> None:
    done = frazil("--help")
    assert done.returncode == 0
    for command in ("serve", "pick", "listen"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["serve", "pick", "listen"])
def test_every_command_has_help(command: str) -> None:
    done = frazil(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_help_of_serve_has_every_setting() -> None:
    import msgspec

    from frazil.settings import ServeSettings, option_of

    text = frazil("serve", "--help").stdout
    for field in msgspec.structs.fields(ServeSettings):
        assert f"--{option_of(field.name)}" in text


HEAVY = {
    "numpy",
    "cv2",
    "onnxruntime",
    "gemmi",
    "zmq",
    "watchdog",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "asyncio",
}
"""Each takes longer to load than all of the command line."""


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import frazil", HEAVY | {"typer", "rich", "msgspec"}),
        ("from frazil.documents import decode_document", HEAVY | {"typer", "rich"}),
        (
            "import frazil.commands.cli, typer; typer.main.get_command(frazil.commands.cli.app)",
            HEAVY | {"tomllib", "statistics"},
        ),
        ("from frazil.session.outbox.ledger import Ledger, LedgerReader", HEAVY | {"typer", "rich"}),
        ("from frazil.client import PickStream", HEAVY - {"zmq"}),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(program: str, heavy: set[str]) -> None:
    program += f"; import sys; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == []


def test_status_of_a_ledger_loads_nothing_of_picking(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").close()
    program = "import sys; from frazil.commands.cli import app; "
    program += "app(['status', '--ledger', sys.argv[1]], standalone_mode=False); "
    program += f"print(*({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    command = [sys.executable, "-c", program, str(tmp_path / "l")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "micrographs: none" in done.stdout
    assert done.stderr.split() == []


def test_pick_writes_a_star_a_picture_and_a_document(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = frazil(
        "pick",
        micrograph,
        "--model",
        blob_model,
        "--diameter",
        48,
        "--out",
        out,
        "--threshold",
        0.9,
        "--json",
        "--picture",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    picks = read_star(out / "grid 1_picks.star")
    assert document["micrograph"] == "grid 1.mrc"
    assert document["path"] == str(micrograph)
    assert document["shape"] == [320, 448]
    assert document["diameter_px"] == 24
    assert document["model"]["name"] == "blob"
    assert document["threshold"] == 0.9
    assert len(picks) == len(document["picks"]["y"]) == 12
    np.testing.assert_allclose(picks.x, document["picks"]["x"], atol=1e-3)
    assert (out / "grid 1_picks.png").read_bytes().startswith(b"\x89PNG")
    assert "CPUExecutionProvider" in done.stderr


def test_pick_takes_directories_and_writes_every_format(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("a/one.mrc", "b/one.mrc"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_bytes(micrograph.read_bytes())
    (tree / "notes.txt").write_text("no micrograph")
    formats = "star,relion,cryosparc,box,cbox,topaz,csv,json"
    given = ("--model", blob_model, "--diameter", 48, "--threshold", 0.9, "--out", tmp_path / "out")
    done = frazil("pick", tree, "--format", formats, *given)
    assert done.returncode == 0, done.stderr
    assert "2 micrographs" in done.stderr
    assert "passed over: 1 no images (such as notes.txt)" in done.stderr
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")}
    endings = ("_picks.star", ".box", ".cbox", ".txt", ".csv", ".json")
    assert {f"{folder}/one{ending}" for folder in "ab" for ending in endings} < written
    assert {"autopick.star", "particles.star"} < written
    counts = {
        len(read_coordinates(tmp_path / "out" / f"{folder}/one{ending}", stem="one"))
        for folder in "ab"
        for ending in endings[:5]
    }
    assert counts == {12}
    assert_one_line(frazil("pick", tree, "--format", "star,eps", *given), "expected some of star, relion", "'eps'")


def test_pick_goes_on_after_a_bad_micrograph_and_fails_at_the_end(
    blob_model: Path, micrograph: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(b"no picture " * 200)
    done = frazil("pick", bad, micrograph, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "out")
    assert_one_line(done, bad, "expected an MRC file")
    assert "grid 1.mrc: " in done.stdout
    assert (tmp_path / "out" / "grid 1_picks.star").is_file()


@pytest.mark.parametrize("limits", [("--threshold", 0.5), ()])
def test_pick_drops_nothing_after_a_file_whose_header_or_name_or_place_is_at_fault(
    blob_model: Path, micrograph: Path, tmp_path: Path, limits: tuple[object, ...]
) -> None:
    content = bytearray(micrograph.read_bytes())
    whole = bytes(content)
    content[40:48] = struct.pack("<2f", 448 * 2e-10, 320 * 2e-10)
    (tmp_path / "metres.mrc").write_bytes(content)
    content[40:48] = struct.pack("<2f", 448 * 2.0, 320 * 2.1)
    (tmp_path / "unequal.mrc").write_bytes(content)
    out, long = tmp_path / "out", "L" * 245 + ".mrc"
    (out / "folder_picks.star").mkdir(parents=True)
    (out / "picture_picks.png").mkdir()
    for name in (long, "folder.mrc", "picture.mrc", "twice.mrc", "twice.MRC"):
        (tmp_path / name).write_bytes(whole)
    given = ["metres.mrc", "unequal.mrc", long, "folder.mrc", "picture.mrc", "twice.mrc", "twice.MRC", "nul"]
    done = frazil(
        *("pick", *(tmp_path / name for name in given), micrograph, "--picture"),
        *("--model", blob_model, "--diameter", 48, "--out", out, *limits),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("frazil: error: ")]
    expected = [
        "found 2e-10 Å, which is no pixel size",
        "2 Å along x and 2.1 Å along y",
        "at most 255 bytes",
        "folder_picks.star: Is a directory",
        "picture_picks.png: Is a directory",
        "has the picks of",
        "No such file",
    ]
    if not limits:  # what cannot be written shows after all are scored
        expected = [*expected[:3], *expected[5:], *expected[3:5]]
    assert [said in line for said, line in zip(expected, errors, strict=True)] == [True] * len(expected), errors
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["twice.mrc", micrograph.name]
    assert (out / "grid 1_picks.star").is_file()


def test_two_micrographs_of_one_name_do_not_overwrite_each_other(
    blob_model: Path, micrograph: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / micrograph.name
    other.parent.mkdir()
    other.write_bytes(micrograph.read_bytes())
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(micrograph.parent)
    given = ("--model", blob_model, "--diameter", 48, "--out", out)
    done = frazil("pick", micrograph, other, *given)
    assert_one_line(done, other, micrograph)
    kept = next(out.glob("*.star")).read_bytes()
    assert_one_line(frazil("pick", other, *given), other, micrograph)  # nor does a later run
    assert next(out.glob("*.star")).read_bytes() == kept
    assert frazil("pick", micrograph, link / micrograph.name, *given).returncode == 0  # it is the same one


def test_pick_does_not_write_among_the_results_of_a_daemon(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Witness(out, watch=tmp_path / "titan", ledger=out / "ledger").close()
    done = frazil("pick", micrograph, "--model", blob_model, "--diameter", 48, "--out", out)
    assert_one_line(done, out, f"a daemon that watches {tmp_path / 'titan'}")
    assert not list(out.glob("*.star"))


def test_unknown_pixel_size_is_said_with_what_to_do(blob_model: Path, write_mrc: Write, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.random.default_rng(0).random((200, 300), np.float32), 1.0)
    done = frazil("pick", path, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "out")
    assert_one_line(done, path, "--pixel-size")
    assert (
        frazil(
            "pick", path, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "out", "--pixel-size", 2
        ).returncode
        == 0
    )


def test_pick_says_one_line_for_each_kind_of_trouble(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_one_line(
        frazil("pick", micrograph, "--model", tmp_path / "no", "--diameter", 48, "--out", out), tmp_path / "no"
    )
    (tmp_path / "plain.onnx").write_bytes(b"")
    assert_one_line(
        frazil("pick", micrograph, "--model", tmp_path / "plain.onnx", "--diameter", 48, "--out", out), "plain.onnx"
    )
    (tmp_path / "file").write_text("")
    assert_one_line(
        frazil("pick", micrograph, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "file"),
        "expected a directory that can be written",
    )
    assert_one_line(
        frazil("pick", micrograph, "--model", blob_model, "--diameter", -5, "--out", out), "diameter: expected"
    )
    assert_one_line(
        frazil("pick", tmp_path / "none.mrc", "--model", blob_model, "--diameter", 48, "--out", out),
        "none.mrc: cannot be read: No such file",
    )


def serve(tmp_path: Path, *options: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "w").mkdir(exist_ok=True)
    local = ("--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0")
    return frazil("serve", "--watch", tmp_path / "w", "--out", tmp_path / "o", "--diameter", 48, *local, *options)


def test_serve_does_not_start_without_what_it_needs(blob_model: Path, tmp_path: Path) -> None:
    nothing = frazil("serve")
    assert nothing.returncode == 78
    assert [line.split(": ")[2:4] for line in nothing.stderr.splitlines()] == [
        [name, f"expected a value, found none (give --{option}, or {name} in the file)"]
        for name, option in (("watch", "watch"), ("out", "out"), ("diameter_angstrom", "diameter"))
    ]
    assert_one_line(serve(tmp_path, "--model", tmp_path / "no"), tmp_path / "no", "found nothing at")
    (tmp_path / "file").touch()
    assert_one_line(serve(tmp_path, "--watch", tmp_path / "file"), tmp_path / "file", "--watch: expected a directory")
    assert_one_line(serve(tmp_path, "--threshold", 7), "--threshold: expected a number of at most 1, found 7")
    assert_one_line(serve(tmp_path, "--publish", "tcp://0.0.0.0:0"), "--publish-unencrypted")
    (tmp_path / "f.toml").write_text("diamter = 5")
    assert_one_line(
        serve(tmp_path, "--config", tmp_path / "f.toml"), "unknown setting 'diamter'", "'diameter_angstrom'"
    )


def test_serve_says_which_port_is_in_use(blob_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(
            serve(tmp_path, "--model", blob_model, "--http", f"127.0.0.1:{port}"), f"127.0.0.1:{port}", "in use"
        )
        assert_one_line(
            serve(tmp_path, "--model", blob_model, "--publish", f"tcp://127.0.0.1:{port}"),
            f"tcp://127.0.0.1:{port}",
            "in use",
        )


@pytest.mark.parametrize("command", [("status", "--ledger"), ("keys", "new"), ("models", "list")])
def test_a_path_that_the_system_refuses_gets_one_line(command: tuple[str, ...]) -> None:
    assert_one_line(frazil(*command, "x" * 300), "File name too long")


def test_listen_fails_where_nobody_answers() -> None:
    assert_one_line(frazil("listen", "tcp://127.0.0.1:9", "--timeout", "0.2"), "tcp://127.0.0.1:9", "nobody answers")


def test_listen_refuses_a_malformed_address() -> None:
    assert_one_line(frazil("listen", "nonsense"), "nonsense", "expected an address such as")


def test_a_reader_that_leaves_early_is_no_error(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    command = (
        f"'{BIN}/frazil' pick '{micrograph}' --model '{blob_model}' --diameter 48 --out '{tmp_path}/o' --json | true"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr


def test_importing_frazil_is_light() -> None:
    heavy = "{'onnxruntime', 'cv2', 'numpy', 'torch', 'zmq', 'starlette', 'uvicorn'}"
    code = f"import sys, frazil, frazil.commands.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_links_keep_their_own_names(blob_model: Path, micrograph: Path, tmp_path: Path) -> None:
    """cryoSPARC imports micrographs as links with names of its own."""
    links = []
    for name in ("0176_x.mrc", "0177_x.mrc"):
        (tmp_path / name).symlink_to(micrograph)
        links.append(tmp_path / name)
    done = frazil("pick", *links, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "out", "--json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["micrograph"], one["path"]) for one in documents] == [(link.name, str(link)) for link in links]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0176_x_picks.star", "0177_x_picks.star"]


def test_a_name_that_is_no_utf8_is_refused_without_traceback(
    blob_model: Path, micrograph: Path, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mrc"))
    odd.write_bytes(micrograph.read_bytes())
    done = frazil("pick", odd, "--model", blob_model, "--diameter", 48, "--out", tmp_path / "out", "--json")
    assert_one_line(done, "expected a file name in UTF-8")
