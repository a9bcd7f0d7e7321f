"""The files that systemd needs to run frazil: the unit, a drop-in for one microscope, and its settings."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from frazil.errors import FrazilError, OutputError
from frazil.files import write_atomically
from frazil.machine.deployment import shipped
from frazil.settings import ServeSettings, load_settings

__all__ = ["Installation", "plan_installation"]

_UNIT = "frazil@.service"
_STATE = Path("/var/lib/frazil")
_HOMES = tuple(Path(folder) for folder in ("/home", "/root", "/run/user"))
"""Folders that ``ProtectHome=yes`` hides."""
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - named, not used
"""Folders that ``PrivateTmp=yes`` hides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The plan of an installation.

    Attributes:
        files: contents of the files to write, by path, in the order of writing.
        kept: the settings file, if it exists already; it is not changed.
        out: the output directory, made for `user` if missing.
        user: user of the service.
        notes: notes on this machine, in one line each.
    """

    files: Mapping[Path, str]
    kept: Path | None
    out: Path
    user: str
    notes: tuple[str, ...]

    def write(self) -> None:
        """Write the files, and make the output directory.

        Raises:
            OutputError: a file cannot be written, or the directory cannot be made.
        """
        place = self.out
        try:
            for place, content in self.files.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(place, content)
            place = self.out
            if not place.exists():
                place.mkdir(parents=True)
                if os.geteuid() == 0:
                    shutil.chown(place, self.user)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written: {error.strerror}") from error


def plan_installation(
    instance: str, given: Mapping[str, object], *, user: str | None, executable: Path, root: Path
) -> Installation:
    """Plan the service of one microscope.

    Args:
        instance: name of the microscope, such as ``titan1``.
        given: settings for a new settings file; empty if the file exists.
        user: user of the service; None for the user who called sudo, else the owner of the watched directory.
        executable: the ``frazil`` program to start.
        root: root of the tree to write to: ``/``, or another for a test or for an image.

    Raises:
        FrazilError: the name is not allowed for an instance, a setting is wrong, or the user does not exist.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", instance):
        raise FrazilError(f"{instance!r}: expected a name of letters, digits, '.', '_' and '-', such as titan1")
    file = Path("/etc/frazil") / f"{instance}.toml"
    installed = root / file.relative_to("/")
    files: dict[Path, str] = {}
    if installed.exists():
        if given:
            raise FrazilError(f"{installed}: found settings already: change them there, and leave out --{min(given)}")
        settings = load_settings({}, installed)
    else:
        state = _STATE / instance / "ledger.sqlite"
        settings = load_settings({"ledger": state, **given}, None)
        files[installed] = _settings_text(settings)
    user = user or _usual_user(settings.watch)
    _check_user(user)
    units = root / "etc/systemd/system"
    files[units / _UNIT] = _unit(executable)
    files[units / f"frazil@{instance}.service.d" / "machine.conf"] = _drop_in(instance, settings, user, executable)
    return Installation(
        files=files,
        kept=None if installed in files else installed,
        out=settings.out.absolute(),
        user=user,
        notes=(f"user {user}", f"program {executable}", _describe_gpus(), *_describe_watch(settings.watch)),
    )


def _settings_text(settings: ServeSettings) -> str:
    paths = {"watch": settings.watch.absolute(), "out": settings.out.absolute(), "ledger": settings.ledger_file}
    for path in paths.values():
        if not str(path).isprintable():
            raise FrazilError(f"{path}: expected a path of printable characters")
    return (
        f"# Settings of frazil at this microscope; all of them: frazil serve --help\n"
        f"watch = {json.dumps(str(paths['watch']), ensure_ascii=False)}\n"
        f"out = {json.dumps(str(paths['out']), ensure_ascii=False)}\n"
        f"diameter_angstrom = {settings.needed_diameter_angstrom:g}  # of the particle, in Å\n"
        f"# On a disk of this machine: a ledger does not belong on a network's file system.\n"
        f"ledger = {json.dumps(str(paths['ledger']), ensure_ascii=False)}\n"
        f"# require_gpu = true  # rather not start than pick on the CPU\n"
    )


def _unit(executable: Path) -> str:
    """The unit's text, with the path of the program on this machine."""
    template = shipped(f"systemd/{_UNIT}")
    text, line = template.read_text("utf-8"), "ExecStart=/opt/frazil/bin/frazil "
    if text.count(line) != 1:
        raise FrazilError(f"{template}: expected one line {line.strip()!r}, found {text.count(line)}")
    return text.replace(line, f"ExecStart={_quoted(executable).replace('$', '$$')} ")


def _drop_in(instance: str, settings: ServeSettings, user: str, executable: Path) -> str:
    """The drop-in for the settings of one microscope."""
    watch, out = settings.watch.absolute(), settings.out.absolute()
    ledger, model = settings.ledger_file.absolute(), settings.model.absolute()
    keys = [settings.curve_clients.absolute()] if settings.curve_clients else []
    state = _STATE / instance
    writable = [out] + [ledger.parent] * (ledger.parent != out and not ledger.is_relative_to(state))
    readable = [watch, model, executable.parent, Path(sys.base_prefix), *keys]
    # The targets of links must be reachable as well.
    reached = [*readable, *writable, *(path.resolve() for path in (*readable, *writable))]
    mounts = " ".join(_mount_units(watch, watch.resolve(), out, out.resolve()))
    lines = [
        "# Written by frazil install-service from the settings; run it again after a change of paths in them.",
        "[Unit]",
        "# Micrographs and results may be mounted later: the service starts without them, and waits.",
        f"Wants={mounts}",
        f"After={mounts}",
        "# Without its ledger or its model it cannot start.",
        *(f"RequiresMountsFor={_quoted(path)}" for path in dict.fromkeys([ledger.parent, model])),
        "",
        "[Service]",
        f"User={user}",
        f"ReadOnlyPaths=-{_quoted(watch)}",
        *(f"ReadWritePaths=-{_quoted(path)}" for path in writable),
    ]
    if any(path.is_relative_to(hidden) for path in reached for hidden in _TEMPORARY):
        lines += ["# Some of these are in a folder for temporary files: the service shares it.", "PrivateTmp=no"]
    if any(path.is_relative_to(home) for path in reached for home in _HOMES):
        lines += [
            "# Some of these are in home folders: the service can read homes, not change them.",
            "ProtectHome=read-only",
        ]
    if settings.curve_key:
        lines.append(f"LoadCredential={settings.curve_key.name}:{_quoted(settings.curve_key.absolute())}")
    if (modprobe := shutil.which("nvidia-modprobe")) and _gpus():
        lines += [
            "# The service may not load drivers: a GPU's device nodes must exist before.",
            f"ExecStartPre=-+{modprobe} -c 0 -u",
        ]
    return "\n".join(lines) + "\n"


def _mount_units(*paths: Path) -> list[str]:
    """Names of all units that may mount the file systems of these paths."""
    places = dict.fromkeys(place for path in paths for place in (path, *path.parents) if place != Path("/"))
    return [f"{_escaped(place)}.mount" for place in places]


def _escaped(path: Path) -> str:
    """A path as part of a unit's name, as ``systemd-escape --path`` writes it."""

    def escape(i: int, byte: int) -> str:
        letter = chr(byte)
        plain = byte < 128 and (letter.isalnum() or letter in ":_" or (letter == "." and i > 0))
        return "-" if letter == "/" else letter if plain else f"\\x{byte:02x}"

    return "".join(escape(i, byte) for i, byte in enumerate(os.fsencode(path).strip(b"/")))


def _quoted(path: Path) -> str:
    """A path as one word of a unit file."""
    if not str(path).isprintable():
        raise FrazilError(f"{path}: expected a path of printable characters")
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if re.fullmatch(r"[\w./@:+,=%-]+", text) else f'"{text}"'


def _usual_user(watch: Path) -> str:
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return watch.owner()
    except (KeyError, OSError):
        raise FrazilError(f"{watch}: expected a directory whose owner has a name, found none; give --user") from None


def _check_user(user: str) -> None:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise FrazilError(f"{user}: expected a user of this machine, found none; give --user") from None
    if found.pw_uid == 0 or user == "nobody":  # systemd warns that nobody is not safe
        raise FrazilError(f"{user}: expected a user with rights to the data and to nothing else; give --user")


def _describe_watch(watch: Path) -> list[str]:
    if not watch.is_dir():
        return [f"{watch} does not exist now: the service waits for it; is the name right?"]
    return [f"{watch} is a link to {watch.resolve()}"] if watch.absolute() != watch.resolve() else []


def _gpus() -> list[str]:
    return sorted(str(node) for node in Path("/dev").glob("nvidia[0-9]*"))


def _describe_gpus() -> str:
    return f"GPU {', '.join(_gpus())}" if _gpus() else "no NVIDIA GPU found: the model runs on the CPU"
