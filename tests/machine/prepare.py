"""What the machine is made of and is given: this frazil, the one before it, and micrographs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
from io import BytesIO
from pathlib import Path

import mrcfile
import numpy as np
from machine import Image, run
from onnx import helper

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from conftest import blob_contract, blob_onnx, with_extra, write_version  # noqa: E402

BEFORE = "65ac999"
"""The commit of the version before, from which an upgrade is tried."""
VENVS = ("/opt/frazil-before", "/opt/frazil-now")
_CROP = (192, 256)


def find_image(folder: Path) -> Image:
    """The image for what this frazil and the one before depend on."""
    before = subprocess.run(
        ["git", "show", f"{BEFORE}:pyproject.toml"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    projects = [before, (REPOSITORY / "pyproject.toml").read_text("utf-8")]
    wanted = {name for text in projects for name in tomllib.loads(text)["project"]["dependencies"]}
    return Image(folder, sorted(wanted), REPOSITORY / "constraints.txt", VENVS)


def make_payload(folder: Path) -> Path:
    """A folder with both wheels and a micrograph."""
    payload = folder / "payload"
    shutil.rmtree(payload, ignore_errors=True)
    build_wheel(REPOSITORY, payload / "now")
    kept = folder / f"wheel-{BEFORE}"
    if not kept.exists():
        build_wheel(check_out(BEFORE, folder / "source"), kept)
        shutil.rmtree(folder / "source")
    shutil.copytree(kept, payload / "before")
    put_micrograph(payload / "micrograph.mrc")
    put_models(payload / "models" / "discs")
    return payload


def build_wheel(source: Path, folder: Path) -> None:
    """Build the wheel of a checkout."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)


def check_out(commit: str, folder: Path) -> Path:
    """The files of an earlier commit."""
    shutil.rmtree(folder, ignore_errors=True)
    packed = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def put_micrograph(place: Path) -> None:
    """A part of the micrograph that travels with frazil, so that an emulated processor picks it in seconds."""
    known = REPOSITORY / "daemon/frazil/machine/known/micrograph.mrc.gz"
    with mrcfile.open(known) as whole, mrcfile.new(place) as part:
        part.set_data(whole.data[: _CROP[0], : _CROP[1]])
        part.voxel_size = whole.voxel_size


def put_models(folder: Path) -> None:
    """A model that an emulated processor runs in no time, a second version, and one that needs too much memory."""
    write_version(folder, 1, blob_onnx(blob_contract(), bias=-1.0))
    write_version(folder, 2, blob_onnx(blob_contract(), bias=-1.5))
    (folder / "CURRENT").write_text("1\n")
    zeros = helper.make_node("ConstantOfShape", ["gigabyte"], ["zeros"])
    largest = helper.make_node("ReduceMax", ["zeros"], ["extra"], keepdims=0)
    hungry = with_extra([zeros, largest], {"gigabyte": np.array([256, 2**20])}, blob_onnx(blob_contract(), bias=-1.0))
    write_version(folder, 3, hungry)
