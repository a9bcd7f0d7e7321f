"""``frazil``: the command line of the daemon and of its subscribers.

Heavy modules are imported by the command that needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import frazil
from frazil.commands import complain
from frazil.commands.correct import labels_app, reject
from frazil.commands.ledger import ledger_app, requeue, status
from frazil.commands.machine import bench, check_settings, deploy, doctor, install_service, selftest
from frazil.commands.measure import measure
from frazil.commands.micrographs import micrographs
from frazil.commands.model import models_app
from frazil.commands.page import page
from frazil.commands.pick import pick, relion_job
from frazil.commands.repick import repick
from frazil.commands.retune import retune
from frazil.commands.session import session_app
from frazil.commands.stream import keys_app, listen, schema
from frazil.errors import FrazilError, LedgerDamagedError, SettingsError
from frazil.faults import reason_of

__all__ = ["app", "main"]

_MACHINE = "This machine"
_STATUSES = {SettingsError: 78, LedgerDamagedError: 65}
"""Exit statuses for settings that cannot be used, and for a damaged ledger, as in sysexits.h."""

app = typer.Typer(
    name="frazil",
    help="Picks particles from a running stream of cryo-EM micrographs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app)


def main() -> None:
    """Run the command line. An expected error becomes one line, and exit status 1 or the status of its class."""
    try:
        app()
    except FrazilError as error:
        complain(error)
        # The unit does not restart frazil after these statuses, since a restart would not help.
        sys.exit(next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 1))
    except OSError as error:  # caused by a path or a socket that the command was given
        complain(FrazilError(f"{error.filename or 'the system'}: {reason_of(error)}"))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _show_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"frazil {frazil.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Show the version and leave.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def _settings_options(*names: str) -> list[inspect.Parameter]:
    """Make options of the settings, so that each is declared once. All are optional, since a file may give them."""
    import typing

    import msgspec

    from frazil.settings import ServeSettings, option_of

    parameters = []
    kinds = typing.get_type_hints(ServeSettings)
    descriptions = typing.get_type_hints(ServeSettings, include_extras=True)
    for field in msgspec.structs.fields(ServeSettings):
        if names and field.name not in names:
            continue
        kind, meta = kinds[field.name], descriptions[field.name].__metadata__[-1]
        description = meta.description
        if field.default is not msgspec.NODEFAULT and field.default is not None:
            description = f"{description} Default: {field.default}."
        flag = f"--{option_of(field.name)}"
        # Long words beside an option would leave no room for its description.
        option = typer.Option(
            None,
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=description,
            show_default=False,
            metavar=_metavar(kind),
            rich_help_panel=None if names else meta.extra["group"],
        )
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)
        )
    return parameters


_METAVARS = {float: "NUMBER", int: "COUNT", Path: "PATH", bool: ""}


def _metavar(kind: Any) -> str:
    """One short word for an option's value, or the words to choose from."""
    import typing

    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    named = (_METAVARS[part] for part in (kind, *typing.get_args(kind)) if part in _METAVARS)
    return next(named, "TEXT")


def _with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options made from settings to a command that takes them as keywords."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        command.__signature__ = inspect.Signature([*own, *_settings_options(*names)])  # type: ignore[attr-defined]
        return command

    return decorate


@app.command()
@_with_settings()
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file with any of these settings by the same names."),
    ] = None,
    **given: Any,
) -> None:
    """Watch a directory and pick every micrograph that appears in it, until SIGTERM or Ctrl-C.

    WATCH, OUT and DIAMETER are needed, here or in the file. The command line beats the file.
    """
    import faulthandler

    from frazil.settings import load_settings

    settings = load_settings(given, config)
    from frazil.daemon import Daemon
    from frazil.health.logs import configure_logging

    faulthandler.enable()  # if the watchdog ends the daemon, the log shows where each thread was
    configure_logging(settings.log_level)
    Daemon(settings).run()


_PICKING = (
    "model",
    "pixel_size_angstrom",
    "threshold",
    "target_precision",
    "min_distance_angstrom",
    "edge_margin_angstrom",
    "contrast",
    "find_junk",
    "junk_model",
    "junk_picks",
    "unusual_diameter",
    "device",
    "precision",
    "max_micrograph_bytes",
)
app.command()(_with_settings(*_PICKING, "threads")(pick))
app.command("relion-job")(_with_settings(*_PICKING)(relion_job))
app.command()(
    _with_settings("model", "pixel_size_angstrom", "contrast", "device", "threads", "max_micrograph_bytes")(measure)
)
app.command()(
    _with_settings(
        "out",
        "diameter_angstrom",
        "model",
        "pixel_size_angstrom",
        "threshold",
        "choose_threshold",
        "target_precision",
        "min_distance_angstrom",
        "edge_margin_angstrom",
        "contrast",
        "find_junk",
        "junk_model",
        "junk_picks",
        "unusual_diameter",
        "device",
        "precision",
        "keep_score_maps",
        "include",
        "exclude",
        "layout",
        "ledger",
        "max_micrograph_bytes",
        "max_attempts",
    )(repick)
)
app.command()(listen)
app.command()(page)
app.command()(schema)
app.command()(status)
app.command(rich_help_panel=_MACHINE)(doctor)
app.command(rich_help_panel=_MACHINE)(selftest)
app.command(rich_help_panel=_MACHINE)(bench)
app.command("check-settings", rich_help_panel=_MACHINE)(check_settings)
app.command("install-service", rich_help_panel=_MACHINE)(install_service)
app.command(rich_help_panel=_MACHINE)(deploy)
app.command()(requeue)
app.command()(reject)
app.command()(micrographs)
app.command()(retune)
app.add_typer(session_app)
app.add_typer(keys_app)
app.add_typer(labels_app)
app.add_typer(ledger_app)
