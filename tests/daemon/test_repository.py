"""The model repository: what is promoted serves, and nothing in use is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.errors import ModelError, OutputError
from frazil.model import (
    ModelFolder,
    Refusal,
    ServingRecord,
    current_token,
    load_model,
    post_serving_record,
    read_current,
    read_serving_records,
)

BIN = Path(sys.executable).parent


def folder_of(path: Path, *versions: int) -> ModelFolder:
    for version in versions:
        (path / str(version)).mkdir(parents=True)
    return ModelFolder(path)


def test_what_is_promoted_is_what_loads(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    folder = ModelFolder(make_blob_model(tmp_path / "blob"))
    make_blob_model(tmp_path / "blob", 2, bias=-5.0)
    for version in (2, 1, 2):
        folder.promote(version)
        assert load_model(tmp_path / "blob", "cpu").identity.version == version


def test_rolling_back_goes_back_through_what_served(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3, 4)
    for version in (1, 2, 4, 2):
        folder.promote(version)
    assert read_current(tmp_path) == [2, 4, 1]
    assert [folder.rollback(), folder.rollback()] == [4, 1]
    with pytest.raises(ModelError, match="served before 1, found none"):
        folder.rollback()
    assert read_current(tmp_path) == [1]


def test_rolling_back_passes_over_what_is_gone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3)
    for version in (1, 2, 3):
        folder.promote(version)
    (tmp_path / "2").rmdir()
    assert folder.rollback() == 1


def test_a_version_that_is_not_there_cannot_be_promoted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    folder.promote(1)
    with pytest.raises(ModelError, match="expected a version among 1; found 2"):
        folder.promote(2)
    assert read_current(tmp_path) == [1]


def test_promoting_repairs_a_torn_current(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2)
    (tmp_path / "CURRENT").write_bytes(b"\0\xff")
    folder.promote(2)
    assert read_current(tmp_path) == [2]


def test_promoting_again_asks_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    folder.promote(1)
    before = current_token(tmp_path)
    folder.promote(1)
    assert current_token(tmp_path) != before


def test_current_is_replaced_whole_so_that_a_reader_keeps_the_old_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2)
    folder.promote(1)
    with (tmp_path / "CURRENT").open() as reader:
        folder.promote(2)
        assert reader.read() == "1\n"


def test_a_folder_that_cannot_be_changed_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    (tmp_path / "CURRENT").mkdir()
    with pytest.raises(OutputError, match=r"can be changed, found: .*CURRENT"):
        folder.promote(1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "1", "CURRENT"]


def test_pruning_keeps_the_newest_the_serving_the_one_before_and_those_in_use(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *range(1, 11))
    folder.promote(2)
    folder.promote(4)
    (tmp_path / ".removed-0-interrupted").mkdir()
    assert folder.prune(2, in_use=[6]) == [1, 3, 5, 7, 8]
    assert folder.versions() == [2, 4, 6, 9, 10]
    assert not list(tmp_path.glob(".removed*"))
    assert folder.rollback() == 2


def test_pruning_a_model_whose_current_is_torn_removes_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3)
    (tmp_path / "CURRENT").write_text("what?")
    with pytest.raises(ModelError, match="CURRENT"):
        folder.prune(1)
    assert folder.versions() == [1, 2, 3]


def test_two_that_promote_at_once_leave_both_in_order(tmp_path: Path) -> None:
    folder_of(tmp_path, *range(1, 9))
    threads = [threading.Thread(target=ModelFolder(tmp_path).promote, args=(v,)) for v in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_current(tmp_path)) == list(range(1, 9))


def test_a_lock_held_by_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path / ".lock"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        promoting = threading.Thread(target=folder.promote, args=(1,))
        promoting.start()
        assert not (tmp_path / "CURRENT").exists()
        holder.kill()
        promoting.join()
    assert read_current(tmp_path) == [1]


def standing(folder: Path, **changes: object) -> ServingRecord:
    values: dict[str, object] = {
        "folder": str(folder),
        "host": "titan1",
        "watch": "/data",
        "version": 1,
        "sha256": "00",
        "since": "2026-01-01T00:00:00Z",
    }
    return ServingRecord(**(values | changes))  # type: ignore[arg-type]


def refusal(version: int, message: str) -> Refusal:
    return Refusal(version=version, sha256="", reason="crash", message=message, at="", current="")


def test_standings_are_posted_one_for_each_daemon_and_torn_ones_are_passed_over(tmp_path: Path) -> None:
    first = standing(tmp_path).refuse(refusal(2, "once")).refuse(refusal(2, "twice"))
    post_serving_record(tmp_path, "a", standing(tmp_path))
    post_serving_record(tmp_path, "a", first)
    post_serving_record(tmp_path, "b", standing(tmp_path, host="titan2"))
    (tmp_path / ".serving" / "c.json").write_text("{")
    assert [s.host for s in read_serving_records(tmp_path)] == ["titan1", "titan2"]
    assert [r.message for r in read_serving_records(tmp_path)[0].refusals] == ["twice"]


def test_a_version_is_staged_in_the_folder_and_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "new")
    with folder.stage() as staged:
        (staged / "model.onnx").write_bytes(b"1")
        assert folder.versions() == []
        version = folder.add(staged)
    assert version == folder.path / "1"
    assert (version / "model.onnx").read_bytes() == b"1"
    with pytest.raises(ModelError, match="unfit"), folder.stage():
        raise ModelError("unfit")
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "1"]


def test_a_version_that_cannot_be_staged_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write a model there: Not a directory"),
        ModelFolder(tmp_path / "file" / "m").stage(),
    ):
        pass


# --- the command line -------------------------------------------------------------------------------------------


def frazil_models(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [BIN / "frazil", "models", *arguments]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)


def test_the_commands_list_promote_roll_back_and_prune(
    tmp_path: Path, make_blob_model: Callable[..., Path], spoil_model: Callable[[str, Path, int], None]
) -> None:
    blob = make_blob_model(tmp_path / "models" / "blob")
    make_blob_model(blob, 2, threshold=0.25)
    spoil_model("no onnx", blob, 3)
    post_serving_record(blob, "a", standing(blob).refuse(refusal(3, "it is no model")))

    listed = frazil_models("list", tmp_path / "models").stdout
    assert "blob/1 serves at titan1, watching /data" in listed
    assert "blob/3 was refused at titan1, watching /data (crash): it is no model" in listed
    assert "0.25" in listed
    assert frazil_models("promote", blob, 2).returncode == 0
    refused = frazil_models("promote", blob, 3)
    assert (refused.returncode, "expected an ONNX file" in refused.stderr) == (1, True)
    assert read_current(blob) == [2, 1]
    verified = frazil_models("verify", blob)
    assert verified.returncode == 1
    assert verified.stdout.count("fit to serve") == 2
    assert "found 1 of 3" in verified.stderr
    assert "rolled back to version 1" in frazil_models("rollback", blob).stdout
    assert "removed 2" in frazil_models("prune", blob, "--keep", 1).stdout
    shown = frazil_models("show", blob).stdout
    assert "blob/1 (promoted)" in shown
    assert "titan1 /data: serves 1" in shown
    for output in (listed, refused.stderr, verified.stderr, shown):
        assert "Traceback" not in output
