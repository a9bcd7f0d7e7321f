"""Precision: an int8 twin serves only where it may, and whoever looks is told in which precision picks were made."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from frazil.commands.cli import app
from frazil.documents import decode_document
from frazil.errors import ModelError
from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH
from frazil.model import Card, Twin, check_in_sandbox, has_twin, int8_instructions, load_model, read_card, write_card
from frazil.model.runtime import Placement
from frazil.picking import Picker, PickingSettings, match_picks, read_micrograph
from frazil.settings import default_model_path

Blob = Callable[..., Path]
X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 {flag} sse\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd {flag} sve\n"

needs_instructions = pytest.mark.skipif(
    int8_instructions() is None,
    reason="this processor has no instructions for int8, which a process of its own asks for",
)


@pytest.fixture
def set_cpu_info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have the processor look like another one."""

    def write(text: str) -> None:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr("frazil.model.checks._CPU_INFO", tmp_path / "cpuinfo")

    write(X86.format(flag="avx512_vnni"))
    return write


@pytest.fixture
def version(make_blob_model: Blob, make_twin: Blob, tmp_path: Path, set_cpu_info: Callable[[str], None]) -> Path:
    """A version with a good twin, on a processor that can run it."""
    return make_twin(make_blob_model(tmp_path / "blob") / "1")


def edit_card(version: Path, **changes: object) -> None:
    card = read_card(version / "card.json")
    assert card.int8 is not None
    twin = msgspec.structs.replace(card.int8, **changes)
    write_card(version / "card.json", msgspec.structs.replace(card, int8=twin))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86.format(flag="avx512_vnni"), "avx512_vnni"),
        (X86.format(flag="avx_vnni"), "avx_vnni"),
        (X86.format(flag="avx512_vnni amx_int8"), "amx_int8"),
        (ARM.format(flag="asimddp"), "asimddp"),
        (ARM.format(flag="i8mm asimddp"), "i8mm"),
        (X86.format(flag="avx512f"), None),
        (ARM.format(flag="fphp"), None),
        ("", None),
    ],
)
def test_instructions_are_read_from_the_processors_flags(
    set_cpu_info: Callable[[str], None], text: str, found: str | None
) -> None:
    set_cpu_info(text)
    assert int8_instructions() == found


def test_where_the_system_tells_nothing_of_the_processor_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("frazil.model.checks._CPU_INFO", tmp_path / "nothing")
    assert int8_instructions() is None


def test_float32_serves_unless_int8_is_wanted(version: Path) -> None:
    assert has_twin(version)
    model = load_model(version, "cpu")
    assert (model.precision, model.precision_problem) == ("float32", None)


def test_the_twin_scores_under_the_models_name(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    full, twin = load_model(version, "cpu"), load_model(version, "cpu", precision="int8")
    assert (twin.precision, twin.precision_problem) == ("int8", None)
    assert (twin.identity.short, twin.identity.sha256) == (full.identity.short, full.identity.sha256)
    assert twin.contract == full.contract
    tiles = np.random.default_rng(0).random((5, 1, 32, 32), np.float32)
    assert not np.array_equal(twin.score(tiles), full.score(tiles))
    assert twin.score(tiles) == pytest.approx(full.score(tiles), abs=0.01)
    assert caplog.messages == []


def tiles_of(version: Path) -> NDArray[np.float32]:
    return read_card(version / "card.json").reference.tiles()


def take_out_of_card(version: Path) -> None:
    card = read_card(version / "card.json")
    write_card(version / "card.json", msgspec.structs.replace(card, int8=None))


def change_a_byte(version: Path) -> None:
    file = version / "model.int8.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def change_contract(version: Path) -> None:
    file = version / "model.int8.onnx"
    twin = onnx.load(file)
    props = {p.key: "0.7" if p.key == "frazil.threshold" else p.value for p in twin.metadata_props}
    onnx.helper.set_model_props(twin, props)
    file.write_bytes(twin.SerializeToString())
    edit_card(version, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no twin": (take_out_of_card, "expected an int8 twin in the model's card, found none"),
    "not admitted": (lambda v: edit_card(v, admitted=False), "picks as well as the model, found F1 lower by 0.001"),
    "no file": (lambda v: (v / "model.int8.onnx").unlink(), r"model\.int8\.onnx: cannot be read"),
    "another file": (change_a_byte, r"model\.int8\.onnx: expected sha256 .* \(the model's card\)"),
    "another contract": (change_contract, r"expected the contract of model\.onnx, found another one"),
    "other scores": (
        lambda v: edit_card(v, scores_float16=Twin.pack_scores(load_model(v, "cpu").score(tiles_of(v)) + 0.1)),
        r"model\.int8\.onnx: expected its reference scores within 0\.001, found a difference of 0\.1",
    ),
    "too few scores": (
        lambda v: edit_card(v, scores_float16=Twin.pack_scores(np.ones(1, np.float32))),
        "expected 2 reference scores",
    ),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_twin_leaves_float32_serving_with_one_warning(
    version: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    spoil, why = BAD[kind]
    spoil(version)
    model = load_model(version, "cpu", precision="int8")
    assert model.precision == "float32"
    assert model.precision_problem is not None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("model blob/1 serves in float32 although int8 is set: ")
    assert re.search(why, record.message)
    assert load_model(version, "cpu").score(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 1, 1)


def test_without_instructions_float32_serves(
    version: Path, set_cpu_info: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    set_cpu_info(X86.format(flag="avx512f"))
    assert load_model(version, "cpu", precision="int8").precision == "float32"
    assert "expected a processor with instructions for int8" in caplog.text


def test_on_a_gpu_the_model_itself_serves(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu = Placement(nodes={"CUDAExecutionProvider": 3}, heavy_on_cpu=frozenset())
    monkeypatch.setattr("frazil.model.checks.read_placement", lambda session: session.end_profiling() and on_gpu)
    model = load_model(version, precision="int8", require_gpu=True)
    assert (model.precision, model.provider) == ("float32", "CUDAExecutionProvider")
    assert "expected to run on the CPU, found CUDAExecutionProvider" in caplog.text


def test_a_lone_file_has_no_twin(version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lone = tmp_path / "lone.onnx"
    lone.write_bytes((version / "model.onnx").read_bytes())
    assert load_model(lone, "cpu", precision="int8").precision == "float32"
    assert "found none" in caplog.text


def test_a_card_without_a_twin_is_as_it_was_before_there_were_any(make_blob_model: Blob, tmp_path: Path) -> None:
    card = json.loads((make_blob_model(tmp_path / "blob") / "1" / "card.json").read_text())
    assert set(card) == {"sha256", "reference", "run", "validation"}
    assert msgspec.json.decode(json.dumps(card), type=Card).int8 is None


@needs_instructions
def test_a_twin_is_proved_in_a_process_of_its_own(make_blob_model: Blob, make_twin: Blob, tmp_path: Path) -> None:
    version = make_twin(make_blob_model(tmp_path / "blob") / "1")
    assert check_in_sandbox(version, precision="int8").sha256 == read_card(version / "card.json").sha256
    change_a_byte(version)
    assert check_in_sandbox(version)
    with pytest.raises(ModelError, match=r"model\.int8\.onnx: expected sha256"):
        check_in_sandbox(version, precision="int8")


@needs_instructions
def test_the_commands_for_models_tell_of_the_twin(make_blob_model: Blob, make_twin: Blob, tmp_path: Path) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    make_blob_model(folder, 2)
    make_twin(folder / "2")
    run = CliRunner().invoke
    shown = run(app, ["models", "show", str(folder)]).output
    assert [line.split(None, 2)[2] for line in shown.splitlines() if "int8 twin" in line] == [
        "none",
        f"sha256 {read_card(folder / '2' / 'card.json').int8.sha256[:12]}, F1 lower by 0.0010 at most",  # type: ignore[union-attr]
    ]
    assert "yes" in run(app, ["models", "list", str(tmp_path / "models")]).output
    assert "2: its int8 twin is fit to serve" in run(app, ["models", "verify", str(folder)]).output
    (folder / "2" / "model.int8.onnx").unlink()
    spoilt = run(app, ["models", "verify", str(folder)])
    assert spoilt.exit_code == 1
    assert "model.int8.onnx: cannot be read" in spoilt.output


@needs_instructions
def test_the_default_models_twin_picks_what_the_model_picks() -> None:
    micrograph, settings = read_micrograph(KNOWN_MICROGRAPH), PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM)
    full, twin = (load_model(default_model_path(), "cpu", precision=p) for p in ("float32", "int8"))
    assert twin.precision == "int8"
    theirs, ours = (Picker(model, settings).pick(micrograph) for model in (full, twin))
    partner = match_picks(ours, theirs, 2.0)
    assert (partner >= 0).sum() >= 0.98 * max(len(ours), len(theirs))
    assert np.abs(ours.score[partner >= 0] - theirs.score[partner[partner >= 0]]).max() < 0.05


@needs_instructions
def test_picks_say_in_which_precision_they_were_made(tmp_path: Path) -> None:
    arguments = ["pick", str(KNOWN_MICROGRAPH), "--diameter", str(KNOWN_DIAMETER_ANGSTROM), "--json"]
    for precision in ("float32", "int8"):
        done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / precision), "--precision", precision])
        assert done.exit_code == 0, done.output
        assert f"on CPUExecutionProvider in {precision}, " in done.stderr
        assert decode_document(done.stdout.encode()).model.precision == precision  # type: ignore[union-attr]


def test_another_precision_is_refused(tmp_path: Path) -> None:
    arguments = ["pick", str(KNOWN_MICROGRAPH), "--diameter", "172", "--out", str(tmp_path), "--precision", "int4"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert "int8" in done.output
