"""``frazil repick``: a whole archive read and picked again, by workers on this machine or a cluster."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frazil.errors import SettingsError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from frazil.cluster.repick import Repick

__all__ = ["repick"]

_SHARED_FOLDER = ".frazil-cluster"
"""In the output directory: certificates and logs of Slurm jobs."""
_CLUSTER_OPTIONS = ("workers", "threads_per_worker", "gpus_per_worker")


def repick(
    *,
    watch: Annotated[
        str | None,
        typer.Option(
            "--watch",
            metavar="DIR",
            help="Directory with the micrographs; a glob pattern of micrographs or directories, in quotes; or a STAR "
            "file that names them.",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster",
            metavar="local|slurm|tcp://...",
            help="Where the workers are: the address is that of a Dask scheduler.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="COUNT",
            min=1,
            help="Number of workers. Default: a core for each thread.",
            show_default=False,
        ),
    ] = None,
    threads_per_worker: Annotated[
        int | None,
        typer.Option(
            "--threads-per-worker", metavar="COUNT", min=1, help="CPU threads of each. Default: 1.", show_default=False
        ),
    ] = None,
    gpus_per_worker: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-worker", metavar="COUNT", min=0, help="GPUs of each Slurm job. Default: 0.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Do only what an earlier run has left; all, if there was none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the summary as one line of JSON.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file with settings, and a table of the cluster."),
    ] = None,
    **given: Any,
) -> None:
    """Pick a whole archive again, with many workers. WATCH, OUT and DIAMETER are needed, here or in the file.

    OUT is a directory of its own, or that of the session of WATCH. Then each micrograph gets a new result there, which
    supersedes the one before. While a daemon uses it, that daemon commits the results, and goes on picking what is new.

    A micrograph that cannot be picked gets one line with the reason and a document. The exit status is then 1.
    """
    from frazil.settings import load_cluster_settings, load_settings

    asked = {"workers": workers, "threads_per_worker": threads_per_worker, "gpus_per_worker": gpus_per_worker}
    cluster_settings = load_cluster_settings(asked, config)
    settings = load_settings({**given, "watch": None if watch is None else Path(watch).parent}, config)
    if settings.root is not None:
        raise SettingsError(
            "root: expected one session, found a microscope: give --watch and --out of one of its sessions"
        )
    from frazil.cluster.engine import open_engine
    from frazil.cluster.repick import Repick

    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    with _shown() as shown:
        run = Repick(
            watch or str(settings.watch),
            settings,
            threads=cluster_settings.threads_per_worker,
            resume=resume,
            say=shown.say,
            show=shown.show,
        )
        with contextlib.closing(run):
            run.open()
            shown.begin(run)
            if not run.is_done():
                with open_engine(cluster, cluster_settings, settings.out.resolve() / _SHARED_FOLDER) as engine:
                    run.run(engine)
    seconds = time.monotonic() - started
    if as_json:
        _print_json(run, seconds)
    else:
        _draw(run, seconds)
    if run.tally.failed or run.tally.left or "unreadable" in run.inventory.passed_over:
        raise typer.Exit(1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class _Shown:
    """The bar on stderr, and lines above it."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._console = console
        self._run: Repick | None = None
        self._task = self._bar.add_task("Picking", total=None, rate="", note="")
        self._first: tuple[float, int] | None = None

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(
            printable(f"frazil: {' '.join(line.split())}"), markup=False, highlight=False, soft_wrap=True
        )

    def begin(self, run: Repick) -> None:
        """Show the bar of a run."""
        self._run = run
        self.say(f"{run.tally.total} micrographs below {run.source.root}, with model {run.model.short}")
        self._bar.start()

    def show(self) -> None:
        """Bring the bar up to date."""
        if self._run is None:
            return
        tally, now = self._run.tally, time.monotonic()
        worked = tally.picked + tally.failed.total()
        if worked and self._first is None:
            self._first = now, worked
        rate = ""
        if self._first is not None and now > self._first[0]:
            rate = f"{(worked - self._first[1]) / (now - self._first[0]):.2f}/s"
        failed = f"{tally.failed.total()} failed " if tally.failed else ""
        self._bar.update(
            self._task, total=tally.total, completed=tally.done, rate=rate, note=printable(f"{failed}{tally.waits_for}")
        )

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()


@contextlib.contextmanager
def _shown() -> Iterator[_Shown]:
    from rich.console import Console

    shown = _Shown(Console(stderr=True))
    try:
        yield shown
    finally:
        shown.end()


def _rate(run: Repick, seconds: float) -> float:
    return (run.tally.picked + run.tally.failed.total()) / seconds


def _print_json(run: Repick, seconds: float) -> None:
    import msgspec

    tally = run.tally
    record = {
        "micrographs": tally.total,
        "picked": tally.picked,
        "picks": tally.picks,
        "failed": dict(sorted(tally.failed.items())),
        "already": tally.already,
        "left": tally.left,
        "gone": tally.gone,
        "held": tally.held,
        "new": tally.new,
        "model": run.model,
        "threshold": run.threshold,
        "seconds": round(seconds, 3),
        "per_second": round(_rate(run, seconds), 3),
    }
    typer.echo(msgspec.json.encode(record))


def _draw(run: Repick, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    tally = run.tally
    table = Table("", "micrographs", box=None, show_header=False)
    rows = [
        ("picked", tally.picked),
        *((f"failed: {reason}", count) for reason, count in sorted(tally.failed.items())),
        ("done before", tally.already),
        ("held", tally.held),
        ("left to the daemon", tally.new),
        ("no longer there", tally.gone),
        ("left", tally.left),
    ]
    for name, count in rows:
        if count or name == "picked":
            table.add_row(name, str(count))
    table.add_row("picks", str(tally.picks))
    table.add_row("threshold", f"{run.threshold:g}")
    table.add_row("time", f"{seconds:.0f} s, {_rate(run, seconds):.2f} micrographs per second")
    console = Console()
    console.print(table)
    if run.inventory.passed_over:
        console.print(f"passed over: {run.inventory.describe_passed_over()}", markup=False, highlight=False)
    if tally.left:
        print("some are left: --resume takes them up", file=sys.stderr)  # noqa: T201
