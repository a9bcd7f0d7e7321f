"""``frazil reject`` and ``frazil labels ...``: correct picks without the page, and with other programs."""

from __future__ import annotations

import getpass
import uuid
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from frazil.commands import complain
from frazil.commands.ledger import Where
from frazil.errors import FrazilError, MicrographError, printable

__all__ = ["labels_app", "reject"]

labels_app = typer.Typer(
    name="labels", help="Exchange picks with programs in which people pick by hand.", no_args_is_help=True
)
_HERE = Path()
_NAMED = 10
_FORMATS = "star, box, cbox, topaz, csv"

By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who says so. Default: the name of the user.", show_default=False),
]


def reject(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME", help="Micrographs, by full path, as the ledger has them, or as a pattern in quotes."
        ),
    ],
    undo: Annotated[bool, typer.Option("--undo", metavar="", help="Take the mark away; the picks come back.")] = False,
    where: Where = _HERE,
    by: By = None,
) -> None:
    """Mark micrographs as bad: they have no picks until the mark is taken away.

    It holds also when they are picked again. In a pattern, * stands for any letters, folders included.
    """
    from frazil.session.correct import MarkMicrograph
    from frazil.session.outbox.daemon_info import DaemonInfo, ledger_key
    from frazil.session.outbox.ledger import LedgerReader, leave_edits, ledger_file

    with LedgerReader(ledger_file(where)) as reader:
        info = DaemonInfo.of(reader)
        keys: dict[str, None] = {}
        for name in names:
            key = ledger_key(Path(name), info)
            if reader.micrograph(key) is not None:
                keys[key] = None
            elif any(sign in key for sign in "*?[") and (found := reader.matching(key)):
                keys |= dict.fromkeys(found)
            else:
                raise FrazilError(
                    f"{key}: expected a micrograph that {reader.file} knows, or a pattern of some; found none"
                )
    mark: Literal["", "bad"] = "" if undo else "bad"
    edits = [MarkMicrograph(id=uuid.uuid4().hex, path=key, mark=mark) for key in keys]
    left = leave_edits(ledger_file(where), edits, by=_name(by))
    typer.echo(f"{left.accepted} no longer marked" if undo else f"{left.accepted} marked bad")


@labels_app.command("export")
def export_labels(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files; made if missing.")],
    where: Where = _HERE,
    formats: Annotated[
        str, typer.Option("--format", metavar="FORMAT[,FORMAT]", help=f"Formats of the files: {_FORMATS}.")
    ] = "star",
    good: Annotated[bool, typer.Option("--good", metavar="", help="Only micrographs that are marked good.")] = False,
    corrected: Annotated[
        bool, typer.Option("--corrected", metavar="", help="Only micrographs that somebody corrected or marked.")
    ] = False,
) -> None:
    """Write the picks as they are now, corrections included, in formats of other programs."""
    from frazil.labels import LabelFormat, labelled_documents
    from frazil.pick_files import PickFileWriter
    from frazil.session.outbox.ledger import LedgerReader, ledger_file

    wanted = [name.strip() for name in formats.split(",")]
    known: tuple[LabelFormat, ...] = get_args(LabelFormat)
    if unknown := [name for name in wanted if name not in known]:
        raise FrazilError(f"--format: expected formats among {_FORMATS}, found {unknown[0]!r}")
    with LedgerReader(ledger_file(where)) as reader:
        writers = [PickFileWriter(out, name) for name in known if name in wanted]
        count = picks = failures = 0
        for document in labelled_documents(reader, mark="good" if good else "", only_corrected=corrected):
            for writer in writers:
                try:
                    writer.write(document)
                except MicrographError as error:
                    failures += 1
                    complain(error)
            count, picks = count + 1, picks + len(document.picks.score)
        waiting = reader.waiting_edits()
    typer.echo(f"{picks} picks of {count} micrographs written to {out}")
    if waiting:
        typer.echo(f"{waiting} edits wait for the daemon and are not in them", err=True)
    if failures:
        raise typer.Exit(1)


@labels_app.command("import")
def import_labels(
    given: Annotated[
        list[Path], typer.Argument(metavar="DIR_OR_FILE", help="Files with labels, or folders of such files.")
    ],
    where: Where = _HERE,
    y_axis: Annotated[
        Literal["down", "up"], typer.Option("--y-axis", help="Whether y grows from a file's first row, or its last.")
    ] = "down",
    file_format: Annotated[
        Literal["star", "box", "cbox", "topaz", "csv"] | None,
        typer.Option("--format", help="Only files of this format.", show_default=False),
    ] = None,
    by: By = None,
) -> None:
    """Make the picks what label files say: the difference becomes corrections, which the daemon applies.

    Files of RELION, EMAN, crYOLO's box manager, napari-boxmanager, Topaz, or plain tables; the ending says which. A
    label within a quarter of the particle's diameter of a pick is that pick.
    """
    from frazil.labels import import_labels as read
    from frazil.session.outbox.ledger import LedgerReader, ledger_file

    with LedgerReader(ledger_file(where)) as reader:
        done = read(reader, given, y_axis=y_axis, file_format=file_format, by=_name(by))
    for line in done.passed_over[:_NAMED]:
        typer.echo(printable(f"passed over: {line}"), err=True)
    if len(done.passed_over) > _NAMED:
        typer.echo(f"passed over: {len(done.passed_over) - _NAMED} more", err=True)
    typer.echo(
        f"{done.micrographs} micrographs compared, {done.changed} corrected: "
        f"{done.added} picks added, {done.deleted} deleted"
    )


def _name(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
