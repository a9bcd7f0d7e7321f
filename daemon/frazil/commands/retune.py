"""``frazil retune``: previews the picks within other limits, and requests these limits from the daemon."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frazil.errors import FrazilError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from frazil.limits import LimitsPatch
    from frazil.session.outbox.daemon_info import DaemonInfo
    from frazil.session.outbox.ledger import LedgerReader
    from frazil.session.retune import MicrographCount

__all__ = ["retune"]

_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
_BAR_WIDTH = 40
_NAMED = 5
_LAZINESS = 10
_CANNOT = {
    "no_map": "have no kept score map",
    "margin": "have no scores so near to the edges",
    "damaged": "have a damaged score map",
    "no_result": "have lost their result meanwhile",
}


def retune(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output directory of the daemon, or its ledger.")
    ] = Path(),
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Lowest figure of merit, 0 to 1.", show_default=False)
    ] = None,
    choose: Annotated[
        bool,
        typer.Option("--choose", metavar="", help="Let frazil choose the threshold, in place of any that was set."),
    ] = False,
    min_distance: Annotated[
        float | None,
        typer.Option("--min-distance", help="No two picks are closer than this, in Å.", show_default=False),
    ] = None,
    edge_margin: Annotated[
        float | None,
        typer.Option("--edge-margin", help="No pick is closer to an edge than this, in Å.", show_default=False),
    ] = None,
    micrograph: Annotated[
        Path | None,
        typer.Option("--micrograph", help="Only this one, by full path or as the ledger has it.", show_default=False),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option("--apply", metavar="", help="Request these limits for all results and all later micrographs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one line of JSON.")] = False,
) -> None:
    """Make the picks of the whole session again with another threshold or other distances, without the model.

    Without --apply nothing changes: the picks are only counted, also at other thresholds. Limits that are not given
    stay as they are. A threshold applies to the model of the newest result; picks of other models keep theirs.
    """
    from frazil.limits import LimitsPatch
    from frazil.session.outbox.daemon_info import DaemonInfo, ledger_key
    from frazil.session.outbox.ledger import LedgerReader, ledger_file

    patch = LimitsPatch(threshold=threshold, min_distance_angstrom=min_distance, edge_margin_angstrom=edge_margin)
    if choose and threshold is not None:
        raise FrazilError("expected --threshold or --choose, found both")
    if apply and micrograph is not None:
        raise FrazilError("expected --apply or --micrograph, found both: limits are applied to all micrographs")
    with LedgerReader(ledger_file(out)) as reader:
        info = DaemonInfo.of(reader)
        if apply:
            _apply(reader, patch, info, choose=choose, as_json=as_json)
            return
        if choose:
            patch = LimitsPatch(threshold=_choose(reader)).over(patch)
        if micrograph is not None:
            _show_one(reader, ledger_key(micrograph, info), patch, as_json=as_json)
        else:
            _show_all(reader, patch, as_json=as_json)


def _choose(reader: LedgerReader) -> float:
    """What frazil would choose now, with the model of the newest result; said on the way."""
    from frazil.session.outbox.ledger import CHOICE_KEY
    from frazil.session.retune import SessionChoice, choose_from_kept
    from frazil.session.retune.repick import newest_document

    choice = SessionChoice.decode(reader.meta().get(CHOICE_KEY, ""))
    chosen = choose_from_kept(reader, newest_document(reader), choice)
    typer.echo(f"threshold {chosen.threshold:g}, {chosen.describe()}", err=True)
    return chosen.threshold


def _apply(reader: LedgerReader, patch: LimitsPatch, info: DaemonInfo | None, *, choose: bool, as_json: bool) -> None:
    from frazil.session.retune import request_change

    if not patch.given() and not choose:
        raise FrazilError("expected --threshold, --min-distance or --edge-margin to apply, found none")
    change = request_change(reader, patch, choose=choose)
    is_running = info is not None and info.ask() is not None
    if as_json:
        _print_json({"asked": change, "running": is_running})
        return
    typer.echo(f"asked for: {change.describe()}")
    if is_running:
        typer.echo("the daemon applies it between two micrographs and revises earlier results: see frazil status")
    else:
        typer.echo("no daemon runs: the request waits in the ledger for the next start")


def _show_one(reader: LedgerReader, key: str, patch: LimitsPatch, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from frazil.documents import columns_of
    from frazil.session.retune import preview

    shown = preview(reader, key, patch)
    before = shown.document.limits
    if as_json:
        _print_json({"path": key, "limits": shown.limits, "before": before, "picks": columns_of(shown.picks)})
        return
    table = Table("", "now", "then", title=printable(key), title_justify="left")
    table.add_row("picks", str(len(shown.document.picks.score)), str(len(shown.picks)))
    for name, unit in (("threshold", ""), ("min_distance_angstrom", " Å"), ("edge_margin_angstrom", " Å")):
        label = name.removesuffix("_angstrom").replace("_", " ")
        table.add_row(label, f"{getattr(before, name):g}{unit}", f"{getattr(shown.limits, name):g}{unit}")
    Console().print(table)


def _show_all(reader: LedgerReader, patch: LimitsPatch, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import track

    from frazil.session.retune import LimitsChange, count
    from frazil.session.retune.repick import newest_model

    os.nice(_LAZINESS)  # picking comes first
    model = newest_model(reader)
    thresholds = sorted({*_THRESHOLDS, *([] if patch.threshold is None else [patch.threshold])})
    keys = reader.results()
    counting = count(reader, LimitsChange.of(patch, model), keys=keys, model_sha256=model, thresholds=thresholds)
    console = Console(stderr=True)
    counts = list(track(counting, "counting", total=len(keys), console=console, transient=True))
    counts.sort(key=lambda one: one.key)
    if as_json:
        _print_json(_as_record(counts, thresholds))
    else:
        _draw(Console(), counts, thresholds, patch)


def _as_record(counts: list[MicrographCount], thresholds: list[float]) -> dict[str, Any]:
    return {
        "micrographs": len(counts),
        "before": sum(one.before for one in counts),
        "after": sum(one.after for one in counts),
        "at": [{"threshold": t, "picks": sum(one.at[i] for one in counts)} for i, t in enumerate(thresholds)],
        "untold": {one.key: one.unrevisable for one in counts if one.unrevisable},
        "counts": [{"path": one.key, "before": one.before, "after": one.after} for one in counts],
    }


def _draw(console: Console, counts: list[MicrographCount], thresholds: list[float], patch: LimitsPatch) -> None:
    import statistics

    from rich.table import Table

    if not counts:
        console.print("no results yet")
        return
    table = Table("", "micrographs", "picks", "median", "fewest", "most")
    for label, picks in (("now", [one.before for one in counts]), ("then", [one.after for one in counts])):
        spread = (statistics.median(picks), min(picks), max(picks))
        table.add_row(label, str(len(picks)), str(sum(picks)), *(f"{value:g}" for value in spread))
    console.print(table)
    means = [sum(one.at[i] for one in counts) / len(counts) for i in range(len(thresholds))]
    longest = max(means) or 1.0
    console.print("picks per micrograph at other thresholds")
    for threshold, mean in zip(thresholds, means, strict=True):
        mark = " ←" if threshold == patch.threshold else ""
        console.print(f"{threshold:>8g}  {'█' * round(_BAR_WIDTH * mean / longest)} {mean:.0f}{mark}", highlight=False)
    unrevisable = defaultdict(list)
    for one in counts:
        if one.unrevisable:
            unrevisable[one.unrevisable].append(printable(one.key))
    for reason, names in unrevisable.items():
        more = f" and {len(names) - _NAMED} more (--json names all)" if len(names) > _NAMED else ""
        console.print(
            f"{len(names)} {_CANNOT[reason]} and would stay as they are: {', '.join(names[:_NAMED])}{more}",
            markup=False,
            highlight=False,
        )


def _print_json(record: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(record))
