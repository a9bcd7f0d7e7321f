"""Measure on a GPU, part by part; each in a process of its own, cut off at its time.

python -m benchmarks.gpu.run --out DIR

Results are lines of DIR/results.jsonl. What is there already is not measured again: a run that was cut off, by
`--seconds` or otherwise, goes on with the next command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.machine import describe
from benchmarks.gpu.prepare import revision
from benchmarks.gpu.results import Results
from benchmarks.gpu.scale import SCALES

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS_SECONDS = {"picks": 180, "bench": 500, "backlog": 240, "swaps": 500, "memory": 300, "train": 500}
"""Parts in their order, and what each may take of one command."""


def run_part(command: list[str], work: Path, seconds: float) -> str | None:
    """Run a part with all that it starts, killed after so many seconds; what went wrong, if anything."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200", "TMPDIR": str(work)}
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, env=environment)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"cut off after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"its process ended with status {status}" if status else None


def main() -> int:
    """Measure what is missing; whether all is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results.jsonl")
    parser.add_argument("--parts", default=",".join(LIMITS_SECONDS), help="some of these (default: all)")
    parser.add_argument("--seconds", type=float, default=560, help="that this command may take (default 560)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "frazil-gpu", help="micrographs")
    args = parser.parse_args()
    parts = args.parts.split(",")
    if unknown := sorted(set(parts) - LIMITS_SECONDS.keys()):
        parser.error(f"--parts: expected some of {', '.join(LIMITS_SECONDS)}, found {', '.join(unknown)}")
    deadline = time.monotonic() + args.seconds
    out, work = args.out.resolve(), args.work.resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.jsonl")
    facts = {"device": args.device, "scale": args.scale, "revision": revision(), "date": time.strftime("%Y-%m-%d")}
    results.add("machine", "", describe() | facts)
    failed = False
    for part in parts:
        options = ["--device", args.device, "--scale", args.scale, "--work", work]
        command = [sys.executable, "-m", "benchmarks.gpu.parts", part, "--out", out, *options]
        seconds = max(1.0, min(LIMITS_SECONDS[part], deadline - time.monotonic()))
        started = time.monotonic()
        problem = run_part([*map(str, command)], work, seconds)
        ended = {"failed": problem} if problem else {"seconds": round(time.monotonic() - started, 1)}
        results.add(part, "", ended)
        print(f"{part}: {problem or 'done'}", flush=True)
        failed |= problem is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
