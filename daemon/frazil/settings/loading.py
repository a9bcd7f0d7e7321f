"""Makes settings of command line, settings file and defaults, or a list of every fault.

The command line beats the file, the file beats the default. A relative path in the file is taken from the file's own
folder. What a cluster is asked for stands at the end of the file, in a table of its own.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from frazil.errors import SettingsError
from frazil.settings.cluster import ClusterSettings
from frazil.settings.cross_checks import CROSS_CHECKS
from frazil.settings.declaration import RENAMED, SESSION_SETTINGS, MustBe, ServeSettings, option_of

__all__ = ["Statement", "load_cluster_settings", "load_session_settings", "load_settings", "read_statements"]

log = logging.getLogger(__name__)

_LARGEST_BYTES = 1 << 20
_LAST = 1 << 30
"""Sort key that puts a missing setting last: the line of a probable misspelling is more useful."""
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Environment variable with the folder of the files that a unit's ``LoadCredential=`` names."""

_GOES_ON = "at end of document"
"""Words of tomllib's message for a statement that goes on in the next line, such as a list."""
_MOST_LINES = 2000

_CLUSTER_TABLE = "cluster"
"""The only table in a settings file."""

_NEEDED_FOR_ONE = ("watch", "diameter_angstrom")
"""Settings that are needed unless a microscope's sessions bring their own."""


def load_settings(given: Mapping[str, Any], file: Path | None) -> ServeSettings:
    """Merge the settings of the command line with those of a file and the defaults.

    Args:
        given: settings from the command line by name; None means not given.
        file: a TOML file with settings by the same names; None for no file.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown, missing, of the wrong type or impossible,
            disagrees with another, or names a path that does not exist. It lists every fault, with its line in the
            file.
    """
    return _load(ServeSettings, given, file)


def load_session_settings(microscope: ServeSettings, given: Mapping[str, Any], file: Path | None) -> ServeSettings:
    """Lay a session's settings over those of its microscope.

    Args:
        microscope: settings of the daemon, whose `watch` and `out` are those of the session already.
        given: settings that the operator has set for this session, by name.
        file: ``frazil.toml`` in the session's directory; None if there is none.

    Raises:
        SettingsError: as for `load_settings`; or a setting is none that a session may have for itself, or the file
            names a model outside the folder of the microscope's own.
    """
    draft = _Draft(file, SESSION_SETTINGS, ServeSettings)
    draft.base = microscope
    if file is not None:
        draft.read(file)
        draft.confine("model", microscope.model.parent)
    draft.take(given)
    return draft.finish()


def load_cluster_settings(given: Mapping[str, Any], file: Path | None) -> ClusterSettings:
    """Merge what the command line says of a cluster with the table of the settings file and the defaults.

    Args:
        given: settings from the command line by name; None means not given.
        file: a settings file; None for no file.

    Raises:
        SettingsError: as for `load_settings`.
    """
    return _load(ClusterSettings, given, file)


_Settings = TypeVar("_Settings", ServeSettings, ClusterSettings)


def _load(kind: type[_Settings], given: Mapping[str, Any], file: Path | None) -> _Settings:
    draft = _Draft(file, {field.name for field in msgspec.structs.fields(kind)}, kind)
    if file is not None:
        draft.read(file)
    draft.take(given)
    return draft.finish()


class _Draft(Generic[_Settings]):
    """The values so far, the line of each in the file, and the faults so far.

    Args:
        file: the settings file, for messages.
        known: names of the settings that may be given.
        kind: the record of settings that is made.

    Attributes:
        base: has the values of settings that are not given; None for the defaults.
    """

    def __init__(self, file: Path | None, known: Set[str], kind: type[_Settings]) -> None:
        self._file = file
        self._known = known
        self._kind: type[_Settings] = kind
        self._table = _CLUSTER_TABLE if kind is ClusterSettings else ""
        self.base: _Settings | None = None
        self._fields = {field.name: field for field in msgspec.structs.fields(kind)}
        self._values: dict[str, Any] = {}
        self._lines: dict[str, int] = {}
        self._spelled: dict[str, str] = {}
        """A setting's name as the file spells it."""
        self._faults: list[tuple[int, str]] = []

    def read(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                content = opened.read(_LARGEST_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"{file}: expected a settings file, cannot read it: {error.strerror}") from error
        if len(content) > _LARGEST_BYTES:
            raise SettingsError(f"{file}: expected a settings file, found more than {_LARGEST_BYTES} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise SettingsError(f"{file}: expected text in UTF-8, found otherwise") from error
        for statement in read_statements(text):
            if statement.table != self._table:
                continue
            spelled = statement.key.replace("-", "_")
            name = RENAMED.get(spelled, spelled)
            if statement.fault:
                self._add_fault(statement.line, statement.fault)
            elif name not in self._fields:
                near = difflib.get_close_matches(name, [*self._fields, *RENAMED], n=1, cutoff=0.0)[0]
                fault = f"unknown setting {statement.key!r}; the nearest known one is {RENAMED.get(near, near)!r}"
                self._add_fault(statement.line, fault)
            elif name not in self._known:
                fault = f"{name}: expected a setting of one session, found one of the daemon: set it in its own file"
                self._add_fault(statement.line, fault)
            elif name in self._lines:
                self._add_fault(statement.line, f"{name}: expected once, found it in line {self._lines[name]} already")
            else:
                is_path = "Path" in str(self._fields[name].type) and isinstance(statement.value, str)
                self._values[name] = _expand(statement.value, file.parent) if is_path else statement.value
                self._lines[name] = statement.line
                self._spelled[name] = spelled
                if spelled != name:
                    log.warning(
                        "%s:%d: %s is now called %s; the old name is accepted until frazil 0.3",
                        *(file, statement.line, statement.key, name),
                    )

    def take(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if self.base is not None and name not in self._known:
                near = difflib.get_close_matches(name, sorted(self._known), n=1, cutoff=0.0)[0]
                self._faults.append((0, f"{name}: expected a setting of one session, such as {near}"))
            elif value is not None:
                self._values[name] = value
                self._lines.pop(name, None)

    def confine(self, name: str, folder: Path) -> None:
        """Refuse a path of the file that leads out of a folder: others may write the file than the daemon's owner."""
        path = self._values.get(name)
        if isinstance(path, Path) and not path.resolve().is_relative_to(folder.resolve()):
            self._add_fault(
                self._lines[name], f"{name}: expected a path below {folder}, found {self._values.pop(name)}"
            )

    def finish(self) -> _Settings:
        good: dict[str, Any] = {}
        if "root" in self._values:
            if "watch" in self._values:
                self._add_fault_of(("root", "watch"), "expected one of them, found both")
            self._values["watch"] = self._values["root"]
        hints = typing.get_type_hints(self._kind, include_extras=True)
        for name, field in self._fields.items():
            if name not in self._values:
                if self.base is not None:
                    good[name] = getattr(self.base, name)
                elif field.required or (name in _NEEDED_FOR_ONE and "root" not in self._values):
                    fault = f"{name}: expected a value, found none (give --{option_of(name)}, or {name} in the file)"
                    self._faults.append((_LAST, fault))
                else:
                    good[name] = (
                        field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
                    )
                continue
            try:
                good[name] = msgspec.convert(self._values[name], field.type, dec_hook=_decode_path)
            except msgspec.ValidationError as error:
                self._add_fault_of((name,), _plain(error, self._values[name], hints[name]))
        for name, value in good.items():
            must_be = _must_be(hints[name])
            if isinstance(value, Path) and must_be and (missing := _missing(value, must_be)):
                self._add_fault_of((name,), missing)
        for names, find_fault in CROSS_CHECKS:
            if all(name in good for name in names) and (disagreement := find_fault(good)):
                self._add_fault_of(names, disagreement)
        if self._faults:
            raise SettingsError(*(fault for _, fault in sorted(self._faults, key=lambda fault: fault[0])))
        settings: _Settings = self._kind(**good)
        return settings

    def _add_fault_of(self, names: Iterable[str], fault: str) -> None:
        """Add a fault of settings that were given, at the first of their lines."""
        involved = [name for name in names if name in self._values]
        line = min((self._lines[name] for name in involved if name in self._lines), default=0)
        if line:
            self._add_fault(line, f"{', '.join(self._spelled.get(name, name) for name in involved)}: {fault}")
        elif self.base is not None:
            self._faults.append((0, f"{', '.join(involved or names)}: {fault}"))
        else:
            flags = ", ".join(f"--{option_of(name)}" for name in involved or names)
            self._faults.append((0, f"{flags}: {_as_flags(fault)}"))

    def _add_fault(self, line: int, fault: str) -> None:
        self._faults.append((line, f"{self._file}:{line}: {fault}"))


def _as_flags(message: str) -> str:
    """A message about settings in a file, changed for the command line: `name = true` becomes --name."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2].strip('"')
        return f"--{name}" if value == "true" else f"--{name} {value}"

    return re.sub(r"`(\w+) = ([^`]+)`", flag, message)


def _must_be(hint: Any) -> MustBe | None:
    """The kind of file that a setting's path must lead to, from its description, which is its last annotation."""
    extra: dict[str, MustBe | None] = hint.__metadata__[-1].extra
    return extra["must_be"]


def _expand(text: str, folder: Path) -> Path:
    """A path in a settings file of this folder. Without systemd, credentials are in the folder itself."""
    if text.startswith(f"${_CREDENTIALS}/"):
        return Path(os.environ.get(_CREDENTIALS) or folder) / text.removeprefix(f"${_CREDENTIALS}/")
    return folder / Path(text).expanduser()


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise ValueError(f"Expected a path, got {value!r}")


def _missing(path: Path, must_be: MustBe) -> str | None:
    """The fault of a path; None if it has none."""
    expected = {"there": "a file or folder", "file": "a file"}.get(must_be, "a directory")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        found = "nothing" if must_be == "there" else "none"
        return None if must_be == "directory, perhaps later" else f"expected {expected}, found {found} at {path}"
    except OSError as error:
        return f"expected {expected} that can be reached, found {path}: {error.strerror}"
    is_right = must_be == "there" or (stat.S_ISREG if must_be == "file" else stat.S_ISDIR)(mode)
    return None if is_right else f"expected {expected}, found none at {path}"


_KINDS = {
    "float": "a number",
    "int": "an integer",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "datetime": "a date",
}
_BOUNDS = {">": "above", ">=": "of at least", "<": "below", "<=": "of at most"}


def _plain(error: msgspec.ValidationError, value: Any, hint: Any) -> str:
    """Msgspec's message in the operator's words: ``expected a number above 0, found -5``."""
    text = str(error).partition(" - at `$")[0]
    if text.startswith("Invalid enum value"):
        return f"expected {' or '.join(_choices(hint))}, found {value!r}"
    if "matching regex" in text:
        return f"expected {hint.__metadata__[-1].extra['like']}, found {value!r}"
    if bound := re.fullmatch(r"Expected `(\w+)[^`]*` (<=?|>=?) (\S+)", text):
        kind, sign, limit = bound.groups()
        return f"expected {_KINDS[kind]} {_BOUNDS[sign]} {float(limit):g}, found {value:g}"
    if kinds := re.fullmatch(r"Expected `(\w+)[^`]*`, got `(\w+)[^`]*`", text):
        expected, found = (_KINDS.get(kind, kind) for kind in kinds.groups())
        return f"expected {expected}, found {found if isinstance(value, list) else _shown(value)}"
    return text.replace("Expected", "expected").replace(", got ", ", found ")


def _choices(hint: Any) -> list[str]:
    """The words of a `Literal`, also of an annotated one."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for part in typing.get_args(hint) if not isinstance(part, str) for choice in _choices(part)]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """``key = value`` in a TOML file, or its fault."""

    line: int
    key: str = ""
    value: Any = None
    table: str = ""
    """In which it stands; empty for the settings of the daemon."""
    fault: str = ""


def read_statements(text: str) -> Iterator[Statement]:
    """Read a TOML file without tables but that of a cluster.

    Yields:
        Each statement, in the order of the file; a key that is given twice comes twice. Another table is a fault, and
        the last statement, since all after it would belong to that table.
    """
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        yield Statement(line=_MOST_LINES + 1, fault=f"expected at most {_MOST_LINES} lines, found {len(lines)}")
        return
    start, table = 0, ""
    while start < len(lines):
        parsed, fault, length = _read_one(lines[start:])
        line = start + 1
        start += length
        if fault:
            yield Statement(line=line, table=table, fault=f"expected TOML, found otherwise: {fault}")
        for key, value in parsed.items():
            if key == _CLUSTER_TABLE and value == {} and lines[line - 1].lstrip().startswith("["):
                table = _CLUSTER_TABLE
            elif isinstance(value, dict):
                yield Statement(line=line, table=table, fault=f"expected settings alone, found the table {key!r}")
                if lines[line - 1].lstrip().startswith("["):
                    return
            else:
                yield Statement(line=line, key=key, value=value, table=table)


def _read_one(lines: list[str]) -> tuple[dict[str, Any], str, int]:
    """Read the first statement: its keys and values, its fault, and the number of its lines."""
    first_fault = ""
    for length in range(1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[:length]) + "\n"), "", length
        except tomllib.TOMLDecodeError as error:
            first_fault = first_fault or re.sub(r" \(at .*\)", "", str(error))
            if _GOES_ON not in str(error):
                break
    return {}, first_fault, 1
