"""Pack what a GPU machine without a network needs: wheels, models and benchmarks, in parts with a manifest.

python -m benchmarks.gpu.prepare --out DIR

torch and its CUDA libraries are never packed: they are there. `--there FILE` names what else is, as
``python3 -m pip freeze`` prints it on that machine; those packages stay behind.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.gpu import unpack

REPOSITORY = Path(__file__).resolve().parents[2]
PART_BYTES = 50_000_000
EXTRAS = ("simulate", "trainer")
NEVER_PACKED = ("frazil", "torch")
_GLIBC = (17, 24, 26, 27, 28, 31, 34)
"""Versions 2.N that wheels name; all are older than that of any machine with CUDA 13."""


def requirements(repository: Path) -> list[str]:
    """What frazil and its trainer need beside themselves and torch."""
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    groups = (project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS))
    return [line for group in groups for line in group if name_of(line) not in NEVER_PACKED]


def name_of(line: str) -> str:
    """The package that a requirement, a wheel's name or a line of ``pip freeze`` begins with."""
    return re.split(r"[^A-Za-z0-9._-]|==|-\d", line.strip(), maxsplit=1)[0].replace("_", "-").replace(".", "-").lower()


def collect_wheels(folder: Path, python: str, there: set[str]) -> None:
    """The wheel of this tree, and those of the packages that it needs and that are not there."""
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY], check=True)
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in _GLIBC] + ["--platform=manylinux2014_x86_64"]
    which = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    constraints = ["--constraint", REPOSITORY / "constraints.txt"]
    needed = requirements(REPOSITORY)
    subprocess.run([*pip, "download", "--dest", folder, *which, *constraints, *needed], check=True)
    for wheel in folder.iterdir():
        if name_of(wheel.name) in there:
            wheel.unlink()


def pack(folder: Path, out: Path, part_bytes: int = PART_BYTES) -> dict[str, Any]:
    """Write all files of a folder into `out`, as parts of one archive; what the manifest says of parts and files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory(dir=out) as aside:
        archive = Path(aside) / "kit.tar"
        with tarfile.open(archive, "w") as tar:
            for path in paths:
                tar.add(path, path.relative_to(folder))
        names = []
        with archive.open("rb") as joined:
            while block := joined.read(part_bytes):
                names.append(f"part-{len(names):03}")
                (out / names[-1]).write_bytes(block)
    return {
        "parts": [entry(out / name, name) for name in names],
        "files": [entry(path, str(path.relative_to(folder))) for path in paths],
    }


def entry(path: Path, name: str) -> dict[str, Any]:
    """A file's line of the manifest."""
    return {"name": name, "bytes": path.stat().st_size, "sha256": unpack.sha256_of(path)}


def revision() -> str:
    """Of this tree; of the one that a kit was made of, in the kit."""
    if (manifest := REPOSITORY / "manifest.json").exists():
        return str(json.loads(manifest.read_text())["revision"])
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def prepare(out: Path, python: str, there: set[str]) -> dict[str, Any]:
    """Write parts, manifest and ``unpack.py`` into an empty folder; the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"{out}: expected an empty folder, found files; give another one, or empty it")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        collect_wheels(folder / "wheels", python, there)
        for name, pattern in (("benchmarks", "*.py"), ("exported_models", "*")):
            for path in (REPOSITORY / name).rglob(pattern):
                if path.is_file():
                    copy = folder / "kit" / path.relative_to(REPOSITORY)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        packed = pack(folder, out)
    wheels = [e["name"].rpartition("/")[2] for e in packed["files"] if e["name"].endswith(".whl")]
    manifest = {
        "revision": revision(),
        "python": python,
        "requirements": requirements(REPOSITORY),
        "wheels": wheels,
        **packed,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copyfile(Path(unpack.__file__), out / "unpack.py")
    return manifest


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for the parts")
    parser.add_argument("--python", default="3.12", help="version of the Python there (default 3.12)")
    parser.add_argument("--there", type=Path, metavar="FILE", help="the packages there, as pip freeze prints them")
    args = parser.parse_args()
    there = {name_of(line) for line in args.there.read_text().splitlines()} if args.there else set()
    manifest = prepare(args.out, args.python, there)
    size = sum(part["bytes"] for part in manifest["parts"]) / 1e6
    print(
        f"{len(manifest['wheels'])} wheels, {size:.0f} MB in {len(manifest['parts'])} parts; there: python3 unpack.py"
    )


if __name__ == "__main__":
    main()
