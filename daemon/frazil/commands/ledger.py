"""``frazil status``, ``requeue`` and ``ledger ...``: read and repair a ledger, also while its daemon runs."""

from __future__ import annotations

import csv
import glob
import sys
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from frazil.errors import FrazilError, RetuneError, printable

if TYPE_CHECKING:
    from frazil.documents import MicrographDocument
    from frazil.health.state import DaemonState
    from frazil.session.intake.passed_over import Inventory
    from frazil.session.outbox.daemon_info import DaemonInfo
    from frazil.session.outbox.ledger import LedgerReader, State

__all__ = ["ledger_app", "requeue", "status"]

ledger_app = typer.Typer(
    name="ledger", help="Read, check, repair and archive the records of all micrographs.", no_args_is_help=True
)

Where = Annotated[
    Path, typer.Option("--ledger", metavar="PATH", help="The ledger, or the output directory that holds it.")
]


class StateName(StrEnum):
    """States of a micrograph, as the command line takes them."""

    SEEN = "seen"
    WAITING = "waiting"
    PICKED = "picked"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    GONE = "gone"


States = Annotated[
    list[StateName] | None, typer.Option("--state", help="Only micrographs in this state; may be given again.")
]
Below = Annotated[str, typer.Option("--below", metavar="PREFIX", help="Only paths with this beginning.")]
_HERE = Path()


def status(
    where: Where = _HERE,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print it as one line of JSON.")] = False,
    passed_over: Annotated[
        bool,
        typer.Option("--passed-over", metavar="", help="Show only what is passed over: by reason, with some names."),
    ] = False,
) -> None:
    """Show the daemon's present work, and the number of micrographs in each state. The daemon need not run."""
    import msgspec

    from frazil.health.state import DaemonState
    from frazil.page.troubles import find_troubles, gather_facts
    from frazil.session.outbox.daemon_info import DaemonInfo
    from frazil.session.outbox.ledger import TUNED_KEY

    with _open(where) as reader:
        meta, counts, last = reader.meta(), reader.counts(), reader.last_picked()
        threshold = None if last is None else _read_threshold(reader, meta)
        not_picked = [*reader.newest_failures(5), *reader.micrographs(["waiting"], limit=5)]
        info = DaemonInfo.of(reader)
        facts = gather_facts(reader, counts, time.time())
        waiting_edits = reader.waiting_edits()
    if passed_over:
        _show_passed_over(facts.inventory, as_json=as_json)
        return
    tuned = None
    if remembered := meta.get(TUNED_KEY):
        from frazil.session.retune import RevisionProgress  # here, since it imports all of picking, which takes time

        tuned = RevisionProgress.decode(remembered)
    state = info.ask() if info else None
    troubles = find_troubles(state or DaemonState(), facts, time.time())
    if as_json:
        typer.echo(
            msgspec.json.encode(
                {
                    "running": state is not None,
                    "daemon": info,
                    "micrographs": counts,
                    "last_picked": last,
                    "threshold": threshold,
                    "tuned": tuned,
                    "waiting_edits": waiting_edits,
                    "troubles": troubles,
                    "inventory": facts.inventory,
                    "metrics": info.samples() if info and state else None,
                }
            )
        )
        return
    typer.echo(_describe_daemon(info, state))
    for trouble in troubles:
        word = "TROUBLE" if trouble.level == "fault" else "look"
        typer.echo(f"{word}: {printable(trouble.says)}. {printable(trouble.todo)}")
    if state is not None and state.session is None:
        typer.echo("now: not known, since this daemon is of an earlier version; a restart makes it this one")
    elif state is not None and state.session is not None:
        if not troubles:
            typer.echo("nothing needs you" + (f" but {facts.failed} that could not be picked" if facts.failed else ""))
        queues = state.session.queues
        typer.echo("now: " + ", ".join(f"{queues[queue]} {says}" for queue, says in _QUEUES))
    typer.echo("micrographs: " + (", ".join(f"{counts[s]} {s}" for s in StateName if counts.get(s)) or "none"))
    if layout := facts.inventory.describe_layout():
        typer.echo(f"layout: {layout}")
    if facts.inventory.passed_over:
        typer.echo(f"passed over: {facts.inventory.describe_passed_over()}")
    if last is not None:
        typer.echo(f"last picked: {printable(last.path)}, {_when(last.picked_at)} (sequence number {last.seq})")
    if threshold is not None:
        typer.echo(f"threshold: {threshold['value']:g}, {threshold['says']}")
    if tuned is not None and (tuned.change.is_tuned or tuned.revised or not tuned.is_done):
        typer.echo(tuned.describe())
    if waiting_edits:
        wait = "1 edit of picks waits" if waiting_edits == 1 else f"{waiting_edits} edits of picks wait"
        typer.echo(f"{wait} to be applied: by the daemon, once it runs and their micrographs are picked")
    for record in not_picked:
        typer.echo(f"{record.state}: {printable(record.path)}: {record.reason or 'incomplete'}")


def _read_threshold(reader: LedgerReader, meta: dict[str, str]) -> dict[str, Any] | None:
    """The threshold of the newest result and how it came about; None where no result is whole."""
    import msgspec

    from frazil.session.outbox.ledger import CHOICE_KEY, TUNED_KEY
    from frazil.session.retune import RevisionProgress, SessionChoice, describe_threshold
    from frazil.session.retune.repick import newest_document

    try:
        document = newest_document(reader)
    except RetuneError:
        return None
    progress = RevisionProgress.decode(meta.get(TUNED_KEY, ""))
    choice = SessionChoice.decode(meta.get(CHOICE_KEY, ""))
    says = describe_threshold(document, progress.change if progress else None, choice)
    chosen = None if isinstance(document.chosen, msgspec.UnsetType) else document.chosen
    return {"value": document.threshold, "says": says, "chosen": chosen}


def _show_passed_over(inventory: Inventory, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(inventory))
        return
    typer.echo(
        f"layout: {inventory.describe_layout() or 'any'}; micrographs are {', '.join(inventory.include) or 'none'}"
    )
    typer.echo(f"{inventory.taken} taken")
    for (reason, passed), line in zip(inventory.by_reason(), inventory.passed_over_lines(0), strict=True):
        typer.echo(f"{reason}: {line}")
        for name in passed.names:
            typer.echo(f"  {printable(name)}")
    if inventory.advice:
        typer.echo(inventory.advice)


def requeue(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", help="Micrographs, by full path, as the ledger has them, or as a pattern in quotes."
        ),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", metavar="", help="All that failed or are in quarantine.")] = False,
    held: Annotated[
        bool, typer.Option("--held", metavar="", help="All that are held, being unlike the session's.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="All in this directory and below it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", metavar="", help="All of the session.")] = False,
    where: Where = _HERE,
) -> None:
    """Request that micrographs are picked again: within seconds if the daemon runs, else at its next start.

    In a pattern, * stands for any letters, folders included: 'GridSquare_7/*', '*_0042.mrc'.
    """
    from frazil.session.outbox.daemon_info import DaemonInfo, ledger_key
    from frazil.session.outbox.ledger import ledger_file, request_requeue

    if not (paths or failed or held or directory or every):
        raise FrazilError(
            "expected micrographs, or one of --failed, --held, --directory and --all, found none of these"
        )
    with _open(where) as reader:
        info = DaemonInfo.of(reader)
        given = [ledger_key(Path(path), info) for path in paths or []]
        known = {key for key in given if reader.micrograph(key) is not None}
    patterns = [key for key in given if key not in known and any(sign in key for sign in "*?[")]
    if directory is not None:
        below = ledger_key(directory, info)
        patterns.append("*" if below == "." else f"{glob.escape(below)}/*")
    if every:
        patterns.append("*")
    keys = [key for key in given if key not in patterns]
    states: list[State] = ["failed", "quarantined"] if failed else []
    count = request_requeue(ledger_file(where), keys, states, patterns=patterns, held=held)
    typer.echo(f"{count} to be picked again")


@ledger_app.command("list")
def list_micrographs(
    where: Where = _HERE,
    states: States = None,
    below: Below = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Largest number of micrographs.")] = None,
) -> None:
    """List micrographs with their state, one in each line."""
    with _open(where) as reader:
        for record in reader.micrographs([s.value for s in states or []], below=below, limit=limit):
            seq = "" if record.seq is None else str(record.seq)
            when = _when(record.picked_at or record.seen_at)
            reason = f"  {record.reason}" if record.reason else ""
            typer.echo(f"{record.state:<11}  {seq:>7}  {when:<19}  {printable(record.path)}{reason}")


@ledger_app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A micrograph, by full path or as the ledger has it.")],
    where: Where = _HERE,
) -> None:
    """Show the ledger's record of one micrograph, and all its results."""
    from frazil.documents import MicrographDocument
    from frazil.session.outbox.daemon_info import DaemonInfo, ledger_key

    with _open(where) as reader:
        info = DaemonInfo.of(reader)
        key = ledger_key(path, info)
        record = reader.micrograph(key)
        if record is None:
            raise FrazilError(f"{key}: expected a micrograph that {reader.file} knows, found none")
        for name in record.__struct_fields__:
            value = getattr(record, name)
            shown = _when(value) if name.endswith("_at") else "" if value is None else str(value)
            typer.echo(f"{name:<13} {printable(shown)}".rstrip())
        for seq, _ in reader.history(key):
            stored = reader.document(seq)
            document = stored.decode() if stored else None
            if document is None:
                typer.echo(f"result {seq:<7} is damaged and cannot be read")
            if isinstance(document, MicrographDocument):
                kept = reader.score_map(seq)
                map_says = f", score map of {len(kept)} bytes" if kept else ""
                model = f"{document.model.name}/{document.model.version}"
                typer.echo(
                    f"result {seq:<7} {len(document.picks.score)} picks by {model} {document.picked_at}{map_says}"
                    + printable(_describe_corrections(document))
                )


def _describe_corrections(document: MicrographDocument) -> str:
    """What people changed in a result, as the end of a line; empty where nobody did."""
    import msgspec

    if isinstance(document.corrections, msgspec.UnsetType):
        return ""
    one = document.corrections
    parts = [
        f"{len(one.added)} added" if one.added else "",
        f"{one.deleted} deleted" if one.deleted else "",
        f"{len(one.junk)} outlines of junk" if one.junk else "",
        f"marked {one.mark}" if one.mark else "",
    ]
    by = f" by {', '.join(one.by)}" if one.by else ""
    return f", corrected{by}: {', '.join(part for part in parts if part) or 'no pick changed'}"


@ledger_app.command()
def export(
    where: Where = _HERE,
    states: States = None,
    below: Below = "",
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="Format of the records.")] = "jsonl",
    documents: Annotated[
        bool,
        typer.Option(
            "--documents", metavar="", help="Print the documents with the picks, as JSON lines, instead of the records."
        ),
    ] = False,
) -> None:
    """Print the records of micrographs as JSON lines or CSV; times are seconds of Unix time."""
    import msgspec

    from frazil.session.outbox.ledger import MicrographRecord

    with _open(where) as reader:
        if documents:
            for stored in reader.documents():
                if stored.decode() is None:
                    typer.echo(f"skipped document {stored.seq}, which is damaged", err=True)
                else:
                    typer.echo(stored.body)
            return
        records = reader.micrographs([s.value for s in states or []], below=below)
        if form == "csv":
            writer = csv.writer(sys.stdout)
            writer.writerow(MicrographRecord.__struct_fields__)
            writer.writerows(msgspec.structs.astuple(record) for record in records)
        else:
            for record in records:
                typer.echo(msgspec.json.encode(record))


@ledger_app.command()
def baseline(where: Where = _HERE) -> None:
    """Begin a new baseline: later picks and scores are compared with those of the next micrographs."""
    from frazil.session.outbox.ledger import ledger_file, request_baseline

    request_baseline(ledger_file(where))
    typer.echo("the next micrographs become the baseline")


@ledger_app.command()
def archive(
    to: Annotated[
        Path,
        typer.Option("--to", metavar="FILE", help="The archive, a ledger as well; results are added if it exists."),
    ],
    where: Where = _HERE,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="DAYS", help="Only results older than this number of days.")
    ] = 0,
    below: Below = "",
) -> None:
    """Move old results into another file, also while the daemon runs.

    The records of existing micrographs stay in the ledger, so that these are not picked again.
    """
    from frazil.session.outbox.ledger import archive as move
    from frazil.session.outbox.ledger import ledger_file

    moved = move(ledger_file(where), to, before=time.time() - timedelta(days=older_than).total_seconds(), below=below)
    typer.echo(f"{moved.results} results and {moved.micrographs} records of files that are gone moved to {to}")


@ledger_app.command()
def check(where: Where = _HERE) -> None:
    """Read all of the ledger, and report any damage. The daemon may run meanwhile."""
    from frazil.session.outbox.ledger import check as read_all
    from frazil.session.outbox.ledger import ledger_file

    file = ledger_file(where)
    found = read_all(file)
    states = ", ".join(f"{found.counts[s]} {s}" for s in StateName if found.counts.get(s)) or "none"
    typer.echo(f"micrographs: {states}")
    typer.echo(f"documents: {found.documents}, up to number {found.head}, in {found.generations} generations")
    if found.edits:
        typer.echo(f"edits of picks: {found.edits}")
    if found.qualities:
        typer.echo(f"micrographs that were assessed: {found.qualities}")
    if found.missing.all:
        typer.echo(f"numbers without a document, archived or lost before: {found.missing}")
    for fault in found.faults:
        typer.echo(f"DAMAGED: {printable(fault)}")
    if found.faults:
        raise FrazilError(
            f"{file}: expected a whole ledger; stop its daemon, then: frazil ledger rebuild --ledger {file}"
        )
    typer.echo("all of it can be read")


@ledger_app.command()
def rebuild(
    where: Where = _HERE,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The output directory, if it is not the one in the ledger."),
    ] = None,
) -> None:
    """Make a new ledger from the readable parts of a damaged one and of .bak copies beside it. No daemon may run.

    Nothing is deleted: the damaged file is kept. A micrograph whose result is lost is picked again at the next start.
    """
    from frazil.session.outbox.ledger import ledger_file
    from frazil.session.outbox.ledger import rebuild as build

    file = ledger_file(where)
    built = build(file, out=out)
    typer.echo(f"{file}: {built.documents} documents, {built.micrographs} micrographs, {built.score_maps} score maps")
    if built.edits:
        typer.echo(f"{built.edits} edits of picks")
    if built.from_copies:
        typer.echo(f"{built.from_copies} of these documents were only in a copy")
    if built.lost.all:
        typer.echo(f"lost: documents {built.lost}; subscribers are informed")
    if built.again:
        typer.echo(f"{len(built.again)} micrographs are picked again, such as {printable(built.again[0])}")
    if built.aside is not None:
        typer.echo(f"the damaged ledger is kept: {built.aside}")


@ledger_app.command("set-watch")
def set_watch(
    watch: Annotated[Path, typer.Argument(metavar="DIR", help="The present path of the watched directory.")],
    where: Where = _HERE,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Even if none of its micrographs is there.")
    ] = False,
) -> None:
    """Change the watched directory of a ledger after it was moved, renamed or mounted elsewhere. No daemon may run."""
    from frazil.session.outbox.daemon_info import move_watch
    from frazil.session.outbox.ledger import ledger_file

    file = ledger_file(where)
    watch = watch.expanduser().resolve()
    before = move_watch(file, watch, force=force)
    typer.echo(f"{file}: of {watch} from now on, before of {before}")


_QUEUES = (
    ("incomplete", "incomplete"),
    ("read", "in line"),
    ("pick", "being picked"),
    ("write", "being written"),
)


def _open(where: Path) -> LedgerReader:
    from frazil.session.outbox.ledger import LedgerReader, ledger_file

    return LedgerReader(ledger_file(where))


def _describe_daemon(info: DaemonInfo | None, state: DaemonState | None) -> str:
    if info is None:
        return "no daemon has used this ledger yet"
    if state is not None:
        session = state.session
        finds = session.junk_model if session is not None else None
        junk = f", junk by {finds.describe()}" if finds is not None else ""
        return (
            f"running since {_when(info.started_at)} (process {info.pid}): watching {info.watch}, "
            f"{info.model} on {info.provider} in {info.precision}{junk}, "
            f"publishing on {info.stream}; the page is {info.page}"
        )
    if info.stopped_at is not None:
        return f"not running: stopped {_when(info.stopped_at)}"
    if Path(f"/proc/{info.pid}/comm").is_file():
        return f"process {info.pid}, started {_when(info.started_at)}, does not answer at {info.metrics}"
    return f"not running: it was started {_when(info.started_at)} and did not end in order"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
