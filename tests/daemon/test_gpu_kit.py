"""The kit for a GPU machine: packed in parts, refused when broken, resumed where it was cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import pages, unpack
from benchmarks.gpu.parts import measure_missing
from benchmarks.gpu.prepare import name_of, pack, requirements
from benchmarks.gpu.results import Results
from benchmarks.gpu.run import run_part

PART_BYTES = 40_000


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit of two files, one of them larger than a part, with its manifest and ``unpack.py``."""
    content = tmp_path / "content"
    (content / "wheels").mkdir(parents=True)
    (content / "kit").mkdir()
    (content / "wheels" / "large.whl").write_bytes(os.urandom(3 * PART_BYTES))
    (content / "kit" / "small.py").write_text("print('small')\n")
    out = tmp_path / "parts"
    out.mkdir()
    packed = pack(content, out, PART_BYTES)
    (out / "manifest.json").write_text(json.dumps({"python": "3.12", "requirements": [], **packed}))
    shutil.copyfile(unpack.__file__, out / "unpack.py")
    return out


def manifest_of(kit: Path) -> dict[str, list[dict[str, object]]]:
    return json.loads((kit / "manifest.json").read_text())


def test_parts_that_come_one_after_the_other_give_what_was_packed(kit: Path, tmp_path: Path) -> None:
    manifest, there = manifest_of(kit), tmp_path / "there"
    names = [entry["name"] for entry in manifest["parts"]]
    assert len(names) > 3
    assert all((kit / str(name)).stat().st_size <= PART_BYTES for name in names)
    for i, name in enumerate(names):
        carried = tmp_path / f"call-{i}"
        carried.mkdir()
        shutil.copyfile(kit / str(name), carried / str(name))
        assert unpack.take_parts(carried, there / "parts", manifest["parts"]) == names[i + 1 :]
    unpack.put_together(there / "parts", manifest, there)
    for path in ("wheels/large.whl", "kit/small.py"):
        assert (there / path).read_bytes() == (tmp_path / "content" / path).read_bytes()


@pytest.mark.parametrize("damage", ["a changed byte", "a cut end"])
def test_a_broken_part_is_refused_by_name(kit: Path, tmp_path: Path, damage: str) -> None:
    part = kit / "part-001"
    content = bytearray(part.read_bytes())
    content[100] ^= 1
    part.write_bytes(content if damage == "a changed byte" else content[:-1])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (kit / "manifest.json").write_text(json.dumps(manifest_of(kit) | {"python": version}))
    command = [sys.executable, kit / "unpack.py", "--to", tmp_path / "there"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "part-001: expected " in done.stderr
    assert "carry it again" in done.stderr
    assert not (tmp_path / "there" / "parts" / "part-001").exists()
    assert not (tmp_path / "there" / "venv").exists()


def test_a_file_within_is_checked_too(kit: Path, tmp_path: Path) -> None:
    manifest = manifest_of(kit)
    manifest["files"][0]["sha256"] = "0" * 64
    unpack.take_parts(kit, tmp_path / "parts", manifest["parts"])
    with pytest.raises(unpack.KitError, match=r"small\.py: expected sha256 0000"):
        unpack.put_together(tmp_path / "parts", manifest, tmp_path)


def test_what_is_packed_is_what_frazil_needs_without_torch(repository: Path) -> None:
    names = {name_of(line) for line in requirements(repository)}
    assert {"numpy", "onnxruntime-gpu", "starlette", "tensorboardx", "scipy"} <= names
    assert not {"torch", "frazil"} & names
    for given in ("onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl", "onnxruntime-gpu==1.31.1"):
        assert name_of(given) == "onnxruntime-gpu"


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    ran: list[str] = []

    def measure(case: str, wrong: bool = False) -> dict[str, object]:
        ran.append(case)
        if wrong:
            raise ValueError("out of memory")
        return {"value": len(ran)}

    cases = [("a", lambda: measure("a")), ("b", lambda: measure("b", wrong=True)), ("c", lambda: measure("c"))]
    assert measure_missing("bench", iter(cases), Results(file)) == 1
    with file.open("a") as cut:
        cut.write('{"part": "bench", "case": "d", "val')  # by a kill
    cases = [(case, lambda case=case: measure(case)) for case in "abcd"]
    assert measure_missing("bench", iter(cases), Results(file)) == 0
    assert ran == ["a", "b", "c", "b", "d"]
    assert Results(file).measured("bench") == {"a", "b", "c", "d"}
    assert {row["case"]: row["value"] for row in Results(file).rows()} == {"a": 1, "b": 4, "c": 3, "d": 5}


def test_a_part_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
child.wait()
"""
    assert run_part([sys.executable, "-c", script], tmp_path, 2) == "cut off after 2 s"
    child = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    assert run_part([sys.executable, "-c", "import os; os._exit(3)"], tmp_path, 60) == "its process ended with status 3"
    assert run_part([sys.executable, "-c", ""], tmp_path, 60) is None


def test_the_page_is_what_the_rows_give_and_a_slow_gpu_misses_the_goal(repository: Path) -> None:
    page, folder = repository / "docs" / "reference" / "gpu.md", repository / "docs" / "reference" / "gpu"
    rows = [Results(folder / name).rows() for name in ("results.jsonl", "dry-run.jsonl")]
    assert pages.fill(page.read_text("utf-8"), *rows) == page.read_text("utf-8")
    assert {row["part"] for row in rows[1] if "failed" not in row} == {"machine", *pages.PARTS}
    assert [row for row in rows[1] if "failed" in row] == []
    stages = dict.fromkeys(("read", "prepare", "infer", "peaks", "whole", "session"), 0.01)
    slow = {"part": "bench", "case": "fcn half device 4096", "seconds_of": stages, "copy_seconds": 0.01}
    slow |= {"per_second": {"1": 10.0, "2": 19.0}, "times_bound": 1.9, "device_used_mib": 900}
    goals = pages.goal([slow])
    assert "| `fcn`, micrographs per second, `frazil bench` | 19 | over 20 | **no** |" in goals
    assert "| `fcn`, times the bound | 1.9 | at most 2 | yes |" in goals
    assert "| `mlp`, times the bound | – | at most 2 | not measured |" in goals
