"""What goes onto the machine's disk: this frazil and the one before it, installed as the how-to says, and data."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from machine import Image, run

REPOSITORY = Path(__file__).resolve().parents[2]
BEFORE = "65ac999"
"""The commit of the version before, from which an upgrade is tried."""


def prepare(image: Image) -> None:
    """Make the disks of a machine with both versions installed, nothing of them running."""
    image.make_base()
    wheels = image.folder / "wheels"
    wheels.mkdir(exist_ok=True)
    now = build_wheel(REPOSITORY, image.folder / "now")
    before = build_wheel(check_out(BEFORE, image.folder / "source-before"), image.folder / "before")
    for wheel in (now, before):  # what a fresh machine would fetch
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", wheels, "--find-links", wheels),
            *("--constraint", REPOSITORY / "constraints.txt", wheel),
        )
    install(image, now, "/opt/frazil-now")
    install(image, before, "/opt/frazil-before")
    (image.root / "opt/frazil").symlink_to("frazil-now")
    put_data(image.root)
    image.make_disks()


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("frazil-*.whl")
    return wheel


def check_out(commit: str, folder: Path) -> Path:
    """The files of an earlier commit."""
    shutil.rmtree(folder, ignore_errors=True)
    packed = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def install(image: Image, wheel: Path, venv: str) -> None:
    """Install a wheel into a virtual environment of the machine's own Python, from wheels that lie there."""
    shutil.rmtree(image.root / "wheels", ignore_errors=True)
    shutil.copytree(
        image.folder / "wheels",
        image.root / "wheels",
        ignore=lambda _, names: [n for n in names if n.startswith("frazil-")],
    )
    shutil.copy(wheel, image.root / "wheels")
    image.chroot("python3", "-m", "venv", venv)
    image.chroot(f"{venv}/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/wheels", "frazil")
    shutil.rmtree(image.root / "wheels")


def put_data(root: Path) -> None:
    """The micrograph that travels with frazil, to be copied to where micrographs appear."""
    folder = root / "srv/micrographs"
    folder.mkdir(parents=True)
    known = REPOSITORY / "daemon/frazil/machine/known/micrograph.mrc.gz"
    (folder / "known.mrc").write_bytes(gzip.decompress(known.read_bytes()))
