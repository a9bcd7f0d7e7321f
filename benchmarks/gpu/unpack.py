"""Put a kit together and install it; this file travels with the parts and needs nothing but Python.

python3 unpack.py --to DIR

Takes the parts that lie beside this file into DIR. They may come in several calls; once all are there and each is
what the manifest says, makes DIR/venv, which also sees the packages of the Python that runs this, and DIR/kit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BLOCK = 2**20


class KitError(Exception):
    """A kit that is not what its manifest says."""


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, entry: dict[str, Any]) -> None:
    """Check a file against its line of the manifest.

    Raises:
        KitError: it has another length or another hash.
    """
    found = path.stat().st_size
    if found != entry["bytes"]:
        raise KitError(f"{path}: expected {entry['bytes']} bytes, found {found}; carry it again")
    if (digest := sha256_of(path)) != entry["sha256"]:
        raise KitError(f"{path}: expected sha256 {entry['sha256']}, found {digest}; carry it again")


def take_parts(source: Path, parts: Path, entries: list[dict[str, Any]]) -> list[str]:
    """Copy the parts that are in `source` and sound; the names of those that are still missing.

    Raises:
        KitError: a part is broken.
    """
    parts.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        given, kept = source / entry["name"], parts / entry["name"]
        if not kept.exists() and given.exists():
            check(given, entry)
            aside = kept.with_suffix(".aside")
            shutil.copyfile(given, aside)
            aside.rename(kept)
    return [entry["name"] for entry in entries if not (parts / entry["name"]).exists()]


def put_together(parts: Path, manifest: dict[str, Any], to: Path) -> None:
    """Join the parts, take out what is in them, and check each file.

    Raises:
        KitError: a part or a file is broken.
    """
    archive = to / "kit.tar"
    with archive.open("wb") as joined:
        for entry in manifest["parts"]:
            check(parts / entry["name"], entry)
            with (parts / entry["name"]).open("rb") as part:
                shutil.copyfileobj(part, joined, BLOCK)
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    archive.unlink()
    for entry in manifest["files"]:
        check(to / entry["name"], entry)


def install(to: Path, manifest: dict[str, Any]) -> None:
    """Make the venv and install the wheels in it, with what this Python already has where that will do."""
    venv = to / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--system-site-packages", venv], check=True)
    python = venv / "bin" / "python"
    own = site_packages(python)
    given = sysconfig.get_path("purelib")
    # A venv of a venv sees the packages of the first Python only, not those of the one between.
    (own / "given.pth").write_text(given + "\n")
    # ONNX Runtime looks for the CUDA libraries beside itself, and then where the linker does; not along Python's path.
    nvidia = Path(given) / "nvidia"
    if nvidia.is_dir():
        (own / "nvidia").symlink_to(nvidia)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--find-links", to / "wheels", *manifest["requirements"]], check=True)
    # Whatever frazil this Python has already, this one is meant.
    own_wheels = (to / "wheels").glob("frazil-*.whl")
    subprocess.run([*pip, "--no-deps", "--force-reinstall", *own_wheels], check=True)


def site_packages(python: Path) -> Path:
    """Where that Python keeps its packages."""
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def main() -> int:
    """Take the parts that are here; install if they are all there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="a folder that stays from call to call")
    to = parser.parse_args().to.resolve()
    manifest = json.loads((HERE / "manifest.json").read_text())
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        if found != manifest["python"]:
            raise KitError(f"expected Python {manifest['python']}, found {found}; run this with the other one")
        missing = take_parts(HERE, to / "parts", manifest["parts"])
        if missing:
            print(f"{len(manifest['parts']) - len(missing)} of {len(manifest['parts'])} parts; missing: {missing}")
            return 1
        put_together(to / "parts", manifest, to)
    except KitError as error:
        print(f"unpack.py: error: {error}", file=sys.stderr)
        return 1
    shutil.copyfile(HERE / "manifest.json", to / "kit" / "manifest.json")
    install(to, manifest)
    print(f"installed; now: cd {to / 'kit'} && {to / 'venv' / 'bin' / 'python'} -m benchmarks.gpu.run --out RESULTS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
