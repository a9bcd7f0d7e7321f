"""The command of the suite."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.speed import latency, memory, peers, scaling, stages, start, straightforward, throughput
from benchmarks.speed.bench import SCALES, Bench
from benchmarks.speed.done_when import judge
from benchmarks.speed.pictures import PICTURES
from benchmarks.speed.report import Circumstances, Measured, Report, read_report, write_report
from benchmarks.speed.tables import make_table
from frazil.model import available_cores

_REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
_PAGE = _REFERENCE / "benchmarks.md"
_REPORT_FILE = _REFERENCE / "speed" / "speed.json"
_PLACE = re.compile(r"(<!-- speed: ([\w-]+) -->\n).*?(<!-- speed: end -->)", re.DOTALL)
"""What stands between two comments of the page comes from the report, the rest is prose."""

SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "start": start.measure,
    "stages": stages.measure,
    "memory": memory.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "scaling": scaling.measure,
    "straightforward": straightforward.measure,
    "peers": peers.measure,
}


def main() -> int:
    """Measure, or make the pages from what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="How fast frazil is, beside the floor and other pickers."
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section; may be repeated")
    parser.add_argument("--quick", action="store_const", dest="scale", const="quick", help="in a few minutes, roughly")
    parser.add_argument("--scale", choices=SCALES, help="how much is measured (default full)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: every core")
    parser.add_argument("--json", type=Path, default=_REPORT_FILE, help="the report (default: the one in the docs)")
    parser.add_argument("--folder", type=Path, help="where micrographs are put; default: where the system puts such")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="measure nothing; make tables and pictures from the report")
    made.add_argument("--check", action="store_true", help="measure nothing; are tables and pictures what it gives?")
    parser.set_defaults(scale="full")  # of both options
    args = parser.parse_args()
    report = read_report(args.json)
    if args.pages:
        report.done_when = judge(report)
        write_report(args.json, report)
        for file, content in _make_pages(report).items():
            file.parent.mkdir(exist_ok=True)
            file.write_text(content, "utf-8")
        return 0
    if args.check:
        return _check(report)
    _measure(args, report)
    return 0


def _measure(args: argparse.Namespace, report: Report) -> None:
    """Measure sections, and write the report after each, so that nothing measured is lost."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for number, name in enumerate(args.only or SECTIONS, start=1):
            task = progress.add_task(name)

            def say(text: str) -> None:
                progress.update(task, description=f"{name}: {text}")  # noqa: B023 - called in this turn only

            started = time.monotonic()
            with tempfile.TemporaryDirectory(dir=args.folder, prefix="frazil-speed-") as folder:
                bench = Bench(
                    folder=Path(folder),
                    scale=SCALES[args.scale],
                    threads=args.threads,
                    say=say,
                )
                figures = SECTIONS[name](bench)
            seconds = time.monotonic() - started
            by = Circumstances.now(threads=args.threads, scale=args.scale, seconds=seconds)
            setattr(report, name, Measured(by=by, figures=figures))
            report.done_when = judge(report)
            write_report(args.json, report)
            progress.remove_task(task)
            console.print(f"{number}. {name}: measured in {seconds:.0f} s")
    for line in report.done_when:
        if line.holds is False:
            console.print(f"[red]does not hold:[/] {line.what}: {line.measured:g} {line.unit}, {line.bound}")
    console.print(f"{args.json}; tables and pictures: python -m benchmarks.speed --pages")


def _make_pages(report: Report) -> dict[Path, str]:
    """Every file that is made from the report, with what belongs into it.

    Raises:
        KeyError: the page has a place for a table that there is not.
    """
    page = _PLACE.sub(
        lambda place: f"{place[1]}\n{make_table(report, place[2])}\n\n{place[3]}", _PAGE.read_text("utf-8")
    )
    pages = {_PAGE: page}
    if report.stages is not None:
        pages |= {_REPORT_FILE.parent / name: draw(report) for name, draw in PICTURES.items()}
    return pages


def _check(report: Report) -> int:
    if report.done_when != judge(report):
        sys.exit("done_when: not what the figures give; run python -m benchmarks.speed --pages")
    stale = [
        file.name
        for file, content in _make_pages(report).items()
        if not file.exists() or file.read_text("utf-8") != content
    ]
    if stale:
        sys.exit(f"{', '.join(stale)}: not what the report gives; run python -m benchmarks.speed --pages")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
