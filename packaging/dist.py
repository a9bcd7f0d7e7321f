"""Builds the packages of frazil, checks each, and installs them as a user would: `make dist`.

Into dist/: wheel, source archive, and a list of all components with their licences (SBOM, CycloneDX). Both are built
twice and must be the same to the byte. The wheel goes into bare environments, where nothing of the checkout is: of pip,
of uv for the CPU alone, of pipx and of ``uv tool``. There it picks the known micrograph.

With ``--container BASE`` an image is built as well, by buildah from a base image that is there, such as one that was
made with ``mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm base.tar`` and
``buildah from scratch``. With ``--pythons`` the wheel is installed and tried with other versions of Python as well,
and with ``--emulated`` on ARM and with Python 3.14, which mmdebstrap and qemu-user-static bring.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
DIST = REPOSITORY / "dist"
EMULATED = (("3.11", "bookworm", "arm64", "aarch64"), ("3.14", "forky", "amd64", "x86_64"))
"""Version of Python; suite, architecture of Debian; that of Linux."""
ARM_PROCESSOR = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
CONDA_NAMES = {
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python-headless": "py-opencv",
    "prometheus-client": "prometheus_client",
}
CPU = REPOSITORY / "packaging" / "cpu.txt"


def main() -> int:
    """Do all of it, with a line for each step; return the number of steps that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--container", metavar="BASE", help="also build an image, from this one")
    parser.add_argument("--pythons", metavar="PYTHON", nargs="*", default=[], help="also install with these")
    parser.add_argument("--emulated", action="store_true", help="also pick with Pythons of Debian that qemu runs")
    asked = parser.parse_args()
    steps: list[tuple[str, Callable[[], str]]] = [
        ("wheel and source archive, built twice", build),
        ("twine check, check-wheel-contents", check_metadata),
        ("wheel from the source archive", check_source_archive),
        ("bare venv, by pip", install_by_pip),
        ("bare venv for the CPU alone, by uv", install_by_uv),
        ("pipx", lambda: install_as_tool("pipx")),
        ("uv tool", lambda: install_as_tool("uv")),
        ("SBOM", write_sbom),
        ("CITATION.cff", check_citation),
        ("conda recipe", check_recipe),
        ("Containerfile, linted", lambda: run("hadolint", REPOSITORY / "packaging" / "Containerfile") or "no findings"),
        ("Apptainer definition, read and linted", check_definition),
        ("Scipion's plugin", build_plugin),
    ]
    steps += [(f"bare venv of {python}", partial(install_by_uv, python)) for python in asked.pythons]
    if asked.emulated:
        steps += [(f"Python {one[0]} of Debian {one[1]}, {one[2]}", partial(pick_emulated, *one)) for one in EMULATED]
    if asked.container:
        steps.append(("container", lambda: build_container(asked.container)))
    failed = 0
    for name, step in steps:
        started = time.monotonic()
        try:
            said = step()
        except (subprocess.CalledProcessError, AssertionError, OSError) as error:
            failed += 1
            said = f"FAILED: {getattr(error, 'output', None) or error}"
        print(f"{name:<40} {time.monotonic() - started:5.0f} s   {said.strip()}", flush=True)
    return failed


def run(program: str | Path, *arguments: object, **options: object) -> str:
    """What a program says, of the tools or by its path; a failure raises."""
    beside = TOOLS / program
    command = [str(beside if beside.exists() else program), *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=1800, **options
    )  # type: ignore[call-overload]
    return str(done.stdout)


def build() -> str:
    """Build both packages twice; they must not differ."""
    epoch = run("git", "log", "-1", "--format=%ct", cwd=REPOSITORY).strip()
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as other:
        for out in (DIST, Path(other)):
            run("hatchling", "build", "-d", out, cwd=REPOSITORY, env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
        first, second = ({file.name: digest(file) for file in packages(Path(out))} for out in (DIST, other))
    assert first == second, f"expected the same twice, found {first} and {second}"
    return ", ".join(
        f"{file.name} {file.stat().st_size / 1e6:.1f} MB sha256 {digest(file)[:12]}" for file in packages()
    )


def check_metadata() -> str:
    """The packages as an index would look at them."""
    run("twine", "check", "--strict", *packages())
    # Two packages at the top are meant: the trainer is imported by its own name.
    run("check-wheel-contents", "--ignore", "W009", wheel())
    return "no findings"


def check_source_archive() -> str:
    """The wheel that the source archive gives has the files of ours."""
    archive = next(file for file in packages() if file.name.endswith(".tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(archive, folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        run("hatchling", "build", "-t", "wheel", "-d", folder, cwd=unpacked)
        names = [sorted(zipfile.ZipFile(one).namelist()) for one in (wheel(), next(Path(folder).glob("*.whl")))]
    assert names[0] == names[1], f"expected the same files, found {set(names[0]) ^ set(names[1])}"
    return f"{len(names[0])} files"


def install_by_pip() -> str:
    """As the README has it."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin" / "pip", "install", "--quiet", "--no-compile", wheel())
        return f"{megabytes(venv)} MB with pip; {try_it(venv / 'bin' / 'frazil')}"


def install_by_uv(python: str = sys.executable) -> str:
    """Without the libraries for GPUs."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        run("uv", "venv", "--quiet", "--python", python, venv)
        run("uv", "pip", "install", "--quiet", "--python", venv / "bin" / "python", "--overrides", CPU, wheel())
        version = run(venv / "bin" / "python", "--version").strip()
        return f"{version}, {megabytes(venv)} MB; {try_it(venv / 'bin' / 'frazil')}"


def install_as_tool(manager: str) -> str:
    """As a program of the user's own."""
    with tempfile.TemporaryDirectory() as folder:
        here = {
            "PIPX_HOME": f"{folder}/pipx",
            "PIPX_BIN_DIR": f"{folder}/bin",
            "UV_TOOL_DIR": f"{folder}/tools",
            "UV_TOOL_BIN_DIR": f"{folder}/bin",
        }
        command = ["uv", "tool", "install", "--quiet"] if manager == "uv" else ["pipx", "install", "--quiet"]
        run(*command, wheel(), env={**os.environ, **here})
        return try_it(Path(folder) / "bin" / "frazil")


def try_it(frazil: Path) -> str:
    """Run what a newcomer would, where nothing of the checkout is."""
    with tempfile.TemporaryDirectory() as folder:
        run(frazil, "--version", cwd=folder)
        run(frazil, "deploy", "prometheus", "--to", "rules", cwd=folder)
        service = ["--watch", folder, "--out", f"{folder}/out", "--diameter", 172, "--user", "daemon"]
        run(frazil, "install-service", "titan1", "--dry-run", *service, cwd=folder)
        run(frazil, "doctor", cwd=folder)  # a fault would be its exit status
        return next(line for line in run(frazil, "selftest", cwd=folder).splitlines() if "picks for" in line)


def write_sbom() -> str:
    """Every component of an installation with its version and licence."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        run("uv", "venv", "--quiet", "--python", sys.executable, venv)
        run("uv", "pip", "install", "--quiet", "--python", venv / "bin" / "python", wheel())
        out = DIST / wheel().name.replace("-py3-none-any.whl", ".cdx.json")
        run("cyclonedx-py", "environment", "--output-reproducible", "--of", "JSON", "-o", out, venv / "bin" / "python")
    return f"{out.name}, {out.read_text().count('purl')} components"


def check_citation() -> str:
    """By a checker that needs an environment of its own."""
    return run("uvx", "--quiet", "cffconvert@2.0.0", "--validate", "-i", REPOSITORY / "CITATION.cff").splitlines()[-1]


def check_recipe() -> str:
    """The recipe as conda-forge's builder reads it; it needs what the wheel needs."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {CONDA_NAMES.get(name, name) for name in (re.split("[>=;]", one)[0] for one in project["dependencies"])}
    recipe = (REPOSITORY / "packaging" / "conda" / "recipe.yaml").read_text()
    listed = recipe.partition("  run:")[2].partition("\ntests")[0]
    found = set(re.findall(r"^    - (\S+)", listed, re.MULTILINE)) - {"python"}
    assert found == needed, f"expected {sorted(needed)}, found {sorted(found)}"
    code = (
        "import sys, rattler_build\n"
        "recipe = rattler_build.Stage0Recipe.from_file(sys.argv[1])\n"
        "print(recipe.render()[0].recipe.requirements)"
    )
    return run(TOOLS / "python", "-c", code, REPOSITORY / "packaging" / "conda" / "recipe.yaml").strip()


def check_definition() -> str:
    """The definition as another program reads it, which makes a Containerfile of it; that is linted."""
    recipe = ["recipe", "--parser", "singularity", "--writer", "docker", REPOSITORY / "packaging" / "frazil.def"]
    with tempfile.NamedTemporaryFile("w", suffix=".Containerfile") as file:
        steps = run("uvx", "--quiet", "spython@0.3.14", *recipe).splitlines(keepends=True)
        file.writelines(line for line in steps if not line.startswith("HEALTHCHECK"))  # its form of a %test is none
        file.flush()
        # The translation copies with ADD, makes a step of each line of %post, and its CMD is a line of a shell.
        ignored = [f"--ignore={rule}" for rule in ("DL3008", "DL3009", "DL3020", "DL3025", "DL3059")]
        return run("hadolint", *ignored, file.name) or "no findings"


def build_plugin() -> str:
    """The plugin for Scipion, as a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        run("hatchling", "build", "-t", "wheel", "-d", folder, cwd=REPOSITORY / "packaging" / "scipion")
        (built,) = Path(folder).glob("*.whl")
        run("twine", "check", "--strict", built)
        run("check-wheel-contents", built)
        return built.name


def pick_emulated(version: str, suite: str, architecture: str, machine: str) -> str:
    """The wheel with the packages of another processor, or of a later Python; a minute or two for 512 x 512 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        include = "python3,python3-minimal,libstdc++6,zlib1g"
        options = ["--variant=extract", f"--architectures={architecture}", f"--include={include}"]
        # Suites that are not released have an end to their validity, which a mirror's may be past.
        run("mmdebstrap", *options, "--aptopt=Acquire::Check-Valid-Until false", suite, root)
        for name in ("lib", "lib64"):  # a script of Debian's would make them, which is not run
            if not (root / name).exists():
                (root / name).symlink_to(f"usr/{name}")
        packages = root / "opt" / "frazil"
        where = ["--target", packages, "--python-version", version, "--python-platform", f"{machine}-manylinux_2_28"]
        run("uv", "pip", "install", "--quiet", *where, "--only-binary", ":all:", "--overrides", CPU, wheel())
        # Programs look into these for the processor, and would find that of this machine.
        for name in ("possible", "present"):
            one = root / "sys" / "devices" / "system" / "cpu" / name
            one.parent.mkdir(parents=True, exist_ok=True)
            one.write_text("0\n")
        if machine == "aarch64":
            (root / "proc").mkdir(exist_ok=True)
            (root / "proc" / "cpuinfo").write_text(ARM_PROCESSOR)
        emulator = [f"qemu-{machine}-static", "-cpu", "cortex-a72" if machine == "aarch64" else "max", "-L", root]
        program = root / "usr" / "bin" / f"python{version}"
        command = "import sys; from frazil.commands.cli import main; sys.argv = ['frazil', 'selftest']; main()"
        environment = {**os.environ, "PYTHONPATH": str(packages), "OPENBLAS_NUM_THREADS": "1"}
        said = run(*emulator, program, "-c", command, env=environment)
        return next(line for line in said.splitlines() if "picks for" in line)


def build_container(base: str) -> str:
    """Build the image, and pick in it."""
    build = ["build", "--isolation", "chroot", "--build-arg", f"BASE={base}", "-f", "packaging/Containerfile"]
    run("buildah", *build, "-t", "frazil", ".", cwd=REPOSITORY)
    container = run("buildah", "from", "frazil").strip()
    try:
        said = run("buildah", "run", "--isolation", "chroot", container, "--", "/opt/frazil/bin/frazil", "selftest")
    finally:
        run("buildah", "rm", container)
    return next(line for line in said.splitlines() if "picks for" in line)


def packages(folder: Path = DIST) -> Sequence[Path]:
    """Wheel and source archive."""
    return sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])


def wheel() -> Path:
    """The wheel."""
    return next(DIST.glob("*.whl"))


def digest(file: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def megabytes(folder: Path) -> int:
    """Size of a folder's files."""
    return round(
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
    )


if __name__ == "__main__":
    sys.exit(main())
