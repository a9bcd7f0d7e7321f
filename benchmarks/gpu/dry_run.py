"""Does the kit work: packed, put together, installed and run here, on the CPU, with little data.

python -m benchmarks.gpu.dry_run

This Python stands for the one of the GPU machine. The rows go to docs/reference/gpu/dry-run.jsonl, for `pages`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.pages import FOLDER
from benchmarks.gpu.prepare import prepare

SECONDS = 3000


def main() -> int:
    """Pack, carry, install, run; the exit status of the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "dry-run.jsonl", help="file of the rows")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder / "parts", f"{sys.version_info.major}.{sys.version_info.minor}", set())
        parts = sorted((folder / "parts").glob("part-*"))
        # In two calls, as where a call carries only so much.
        unpack = [sys.executable, folder / "parts" / "unpack.py", "--to", folder / "there"]
        late = parts[-1].rename(folder / parts[-1].name)
        if subprocess.run(unpack, check=False).returncode == 0:
            raise SystemExit("expected a refusal of a kit whose last part is missing, found it installed")
        late.rename(parts[-1])
        subprocess.run(unpack, check=True)
        shutil.rmtree(folder / "parts")
        python, work = folder / "there" / "venv" / "bin" / "python", folder / "work"
        run = [python, "-m", "benchmarks.gpu.run", "--out", folder, "--work", work, "--seconds", str(SECONDS)]
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [*run, "--device", "cpu", "--scale", "dry"]
        status = subprocess.run(command, cwd=folder / "there" / "kit", env=bare, check=False).returncode
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "results.jsonl", out)
    return status


if __name__ == "__main__":
    sys.exit(main())
