"""``frazil listen``, ``frazil keys`` and ``frazil schema``: commands for subscribers."""

from __future__ import annotations

import sys
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frazil.commands import named
from frazil.errors import MicrographError, SettingsError, error_line, printable
from frazil.files import PickFileFormat

if TYPE_CHECKING:
    from frazil.documents import MicrographDocument, NumberedDocument
    from frazil.pick_files import PickFileWriter

__all__ = ["keys_app", "listen", "schema"]

keys_app = typer.Typer(name="keys", help="Keys for a stream that other machines may reach.", no_args_is_help=True)


class Kind(StrEnum):
    """Kinds of documents, as the command line takes them."""

    picks = "picks"
    quality = "quality"
    square = "square"
    advice = "advice"
    failed = "failed"
    model = "model"
    session = "session"


def listen(
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]ADDRESS...",
            help="ZeroMQ address of a daemon, such as tcp://127.0.0.1:5556; of several, names may be given: titan1=tcp://...",
        ),
    ],
    session: Annotated[
        list[str] | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Session of a microscope; may be given again. Default: all of them.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option("--since", min=0, help="First sequence number; 1 for everything. Default: from now on."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Remember the last document in this file, and go on after it."),
    ] = None,
    topics: Annotated[
        list[Kind] | None,
        typer.Option("--topic", help="Kind of documents; may be given again. Default: picks.", show_default=False),
    ] = None,
    directory: Annotated[
        str, typer.Option("--directory", help="Only this directory below the watched one.", show_default=False)
    ] = "",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Leave after this many documents.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, metavar="SECONDS", help="Leave after this time without a document."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Write files to this directory, instead of lines; below it by NAME of the daemon, and by session.",
            show_default=False,
        ),
    ] = None,
    file_format: Annotated[PickFileFormat, typer.Option("--format", help="Format of the files of --to.")] = "star",
    box_size: Annotated[
        int | None,
        typer.Option("--box-size", min=1, help="Size of boxes in .box and .cbox, in pixels. Default: the diameter."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print each document as a line of JSON.")] = False,
    replay: Annotated[
        list[str] | None,
        typer.Option(
            "--replay",
            metavar="[NAME=]ADDRESS",
            help="Address for earlier documents, if not the one that the daemon gives.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Own .key_secret file.", show_default=False)] = None,
    server_key: Annotated[
        list[str] | None,
        typer.Option(
            "--server-key",
            metavar="[NAME=]FILE",
            help="The daemon's .key file; may be given again, for each daemon by its name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the picks that daemons publish, or write them to files, each once and none missed, until Ctrl-C.

    A file that can never be written gets one line with the reason. The others are written nevertheless, and the exit
    status is 1. If no file can be written (a full disk), the command ends; with --resume the next one goes on there.
    """
    from frazil.client import PickStream
    from frazil.documents import MicrographDocument, encode_document

    names = dict(named(one) for one in addresses)
    if len(names) < len(addresses):
        raise SettingsError(f"expected every daemon once, with a name of its own, found {' '.join(addresses)}")
    is_fleet = len(names) > 1
    if is_fleet and to is not None and "://" in "".join(names):
        raise SettingsError("--to: expected a name for each of several daemons, such as titan1=tcp://..., found none")
    files = None if to is None else _Files(to, file_format, box_size)
    unwritten = 0
    with PickStream(
        names,
        session,
        topics=[kind.value for kind in topics or [Kind.picks]],
        since=since,
        resume=resume,
        directory=directory,
        replay=_of_each(replay, names),
        key=key,
        server_key=_of_each(server_key, names),
        timeout_seconds=timeout,
    ) as stream:
        for received, document in enumerate(stream, start=1):
            if files is not None and isinstance(document, MicrographDocument):
                try:
                    files.write(document, "" if "://" in stream.source else stream.source)
                except MicrographError as error:  # only this file cannot be written
                    unwritten += 1
                    typer.echo(error_line("frazil", error), err=True)
            elif as_json:
                typer.echo(_with_source(encode_document(document), stream.source if is_fleet else ""))
            else:
                source = f"{printable(stream.source)}  " if is_fleet else ""
                typer.echo(f"{source}{_line_of(document)}")
            sys.stdout.flush()
            if received == count:
                stream.acknowledge()
                break
    if unwritten:
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON Schema of the documents on the stream."""
    import msgspec

    from frazil.documents import document_schema

    typer.echo(msgspec.json.format(msgspec.json.encode(document_schema(), order="sorted")).decode())


@keys_app.command("new")
def new_keys(
    directory: Annotated[Path, typer.Argument(help="Directory for the pair; made if missing.")],
    name: Annotated[str, typer.Option("--name", help="Name of the two files.")] = "frazil",
) -> None:
    """Make a pair of keys, for a daemon or for one client.

    NAME.key is public; NAME.key_secret is for its owner alone. A daemon takes its own with --curve-key, and admits the
    clients whose .key files are in the directory of --curve-clients.
    """
    from frazil.keys import new_keys as make

    for file in make(directory, name):
        typer.echo(str(file))


class _Files:
    """Pick files below a directory, in a directory for each daemon that has a name, and for each of its sessions."""

    def __init__(self, directory: Path, file_format: PickFileFormat, box_size_px: int | None) -> None:
        self._directory, self._format, self._box_size_px = directory, file_format, box_size_px
        self._writers: dict[tuple[str, str], PickFileWriter] = {}
        self._writer()  # that the directory cannot be made is known at once

    def write(self, document: MicrographDocument, source: str) -> None:
        """Write the picks of one micrograph, from a daemon of this name."""
        self._writer(source, document.session).write(document)

    def _writer(self, source: str = "", session: str = "") -> PickFileWriter:
        from frazil.pick_files import PickFileWriter

        if (source, session) not in self._writers:
            # Names come over the network: no name may lead to a directory outside.
            parts = [part for part in (*Path(source).parts, *Path(session).parts) if part not in ("..", "/")]
            directory = self._directory.joinpath(*parts)
            self._writers[source, session] = PickFileWriter(directory, self._format, box_size_px=self._box_size_px)
        return self._writers[source, session]


def _of_each(values: list[str] | None, names: Collection[str]) -> str | dict[str, str] | None:
    """What an option is for each daemon, or the one value for all."""
    if not values:
        return None
    if len(values) == 1 and (len(names) == 1 or named(values[0])[0] not in names):
        name, value = named(values[0])
        return value if name in names else values[0]
    return dict(named(value) for value in values)


def _with_source(body: bytes, source: str) -> bytes:
    """A document in JSON, with the daemon that sent it as its first field."""
    import msgspec

    return b'{"source":' + msgspec.json.encode(source) + b"," + body[1:] if source else body


def _line_of(document: NumberedDocument) -> str:
    from frazil.documents import (
        AdviceDocument,
        FailedDocument,
        MicrographDocument,
        ModelDocument,
        QualityDocument,
        SessionDocument,
        SquareDocument,
    )

    match document:
        case MicrographDocument():
            picks, seconds = len(document.picks.score), document.seconds.total
            text = f"{picks:>5} picks  {seconds:6.2f} s  {document.micrograph}"
        case QualityDocument():
            why = f"  {'; '.join(document.reasons)}" if document.reasons else ""
            text = f"{document.grade}  {document.micrograph}{why}"
        case SquareDocument():
            promise = document.expected_particles
            text = f"square {document.square}  {document.micrographs} micrographs, {document.good} good"
            text += "" if promise is None else f", the next promises {promise:.0f} particles"
        case AdviceDocument():
            squares = ", ".join(one.square for one in document.squares)
            text = f"{document.advice}  {squares}  ({document.reason})"
        case FailedDocument():
            text = f"failed ({document.reason})  {document.message}"
        case ModelDocument():
            text = f"model {document.model.name}/{document.model.version} {document.event}  {document.reason}"
        case SessionDocument():
            text = f"session {document.event}  {document.directory}"
    return f"{document.seq:>6}  {printable(f'{document.session}  {text}' if document.session else text)}"
