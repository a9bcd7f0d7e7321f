"""``frazil micrographs``: the micrographs of a session that are worth keeping, as a table for RELION and cryoSPARC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from frazil.commands.ledger import Where
from frazil.errors import FrazilError, printable

__all__ = ["micrographs"]

_HERE = Path()
_NAMED = 10


def micrographs(
    to: Annotated[Path, typer.Option("--to", metavar="FILE.star", help="The table; an earlier one is replaced.")],
    where: Where = _HERE,
    grade: Annotated[
        Literal["all", "usable", "good"],
        typer.Option("--grade", help="Which: all, those that are not bad, or good ones only."),
    ] = "all",
) -> None:
    """Write the assessed micrographs as a STAR file of RELION 3.1, with their CTF: optics groups and micrographs.

    Where a person marked a micrograph good or bad, that holds. Names are relative to this directory, as RELION has
    them, if the micrographs lie below it.
    """
    from frazil.files import write_atomically
    from frazil.graded import graded_micrographs, micrographs_star
    from frazil.pick_files import seen_from_project
    from frazil.session.outbox.ledger import LedgerReader, ledger_file

    if to.suffix != ".star":
        raise FrazilError(f"--to: expected a name that ends with .star, found {to}")
    with LedgerReader(ledger_file(where)) as reader:
        chosen = list(graded_micrographs(reader, grade))
        waiting = reader.unassessed()
    text, left_out = micrographs_star((seen_from_project(str(one.path)), one.record) for one in chosen)
    write_atomically(to, text)
    typer.echo(f"{len(chosen) - len(left_out)} micrographs written to {to}")
    for line in left_out[:_NAMED]:
        typer.echo(printable(f"left out: {line}"), err=True)
    if len(left_out) > _NAMED:
        typer.echo(f"left out: {len(left_out) - _NAMED} more", err=True)
    if waiting:
        typer.echo(f"{waiting} micrographs wait to be assessed and are not in it", err=True)
