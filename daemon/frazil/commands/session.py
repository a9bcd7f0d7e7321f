"""``frazil session ...``: list, show, open, set, pause and close the sessions of a daemon, also while it is down."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frazil.errors import FrazilError, SettingsError, printable

if TYPE_CHECKING:
    from frazil.health.state import SessionState
    from frazil.microscope.registry import SessionRecord, Wish
    from frazil.session.outbox.daemon_info import DaemonInfo

__all__ = ["session_app"]

session_app = typer.Typer(
    name="session",
    help="Lists, opens, changes, pauses and closes sessions. What is wished while the daemon is down, it does at its "
    "next start.",
    no_args_is_help=True,
)

_PAGE = "http://127.0.0.1:9457/"
_FOUND_SECONDS, _LOOK_SECONDS = 6.0, 0.5
"""A daemon needs some seconds until it finds a new directory."""
_NEW_PICKS = ("diameter_angstrom", "pixel_size_angstrom", "contrast", "model", "find_junk", "junk_picks")
"""Settings after whose change the micrographs that were picked before have other picks."""

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The daemon's output directory. Default: this directory, if it is one; else that of the daemon at PAGE.",
        show_default=False,
    ),
]
Page = Annotated[str, typer.Option("--page", metavar="URL", help="The page of the daemon.")]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the session.", show_default=False)]


class _Daemon:
    """The sessions of a daemon, as it says itself while it runs, and as its registry has them.

    Args:
        out: its output directory; None to look for it.
        page: its page, unless its ledger or registry knows another.
    """

    def __init__(self, out: Path | None, page: str) -> None:
        from frazil.health.state import DaemonState
        from frazil.microscope.registry import REGISTRY_NAME, Registry
        from frazil.session.outbox.daemon_info import ask_page
        from frazil.session.outbox.ledger import LEDGER_NAME

        if out is None and any(Path(name).exists() for name in (LEDGER_NAME, REGISTRY_NAME)):
            out = Path()
        self.page = page if out is None else _recorded_page(out) or page
        state = ask_page(self.page, "api/state", DaemonState)
        if out is None and (state is None or not state.out):
            raise FrazilError(
                f"expected {REGISTRY_NAME} or {LEDGER_NAME} in this directory, or a daemon at {page}, found neither: "
                "give the output directory with --out, or the daemon's page with --page"
            )
        self.out = (out or Path(state.out if state else "")).resolve()
        self.state = state if state is not None and Path(state.out).resolve() == self.out else None
        self.registry = Registry(self.out / REGISTRY_NAME)
        self.records = self.registry.records()
        self.sessions = {session.name: session for session in self._ask_sessions()}

    def _ask_sessions(self) -> list[SessionState]:
        """Every session, the open ones first."""
        from frazil.health.state import SessionState
        from frazil.session.outbox.daemon_info import ask_page

        asked = ask_page(self.page, "api/sessions", list[SessionState]) if self.state is not None else None
        if asked is not None:
            return asked
        status = {"auto": "closed", "open": "closed"}
        return [
            SessionState(
                name=record.name,
                directory=record.directory,
                status=status.get(record.wish, record.wish),  # type: ignore[arg-type]
                says="the daemon is not running",
            )
            for record in self.records.values()
        ] or self._of_the_ledger()

    def _of_the_ledger(self) -> list[SessionState]:
        """The only session of a daemon without a root, which is not running."""
        from frazil.health.state import SessionState

        info = _recorded_daemon(self.out)
        if info is None:
            return []
        watch = Path(info.watch)
        return [SessionState(name=watch.name, directory=info.watch, status="closed", says="the daemon is not running")]

    def directory(self, name: str) -> Path:
        """The watched directory of a session. One whose directory was just made is waited for, while the daemon runs.

        Raises:
            FrazilError: there is no such session.
        """
        deadline = time.monotonic() + (_FOUND_SECONDS if self.state is not None else 0)
        while name not in self.sessions and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            self.sessions = {session.name: session for session in self._ask_sessions()}
        if name not in self.sessions:
            known = ", ".join(list(self.sessions)[:5]) or "none"
            raise FrazilError(f"expected a session of {self.out}, found {name!r}; there are: {known}")
        return Path(self.sessions[name].directory)

    def ledger(self, name: str) -> Path:
        """Its ledger, which may not be there."""
        from frazil.session.outbox.ledger import LEDGER_NAME

        below = self.out / name / LEDGER_NAME
        return below if below.exists() or not (self.out / LEDGER_NAME).exists() else self.out / LEDGER_NAME

    def change(
        self, name: str, wish: Wish | None, settings: dict[str, Any] | None = None, *, repick: bool = False
    ) -> None:
        """Leave a wish, and say when it is done."""
        self.registry.change(name, self.directory(name), wish, settings, repick=repick)
        when = "within seconds" if self.state is not None else "when the daemon starts, which does not run"
        what: list[str] = [wish] if wish else []
        what += [f"{key} = {value}" for key, value in (settings or {}).items()]
        typer.echo(printable(f"session {name}: {', '.join(what)}, {when}"))


def _recorded_daemon(out: Path) -> DaemonInfo | None:
    """The daemon that uses the ledger in an output directory; None where none is known."""
    from frazil.session.outbox.daemon_info import DaemonInfo
    from frazil.session.outbox.ledger import LEDGER_NAME, LedgerReader

    with contextlib.suppress(FrazilError), LedgerReader(out / LEDGER_NAME) as reader:
        return DaemonInfo.of(reader)
    return None


def _recorded_page(out: Path) -> str:
    """The page of the daemon that uses an output directory; empty where none is known."""
    from frazil.microscope.registry import REGISTRY_NAME, Registry

    with contextlib.suppress(FrazilError):
        if page := Registry(out / REGISTRY_NAME).page():
            return page
    info = _recorded_daemon(out)
    return info.page if info else ""


@session_app.command("list")
def list_sessions(
    everything: Annotated[bool, typer.Option("--all", metavar="", help="Archived ones too.")] = False,
    as_json: AsJson = False,
    out: Out = None,
    page: Page = _PAGE,
) -> None:
    """List the sessions, one in each line: its state, its name, and what it waits for or has done."""
    import msgspec

    daemon = _Daemon(out, page)
    sessions = [s for s in daemon.sessions.values() if everything or s.status != "archived"]
    if as_json:
        typer.echo(msgspec.json.encode([_as_json(daemon, session) for session in sessions]))
        return
    for session in sessions:
        typer.echo(printable(f"{session.status:8} {session.name:24} {_describe(session)}"))
    if not sessions:
        typer.echo("no sessions yet")


def _describe(session: SessionState) -> str:
    if session.status != "open":
        found = session.suggested
        looks = f"; its particles look like {found.diameter_angstrom:g} Å" if found else ""
        range_ = f" ({found.low_angstrom:g} to {found.high_angstrom:g})" if found else ""
        todo = f" (frazil session set {session.name} diameter_angstrom=...)" if session.needs_diameter else ""
        return (session.says or session.directory) + looks + range_ + todo
    pick, diameter = session.pick, session.diameter_angstrom
    parts = [
        f"{diameter:g} Å" if diameter else "",
        session.waits_for,
        f"{pick.picked} picked, {pick.failed} failed since it was opened",
        f"{session.intake.backlog} wait" if session.intake.backlog else "",
        session.directory,
    ]
    return ", ".join(part for part in parts if part)


def _as_json(daemon: _Daemon, session: SessionState) -> dict[str, Any]:
    import msgspec

    record: SessionRecord | None = daemon.records.get(session.name)
    return {
        **msgspec.to_builtins(session),
        "wish": record.wish if record else "auto",
        "set": record.settings if record else {},
        "opened_at": record.opened_at if record else None,
        "closed_at": record.closed_at if record else None,
        "ledger": str(daemon.ledger(session.name)),
    }


@session_app.command()
def show(name: Name, as_json: AsJson = False, out: Out = None, page: Page = _PAGE) -> None:
    """Show a session: its state, its settings, and how many micrographs are in which state."""
    from urllib.parse import quote

    import msgspec

    from frazil.session.outbox.daemon_info import ask_page
    from frazil.session.outbox.ledger import LedgerReader

    daemon = _Daemon(out, page)
    daemon.directory(name)
    session = daemon.sessions[name]
    counts: dict[str, int] = {}
    with contextlib.suppress(FrazilError), LedgerReader(daemon.ledger(name)) as reader:
        counts = reader.counts()
    settings = ask_page(daemon.page, f"api/sessions/{quote(name)}", dict[str, Any]) if daemon.state else None
    shown = {**_as_json(daemon, session), "settings": settings, "micrographs": counts}
    if as_json:
        typer.echo(msgspec.json.encode(shown))
        return
    typer.echo(printable(f"{session.name}: {session.status}, {_describe(session)}"))
    typer.echo("micrographs: " + (", ".join(f"{count} {state}" for state, count in counts.items()) or "none"))
    typer.echo(printable(f"ledger: {shown['ledger']}"))
    for key, value in (settings or shown["set"]).items():
        whose = " (set by the operator)" if key in shown["set"] else ""
        typer.echo(printable(f"{key} = {value}{whose}"))


@session_app.command("open")
def open_session(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Directory of the session, or its name.", show_default=False)
    ],
    out: Out = None,
    page: Page = _PAGE,
) -> None:
    """Open a session, however old; also one that was paused or closed."""
    daemon = _Daemon(out, page)
    path = Path(directory).expanduser().absolute()
    name = next((s.name for s in daemon.sessions.values() if directory == s.name or _is_same(path, s.directory)), "")
    if not name:
        root = daemon.state.root if daemon.state else ""
        if daemon.state is not None and not root:
            raise FrazilError("expected a daemon with a root, in which sessions come and go, found one with --watch")
        if not path.is_dir():
            raise FrazilError(f"{directory}: expected a directory, or the name of a session, found neither")
        name = str(path.relative_to(root)) if root and path.is_relative_to(root) else path.name
        from frazil.health.state import SessionState

        daemon.sessions[name] = SessionState(name=name, directory=str(path))
    daemon.change(name, "open")


@session_app.command("set")
def set_settings(
    name: Name,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="Settings as in a settings file; KEY= takes one back.", show_default=False
        ),
    ],
    repick: Annotated[
        bool | None,
        typer.Option(
            "--repick/--no-repick",
            help="Whether to pick again what was picked before, the newest first, while new micrographs go on.",
            show_default=False,
        ),
    ] = None,
    out: Out = None,
    page: Page = _PAGE,
) -> None:
    """Set settings of a session, such as diameter_angstrom=180. They win over every file."""
    from frazil.session.outbox.ledger import LedgerReader
    from frazil.settings import RENAMED

    daemon = _Daemon(out, page)
    settings = dict(_parse(change) for change in changes)
    picked = 0
    if any(RENAMED.get(key, key) in _NEW_PICKS for key in settings) and name in daemon.sessions:
        with contextlib.suppress(FrazilError), LedgerReader(daemon.ledger(name)) as reader:
            picked = reader.counts().get("picked", 0)
    if picked and repick is None and sys.stdin.isatty():
        repick = typer.confirm(f"{picked} micrographs were picked before. Pick them again?")
    daemon.change(name, None, settings, repick=bool(picked and repick))
    if picked and repick:
        typer.echo(f"{picked} to be picked again, the newest first")
    elif picked:
        typer.echo(
            f"{picked} micrographs were picked with the earlier settings and stay so; to pick them again: "
            f"frazil requeue --all --ledger {daemon.ledger(name)}"
        )


@session_app.command()
def pause(name: Name, out: Out = None, page: Page = _PAGE) -> None:
    """Pause a session: nothing is picked until it is opened again."""
    _Daemon(out, page).change(name, "paused")


@session_app.command("close")
def close_session(name: Name, out: Out = None, page: Page = _PAGE) -> None:
    """Close a session: it is over. Its results stay, and are read and replayed as before."""
    _Daemon(out, page).change(name, "closed")


@session_app.command()
def archive(name: Name, out: Out = None, page: Page = _PAGE) -> None:
    """Close a session, and leave it out of the list."""
    _Daemon(out, page).change(name, "archived")


def _parse(change: str) -> tuple[str, Any]:
    """A setting's name and value: a value in TOML, or else text."""
    import tomllib

    key, equals, text = change.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise SettingsError(f"{change}: expected KEY=VALUE, such as diameter_angstrom=180")
    if not text.strip():
        return key, None
    try:
        return key, tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return key, text


def _is_same(path: Path, directory: str) -> bool:
    from frazil.paths import is_same_file

    return str(path) == directory or is_same_file(path, Path(directory))
