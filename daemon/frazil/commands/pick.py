"""``frazil pick`` and ``frazil relion-job``: picking of given micrographs, without a daemon."""

from __future__ import annotations

import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frazil.commands import complain
from frazil.errors import MicrographError, SettingsError, printable
from frazil.files import PickFileFormat

if TYPE_CHECKING:
    from frazil.file_picker import FilePicker
    from frazil.micrograph_names import Named
    from frazil.picking import PickingSettings

__all__ = ["pick", "relion_job"]

_Diameter = Annotated[float, typer.Option("--diameter", help="Diameter of the particle, in Å.", show_default=False)]


def pick(
    *,
    micrographs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MICROGRAPH",
            help="MRC or TIFF files, directories, or STAR files that name micrographs.",
            show_default=False,
        ),
    ],
    diameter: _Diameter,
    out: Annotated[
        Path, typer.Option("--out", help="Directory for the pick files; made if missing.", show_default=False)
    ],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="Formats of the pick files: star, relion, cryosparc, box, cbox, topaz, csv, json.",
        ),
    ] = "star",
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print each micrograph's document as a line of JSON.")
    ] = False,
    picture: Annotated[
        bool,
        typer.Option("--picture", metavar="", help="Also write a picture of each micrograph with its picks, as PNG."),
    ] = False,
    **given: Any,
) -> None:
    """Pick the given micrographs and write a pick file for each.

    A directory stands for all micrographs below it, and the pick files mirror its tree.

    Without --threshold, frazil scores all of them first and chooses the threshold from what it has seen.

    A micrograph that cannot be picked gets one line with the reason. The others are picked nevertheless, and the exit
    status is 1.
    """
    from frazil.file_picker import FilePicker
    from frazil.settings import doubt_diameter

    doubt = None if given["unusual_diameter"] else doubt_diameter(diameter)
    if doubt and sys.stdin.isatty() and sys.stderr.isatty():
        given["unusual_diameter"] = typer.confirm(f"diameter: {doubt}. Pick with it nevertheless?", err=True)
    settings, others = _split(diameter, given)
    named = _list_micrographs(micrographs)
    picker = FilePicker(settings, out=out, formats=_formats(formats), **others)
    typer.echo(picker.describe(), err=True)
    if picker.chooses:
        failures = _pick_choosing(picker, named, as_json=as_json, picture=picture)
    else:
        failures = _pick_each(picker, named, as_json=as_json, picture=picture)
    if failures:
        raise typer.Exit(1)


def relion_job(
    *,
    out: Annotated[Path, typer.Option("--o", metavar="DIR", help="The job's directory.", show_default=False)],
    micrographs: Annotated[
        Path, typer.Option("--in_mics", metavar="FILE", help="STAR file with micrographs.", show_default=False)
    ],
    diameter: _Diameter,
    threads: Annotated[
        int | None, typer.Option("--j", metavar="COUNT", min=1, help="CPU threads. Default: every core.")
    ] = None,
    **given: Any,
) -> None:
    """Pick as an external job of RELION, which runs this command in its project directory.

    The job has coordinates that RELION extracts particles from. Continued, it picks what has come since.
    """
    from frazil.relion_job import RelionJob

    settings, others = _split(diameter, given)
    job = RelionJob(out, micrographs, say=lambda line: typer.echo(printable(line)))
    with job.outcome():
        job.run(settings, threads=threads, **others)


def _split(diameter: float, given: dict[str, Any]) -> tuple[PickingSettings, dict[str, Any]]:
    """Settings of picking, and the other options that were given."""
    from frazil.picking import PickingSettings

    others = {name: value for name, value in given.items() if value is not None}
    picking = {name: others.pop(name) for name in PickingSettings.__struct_fields__ if name in others}
    return PickingSettings(diameter_angstrom=diameter, **picking), others


def _list_micrographs(given: list[Path]) -> list[Named]:
    """The micrographs that files, directories and STAR files stand for."""
    from frazil.micrograph_names import list_micrographs

    named = []
    for one in given:
        found, passed_over = list_micrographs(one)
        named += found
        if one.is_dir():
            typer.echo(printable(f"{one}: {len(found)} micrographs"), err=True)
        for line in passed_over:
            typer.echo(printable(f"  passed over: {line}"), err=True)
    return named


def _formats(text: str) -> list[PickFileFormat]:
    """The formats in a list with commas."""
    given = list(dict.fromkeys(part.strip() for part in text.split(",")))
    known = typing.get_args(PickFileFormat)
    if unknown := [one for one in given if one not in known]:
        raise SettingsError(f"--format: expected some of {', '.join(known)}, found {unknown[0]!r}")
    return given  # type: ignore[return-value]


def _pick_each(picker: FilePicker, micrographs: list[Named], *, as_json: bool, picture: bool) -> int:
    """Pick one micrograph after the other; return the number of failures."""
    failures = 0
    for micrograph in micrographs:
        try:
            picked = picker.pick(micrograph, with_picture=picture)
        except MicrographError as error:
            failures += 1
            complain(error)
        else:
            typer.echo(picked.as_json() if as_json else picked.as_line())
            _warn([*picked.doubts, *picker.weigh_doubts()])
    return failures


def _pick_choosing(picker: FilePicker, micrographs: list[Named], *, as_json: bool, picture: bool) -> int:
    """Score all micrographs, choose the threshold, and pick them within it; return the number of failures."""
    scored, failures = [], 0
    for number, micrograph in enumerate(micrographs, 1):
        try:
            scored.append(picker.score(micrograph))
        except MicrographError as error:
            failures += 1
            complain(error)
        else:
            if len(micrographs) > 1:
                typer.echo(printable(f"scored {number} of {len(micrographs)}: {micrograph.key}"), err=True)
            _warn([*scored[-1].doubts, *picker.weigh_doubts()])
    if not scored:
        return failures
    _warn(picker.choose())
    typer.echo(picker.describe_choice(), err=True)
    for one in scored:
        try:
            picked = picker.write(one, with_picture=picture)
        except MicrographError as error:
            failures += 1
            complain(error)
        else:
            typer.echo(picked.as_json() if as_json else picked.as_line())
    return failures


def _warn(doubts: list[str]) -> None:
    for doubt in doubts:
        typer.echo(printable(f"frazil: warning: {doubt}"), err=True)
