"""The names that others may use: commands and options, settings, exit statuses, and what Python programs import."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import io
import itertools
import json
import os
import re
import sys
import typing
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from golden.scenario import MODELS, Json

PROGRAMS = ("frazil", "frazil-train")
MODULES = ("frazil", "frazil.client", "frazil.documents")
ERRORS = ("AddressError", "FrazilError", "OutputError", "SettingsError")
"""Those that `PickStream` says it raises, and what they have in common; of ``frazil.errors``."""


# --- commands ---------------------------------------------------------------------------------------------------


def run(program: str, *arguments: object) -> tuple[int, str]:
    """Run a command as its script would, in this process, which saves its start; exit status and what it printed."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name=program)
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with (
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"}),
        redirect_stdout(printed),
        redirect_stderr(printed),
    ):
        try:
            script.load()()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        else:
            status = 0
    text = printed.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return status, re.sub(r"\x1b\[[\d;]*m", "", text)


def describe_commands() -> Json:
    """Each command: how many words it takes, and its options, with whether they take a value; from its help."""
    described: Json = {}
    waiting = [(program,) for program in PROGRAMS]
    while waiting:
        words = waiting.pop(0)
        status, text = run(*words, "--help")
        assert status == 0, text
        usage = re.search(r"Usage: (.*)", text)
        assert usage is not None, text
        arguments = usage[1].split("[OPTIONS]")[1].split()
        panels = re.findall(r"^╭─ (.*?) ─+╮\n(.*?)^╰", text, re.MULTILINE | re.DOTALL)
        if arguments[:1] == ["COMMAND"]:
            for panel in (panel for title, panel in panels if title != "Options"):
                waiting += [(*words, name) for name in re.findall(r"^│ ([a-z][\w-]*) ", panel, re.MULTILINE)]
        options = {name: takes for _, panel in panels for name, takes in _options(panel)}
        described[" ".join(words)] = {"arguments": len(arguments), "options": options}
    return described


def _options(panel: str) -> Iterator[tuple[str, bool]]:
    """Names of options, each with whether it takes a value."""
    # What an option takes stands below what that of --help does.
    column = next((line.index("<bool>") for line in panel.splitlines() if "--help " in line), None)
    for line in re.findall(r"^│ [* ]*-.*│$", panel, re.MULTILINE):
        words = line.strip("│* ").split()
        names = list(itertools.takewhile(re.compile(r"--?[a-z][\w-]*").fullmatch, words))
        is_pair = any(name.startswith("--no-") for name in names)
        is_flag = is_pair or words[len(names)] == "<bool>" or (column is not None and line[column] == " ")
        for name in names:
            yield name, not is_flag


# --- exit statuses ----------------------------------------------------------------------------------------------

STATUSES: dict[str, list[str]] = {
    "nothing to do": [],
    "version": ["--version"],
    "unknown command": ["frobnicate"],
    "unknown option": ["serve", "--frobnicate"],
    "no settings": ["serve"],
    "bad settings": ["check-settings", "{folder}/bad.toml"],
    "good settings": ["check-settings", "{folder}/good.toml"],
    "settings that are not there": ["check-settings", "{folder}/none.toml"],
    "no ledger": ["status", "--ledger", "{folder}"],
    "damaged ledger": ["ledger", "check", "--ledger", "{folder}/damaged.sqlite"],
    "nothing to pick again": ["requeue", "--ledger", "{folder}"],
    "no micrograph": ["pick", "{folder}/none.mrc", "--diameter", "48", "--out", "{folder}", "--model", "{models}/1"],
    "no model": ["models", "verify", "{folder}"],
    "a bad address": ["listen", "nowhere", "--timeout", "0.1"],
    "nobody answers": ["listen", "tcp://127.0.0.1:1", "--timeout", "0.1"],
    "schema": ["schema"],
}
"""What is run of ``frazil`` to see its exit status."""


def exit_statuses(folder: Path, models: Path) -> dict[str, int]:
    """Each with its exit status."""
    (folder / "bad.toml").write_text("treshold = 2\n")
    (folder / "good.toml").write_text(f'watch = "{folder}"\nout = "{folder}/out"\ndiameter = 100\n')
    (folder / "damaged.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    return {
        name: run("frazil", *(word.format(folder=folder, models=models) for word in words))[0]
        for name, words in STATUSES.items()
    }


# --- what commands read out of a ledger -------------------------------------------------------------------------


def read_status(ledger: Path) -> Json:
    """What ``frazil status --json`` says of a ledger that no daemon uses, but for what depends on the time."""
    status, printed = run("frazil", "status", "--json", "--ledger", ledger)
    assert status == 0, printed
    return {name: "..." if name == "troubles" else value for name, value in json.loads(printed).items()}


def preview(ledger: Path) -> Json:
    """The picks of a micrograph within other limits, from its score map in the ledger."""
    limits = ("--threshold", "0.2", "--min-distance", "30", "--edge-margin", "20")
    status, printed = run("frazil", "retune", ledger, "--micrograph", "a.mrc", *limits, "--json")
    assert status == 0, printed
    return dict(json.loads(printed))


# --- settings ---------------------------------------------------------------------------------------------------


def write_settings(file: Path, names: Json) -> Path:
    """Write a settings file that gives each setting a value; directories and keys are made beside it."""
    folder = file.parent
    for name in ("watched", "clients"):
        (folder / name).mkdir(exist_ok=True)
    for name, inside in (("own", folder), ("client", folder / "clients")):
        if not list(inside.glob(f"{name}.key*")):
            status, printed = run("frazil", "keys", "new", inside, "--name", name)
            assert status == 0, printed
    filled = json.loads(json.dumps(names).replace("{folder}", str(folder)).replace("{models}", str(MODELS / "disc")))
    lines = [f"{name} = {json.dumps(value)}" for name, value in filled.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


# --- names ------------------------------------------------------------------------------------------------------


def describe_names(repository: Path) -> Json:
    """Every public name of the modules that others import, and what the docs and the examples use of frazil."""
    described: Json = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        described[module] = {name: _describe(getattr(loaded, name)) for name in sorted(loaded.__all__)}
    errors = importlib.import_module("frazil.errors")
    described["frazil.errors"] = {
        name: {"is a": sorted(base.__name__ for base in getattr(errors, name).__mro__ if base.__name__ != name)}
        for name in ERRORS
    }
    described["used in docs and examples"] = sorted(set(_used(repository)))
    return described


def _describe(thing: Any) -> Any:
    if inspect.isclass(thing):
        said: Json = {"members": sorted(name for name in dir(thing) if not name.startswith("_"))}
        if issubclass(thing, msgspec.Struct):
            fields = msgspec.structs.fields(thing)
            said["fields"] = {
                field.name: "needed"
                if field.required
                else "left out"
                if field.default is msgspec.UNSET
                else msgspec.to_builtins(
                    field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
                )
                for field in fields
            }
        elif overloads := typing.get_overloads(thing.__init__):
            hints = [typing.get_type_hints(overload) for overload in overloads]
            named = {name for hint in hints for name in hint if name not in ("self", "options", "return")}
            options = {name for hint in hints for name in typing.get_args(hint["options"])[0].__annotations__}
            said["takes"] = sorted(named | options)
        else:
            said["takes"] = sorted(inspect.signature(thing).parameters)
        return said
    if callable(thing):
        return {"takes": list(inspect.signature(thing).parameters)}
    if typing.get_args(thing):
        return {"one of": sorted(kind.__name__ for kind in typing.get_args(thing))}
    return {"is a": type(thing).__name__} if isinstance(thing, str) and "." in thing else {"value": str(thing)}


def _used(repository: Path) -> Iterator[str]:
    texts = [path.read_text("utf-8") for path in sorted((repository / "examples").glob("*.py"))]
    for page in (repository / "README.md", *sorted((repository / "docs").rglob("*.md"))):
        texts += re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "frazil":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "frazil":
                yield f"frazil.{node.attr}"


def resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def schema_without_texts(schema: Any) -> Any:
    """A JSON Schema without what is said to people."""
    if isinstance(schema, dict):
        texts = ("description",) if not isinstance(schema.get("description"), dict) else ()
        return {key: schema_without_texts(value) for key, value in schema.items() if key not in texts}
    return [schema_without_texts(one) for one in schema] if isinstance(schema, list) else schema
