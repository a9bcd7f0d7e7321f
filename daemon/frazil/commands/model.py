"""``frazil models``: commands for the model repository, all of them safe while daemons run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frazil.errors import FrazilError, ModelError, error_line

if TYPE_CHECKING:
    from frazil.model import ModelFolder, ServingRecord, Twin

__all__ = ["models_app"]

models_app = typer.Typer(
    name="models",
    help="Lists, checks, promotes, rolls back and prunes models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model's folder, such as exported_models/fcn.")]
_Out = Annotated[
    list[Path],
    typer.Option(
        "--out",
        help="Output directory of a daemon that may not write into the model's folder.",
        default_factory=list,
    ),
]


@models_app.command("list")
def list_models(
    repository: Annotated[
        Path, typer.Argument(metavar="REPOSITORY", help="The folder that holds the models' folders.")
    ],
    out: _Out,
) -> None:
    """List every version of every model, those that serve, and those that daemons have refused."""
    from rich.console import Console
    from rich.table import Table

    from frazil.model import find_model_folders

    table = Table("model", "version", "kind", "threshold", "sha256", "int8", "state")
    notes = []
    for folder in find_model_folders(repository):
        current = _current(folder)
        standings = _standings(folder, out)
        for version in folder.versions():
            kind, threshold, sha256 = _describe(folder.path / str(version))
            twin = _read_twin(folder.path / str(version))
            state = "promoted" if [version] == current[:1] else ""
            table.add_row(
                folder.path.name,
                str(version),
                kind,
                threshold,
                sha256[:12],
                "yes" if twin and twin.admitted else "",
                state,
            )
            notes += [f"{folder.path.name}/{version} {note}" for note in _notes(version, standings)]
    Console().print(table)
    for note in notes:
        typer.echo(note)


@models_app.command()
def show(model: _Model, out: _Out) -> None:
    """Show the contracts of a model's versions, and the versions that daemons serve or have refused."""
    import dataclasses

    from frazil.model import ModelFolder, read_contract

    folder = ModelFolder(model)
    current = _current(folder)
    for version in folder.versions():
        typer.echo(f"{model.name}/{version}{' (promoted)' if [version] == current[:1] else ''}")
        try:
            contract = dataclasses.asdict(read_contract(folder.path / str(version)))
            contract["calibration"] = _describe_calibration(contract["calibration"])
        except ModelError as error:
            contract = {"unfit": str(error)}
        for name, value in {**contract, "int8 twin": _describe_twin(_read_twin(folder.path / str(version)))}.items():
            typer.echo(f"    {name:<20} {value}")
    if current[1:]:
        typer.echo(f"served before, latest first: {', '.join(map(str, current[1:]))}")
    for standing in _standings(folder, out):
        serves = standing.version or "a model of another folder"
        typer.echo(f"{standing.host} {standing.watch}: serves {serves} since {standing.since}")
        for refusal in standing.refusals:
            typer.echo(f"    refused {refusal.version} at {refusal.at} ({refusal.reason}): {refusal.message}")


@models_app.command()
def verify(model: _Model) -> None:
    """Check every version of a model, or one by its folder or file, as a daemon does before it serves."""
    from frazil.model import ModelFolder, check_in_sandbox, read_contract

    versions = [model] if model.is_file() or model.name.isdecimal() else _version_folders(ModelFolder(model))
    unfit = 0
    for path in versions:
        try:
            sha256 = check_in_sandbox(path, finds=read_contract(path).finds).sha256
        except ModelError as error:
            unfit += 1
            typer.echo(error_line(f"{path}", error), err=True)
            continue
        typer.echo(f"{path}: fit to serve (sha256 {sha256[:12]})")
        unfit += not _verify_twin(path)
    if unfit:
        raise FrazilError(
            f"{model}: expected every version fit to serve, found {unfit} of {len(versions)} that are not"
        )


@models_app.command()
def promote(model: _Model, version: Annotated[int, typer.Argument(metavar="VERSION", min=1)]) -> None:
    """Check a version, and promote it to be the serving one. Running daemons swap without a gap."""
    from frazil.model import ModelFolder, check_in_sandbox, read_contract

    folder = ModelFolder(model)
    if version in folder.versions():
        path = folder.path / str(version)
        check_in_sandbox(path, finds=read_contract(path).finds)
    folder.promote(version)
    typer.echo(f"{model}: version {version} is promoted")


@models_app.command()
def rollback(model: _Model) -> None:
    """Promote the version that served before."""
    from frazil.model import ModelFolder

    typer.echo(f"{model}: rolled back to version {ModelFolder(model).rollback()}")


@models_app.command()
def withdraw(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A session's own model, OUT/frazil-models/learned.")],
) -> None:
    """Have a session go back from its own model to that of its settings. Its versions stay."""
    from frazil.model import ModelFolder, learned_folder

    path = model.resolve()
    if path != learned_folder(path.parent.parent):
        raise ModelError(f"{model}: expected a session's own model, such as OUT/frazil-models/learned", "missing")
    ModelFolder(path).versions()
    ModelFolder(path).withdraw()
    typer.echo(f"{model}: none of its versions is promoted any more")


@models_app.command()
def prune(
    model: _Model,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Number of newest versions to keep.")],
    out: _Out,
) -> None:
    """Remove old versions. The promoted one, the one to roll back to and those that daemons serve are kept."""
    from frazil.model import ModelFolder

    folder = ModelFolder(model)
    removed = folder.prune(keep, [standing.version for standing in _standings(folder, out)])
    typer.echo(f"{model}: removed {', '.join(map(str, removed)) or 'nothing'}")


def _verify_twin(path: Path) -> bool:
    """Check the int8 twin of a model, if it has one; return whether no fault was found."""
    from frazil.model import check_in_sandbox, has_twin, int8_instructions

    twin = _read_twin(path)
    if not has_twin(path) and not (twin and twin.admitted):
        return True
    if int8_instructions() is None:
        typer.echo(f"{path}: its int8 twin was not checked: this processor has no instructions for it")
        return True
    try:
        check_in_sandbox(path, precision="int8")
    except ModelError as error:
        typer.echo(error_line(f"{path}", error), err=True)
        return False
    typer.echo(f"{path}: its int8 twin is fit to serve")
    return True


def _read_twin(path: Path) -> Twin | None:
    """The int8 twin in a model's card; None if there is none, or the card cannot be read."""
    from frazil.model import CARD_NAME, locate_model, read_card

    try:
        return read_card(locate_model(path)[0].parent / CARD_NAME).int8
    except ModelError:
        return None


def _describe_calibration(text: str) -> str:
    from frazil.model.contract import read_calibration

    calibration = read_calibration(text)
    return f"on {calibration.micrographs} micrographs" if calibration else "none"


def _describe_twin(twin: Twin | None) -> str:
    if twin is None:
        return "none"
    fall = f"F1 lower by {max(0.0, twin.largest_f1_drop):.4f} at most"
    return f"sha256 {twin.sha256[:12]}, {fall}" if twin.admitted else f"refused, {fall}"


def _current(folder: ModelFolder) -> list[int]:
    from frazil.model import read_current

    try:
        return read_current(folder.path)
    except ModelError:
        return []


def _version_folders(folder: ModelFolder) -> list[Path]:
    versions = folder.versions()
    if not versions:
        raise ModelError(f"{folder.path}: expected a model's folder, found no version in it", "missing")
    return [folder.path / str(version) for version in versions]


def _describe(version: Path) -> tuple[str, str, str]:
    """Kind, threshold and sha256 of a version, from its files; "unfit" and the reason if these are faulty."""
    from frazil.model import identify_model, read_contract

    try:
        contract, identity = read_contract(version), identify_model(version)
    except ModelError as error:
        return "unfit", error.reason, ""
    return contract.architecture, f"{contract.threshold:g}", identity.sha256


def _standings(folder: ModelFolder, out: list[Path]) -> list[ServingRecord]:
    from frazil.model import read_serving_records

    found = read_serving_records(folder.path)
    for directory in out:
        found += [s for s in read_serving_records(directory) if Path(s.folder) == folder.path.resolve()]
    return found


def _notes(version: int, standings: list[ServingRecord]) -> list[str]:
    """The state of a version at each daemon that serves or has refused it, in one line each."""
    notes = []
    for standing in standings:
        where = f"{standing.host}, watching {standing.watch}"
        refusal = standing.refusal_of(version)
        if standing.version == version:
            notes.append(f"serves at {where}")
        elif refusal:
            notes.append(f"was refused at {where} ({refusal.reason}): {refusal.message}")
    return notes
