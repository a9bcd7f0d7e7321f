"""What the docs tell readers to type is what there is: commands, options, settings, files, metrics, addresses, anchors.

Commands are read as the command line itself reads them, short of being run; the page that installs is typed as it
stands by `tests/system/test_walk_through.py`.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import tomllib
import typing
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest
import typer
import yaml

import frazil.commands.cli
import frazil_trainer.cli
from frazil.health.metrics import Metrics
from frazil.settings import ServeSettings, load_cluster_settings, load_settings

PROGRAMS: dict[str, Any] = {
    "frazil": typer.main.get_command(frazil.commands.cli.app),
    "frazil-train": typer.main.get_command(frazil_trainer.cli.app),
}


@dataclass(frozen=True, kw_only=True)
class Block:
    page: str
    language: str
    text: str


def pages(repository: Path) -> list[Path]:
    found = [repository / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*found, *sorted((repository / "docs").rglob("*.md"))]


def blocks(repository: Path, *languages: str) -> list[Block]:
    return [
        Block(page=str(page.relative_to(repository)), language=language, text=text)
        for page in pages(repository)
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        if language in languages
    ]


def inline(repository: Path) -> Iterator[tuple[str, str]]:
    """Every piece of code within the text, with its page."""
    for page in pages(repository):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`]+)`", text):
            yield str(page.relative_to(repository)), " ".join(code.split())


def command_lines(repository: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Each command that stands in the docs: its page, its words, and whether it is a line to type."""
    for block in blocks(repository, "", "sh", "bash", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from ((block.page, words, True) for words in _commands(line.removeprefix("$ ")))
    for page, code in inline(repository):
        yield from ((page, words, False) for words in _commands(code))


def _commands(line: str) -> Iterator[list[str]]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return  # no command, but text
    for k, word in enumerate(words):
        program = word.rpartition("/")[2]
        # The word that is run: the first one, one by its path, or one behind sudo, torchrun and so on.
        is_run = k == 0 or word.startswith(("/opt/", ".venv/")) or (words[0] == "sudo" and words[k - 1] == "em")
        if is_run and program in (*PROGRAMS, "make", "python", "python3"):
            end = next((j for j in range(k, len(words)) if words[j] in ("|", ">", ";", "&&", "||")), len(words))
            yield [program, *words[k + 1 : end]]
            return


def fault_of(words: list[str], *, complete: bool = False) -> str:
    """What is wrong with a command line of ours; empty where nothing is.

    Args:
        words: of it. Three dots stand for what is left out, and a word in capitals for what the reader fills in.
        complete: whether nothing may be left out without dots.
    """
    if words[1:] == ["--install-completion"]:
        return ""  # it would do so
    command, given = PROGRAMS[words[0]], [word for word in words[1:] if word != "..."]
    context = command.context_class(command, info_name=words[0])
    while hasattr(command, "get_command") and given and not given[0].startswith("-"):
        found = command.get_command(context, given[0])
        if found is None:
            return f"there is no command {given[0]!r}"
        command, given = found, given[1:]
        context = command.context_class(command, info_name=command.name, parent=context)
    if hasattr(command, "get_command") and not given:
        return ""  # a family of commands
    faults = []
    for filled in (given, ["1" if word.isupper() else word for word in given]):
        try:
            command.make_context(command.name, list(filled), parent=context.parent)
        except typer.Exit:
            return ""  # --help
        except Exception as error:  # noqa: BLE001 - typer has a click of its own, whose errors have no public name
            says = error.format_message()  # type: ignore[attr-defined]
            left_out = "Missing " in says or (given[-1].startswith("--") and "requires an argument" in says)
            to_fill_in = any(f"'{word}' is not one of" in says for word in given if word.isupper())
            if to_fill_in or (left_out and (not complete or "..." in words)):
                return ""
            faults.append(says)
        else:
            return ""
    return faults[0]


def test_every_command_in_the_docs_is_one_that_there_is_with_its_options(repository: Path) -> None:
    faults, checked = [], 0
    for page, words, is_line in command_lines(repository):
        if words[0] in PROGRAMS:
            checked += 1
            if fault := fault_of(words, complete=is_line):
                faults.append((page, " ".join(words), fault))
    assert not faults, "\n".join(map(str, faults))
    assert checked > 120


def test_the_check_of_commands_finds_faults() -> None:
    assert "No such option" in fault_of(["frazil", "serve", "--wacth", "x"])
    assert "no command" in fault_of(["frazil", "ledger", "shwo"])
    assert "valid number" in fault_of(["frazil", "retune", "OUT", "--threshold", "high"])
    assert "Missing" in fault_of(["frazil", "pick"], complete=True)
    assert "is not one of" in fault_of(["frazil", "ledger", "list", "--state", "lost"])
    assert fault_of(["frazil", "listen", "--to", "DIR", "--format", "..."]) == ""


@pytest.mark.parametrize("has_labelled", [False, True])
def test_models_can_be_made_without_the_labelled_micrographs(
    repository: Path, tmp_path: Path, has_labelled: bool
) -> None:
    if has_labelled:
        (tmp_path / "prepare.py").touch()
    make = ["make", "--dry-run", "models", f"SHARED={tmp_path}", "DATA=here", "VENV=/nowhere"]
    done = subprocess.run([*make, "-o", "/nowhere/.ready"], cwd=repository, capture_output=True, text=True, check=False)
    commands = done.stdout
    assert (f"/nowhere/bin/python {tmp_path}/prepare.py here" in commands) is has_labelled
    assert ("No labelled micrographs: there is no " in commands) is not has_labelled
    assert ("--skip-missing" in commands) is not has_labelled
    assert "frazil-train train" in commands


def test_every_make_target_and_script_in_the_docs_is_there(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    missing = []
    for page, words, _ in command_lines(repository):
        if words[0] == "make":
            missing += [(page, word) for word in words[1:2] if word not in targets]
        elif words[0].startswith("python"):
            module = words[2].replace(".", "/") if words[1:2] == ["-m"] and words[2:] else ""
            if module.startswith("benchmarks"):
                script = repository / f"{module}.py"
                script = script if script.exists() else repository / module / "__main__.py"
            elif words[1:2] and words[1].endswith(".py"):
                script = repository / words[1]
            else:
                continue
            source = script.read_text("utf-8") if script.exists() else ""
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            missing += [(page, " ".join(words)) for _ in [0] if not source]
            missing += [(page, f"{script.name} {option}") for option in options if f'"{option}"' not in source]
    assert missing == []


def test_pip_is_only_told_to_install_into_a_venv(repository: Path) -> None:
    """Elsewhere Debian and Ubuntu refuse it (PEP 668)."""
    outside = []
    for block in blocks(repository, "", "sh", "bash", "console"):
        active = False
        for line in block.text.splitlines():
            active = active or re.search(r"(^|\s)(\.|source) \S+/bin/activate", line) is not None
            if re.search(r"(?<![\w/])pip3? install", line) and not active:
                outside.append((block.page, line))
    assert outside == []


# --- settings and recipes ---------------------------------------------------------------------------------------

SETTINGS = {field.name: field for field in msgspec.structs.fields(ServeSettings)}


def load(text: str, folder: Path) -> ServeSettings:
    """Settings from a piece of the docs; what is needed and what it names is there."""
    given = tomllib.loads(text)
    needed = {"watch": str(folder), "out": str(folder / "out"), "diameter_angstrom": 191}
    if "root" in given:
        del needed["watch"]
    for name, value in given.items():
        kind = typing.get_type_hints(ServeSettings, include_extras=True)[name].__metadata__[-1].extra["must_be"]
        if kind is not None and isinstance(value, str):
            path = folder / name
            path.touch() if kind == "file" else path.mkdir()
            given[name] = str(path)
    pairs = {"curve_key": "curve_clients", "curve_clients": "curve_key"}
    for name in [name for name in pairs if name in given and pairs[name] not in given]:
        path = folder / pairs[name]
        path.mkdir() if pairs[name] == "curve_clients" else path.touch()
        given[pairs[name]] = str(path)
    return load_settings(needed | given, None)


def test_every_toml_block_is_settings_or_a_recipe_that_loads(repository: Path, tmp_path: Path) -> None:
    from frazil_trainer.recipe import Recipe

    kinds = []
    for k, block in enumerate(blocks(repository, "toml")):
        found = tomllib.loads(block.text)
        if set(found) == {"cluster"}:
            load_cluster_settings(found["cluster"], None)
            kinds.append("cluster")
        elif set(found) <= set(SETTINGS):
            folder = tmp_path / str(k)
            folder.mkdir()
            load(block.text, folder)
            kinds.append("settings")
        else:
            known = {"like", *(field.encode_name for field in msgspec.structs.fields(Recipe))}
            assert set(found) <= known, (block.page, set(found) - known)
            for field in msgspec.structs.fields(Recipe):
                if field.encode_name in found:
                    msgspec.convert(found[field.encode_name], field.type, strict=False, dec_hook=_as_path)
            kinds.append("recipe")
    assert {"settings", "recipe", "cluster"} <= set(kinds)


def _as_path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value


def test_every_setting_given_in_the_text_can_be_given_so(repository: Path, tmp_path: Path) -> None:
    """Together with those of the same paragraph, which may be needed for it."""
    faults, checked = [], 0
    for page in pages(repository):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for paragraph in re.split(r"\n\s*\n|^\|", text, flags=re.MULTILINE):
            given = [(name, value) for name, value in re.findall(r"`(\w+) = ([^`]+)`", paragraph) if name in SETTINGS]
            for name, value in given:
                folder = tmp_path / str(checked)
                folder.mkdir()
                together = dict(reversed(given)) | {name: value}
                try:
                    load("\n".join(f"{one} = {' '.join(says.split())}" for one, says in together.items()), folder)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported with its page
                    faults.append((page.name, f"{name} = {value}", str(error)))
                checked += 1
    assert faults == []
    assert checked >= 10


def test_an_address_that_others_reach_stands_beside_what_allows_it(repository: Path) -> None:
    """frazil refuses to listen on it otherwise, so that a reader who typed it alone would be stuck."""
    needs = {"http_address": "http_unencrypted", "publish_address": "curve_key|publish_unencrypted"}
    alone = []
    for page in pages(repository):
        for paragraph in re.split(r"\n\s*\n", page.read_text("utf-8")):
            for name, wanted in needs.items():
                flag = wanted.replace("_", "-")
                if re.search(rf'\b{name} = "(?!127\.|localhost)|--{name} (?:tcp://)?0\.0\.0\.0', paragraph):
                    alone += [(page.name, name) for _ in [0] if not re.search(f"{wanted}|{flag}", paragraph)]
    assert alone == []


# --- other languages --------------------------------------------------------------------------------------------


def test_every_block_of_another_language_can_be_read(repository: Path) -> None:
    for block in blocks(repository, "json", "yaml"):
        (json.loads if block.language == "json" else yaml.safe_load)(block.text)


def test_every_python_block_asks_for_names_that_there_are(repository: Path) -> None:
    missing = []
    for block in blocks(repository, "python"):
        tree = ast.parse(block.text)
        for node in ast.walk(tree):
            wanted: list[tuple[str, str]] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "frazil":
                wanted = [("frazil", node.attr)]
            for module, name in wanted:
                if module.partition(".")[0] in ("frazil", "frazil_trainer") and not hasattr(
                    importlib.import_module(module), name
                ):
                    missing.append((block.page, f"{module}.{name}"))
    assert missing == []


# --- names ------------------------------------------------------------------------------------------------------


def test_every_metric_in_the_docs_is_one_that_there_is(repository: Path) -> None:
    known = set()
    for family in Metrics(prometheus_client.CollectorRegistry()).registry.collect():
        suffixes = {"counter": ("", "_total"), "histogram": ("", "_bucket", "_sum", "_count")}.get(family.type, ("",))
        known |= {family.name + suffix for suffix in suffixes}
    for page in pages(repository):
        text = re.sub(r"[\w./-]*frazil_trainer[\w./-]*", "", page.read_text("utf-8"))
        named = set(re.findall(r"(?<![\w/.-])frazil_\w*[^\W_](?!\w|\.?\*)", text))  # not frazil_session_.*
        assert named <= known, (page.name, named - known)


def test_every_address_of_the_page_in_the_docs_is_answered(repository: Path, open_page: Any) -> None:
    page = open_page()
    asked = set()
    for source in pages(repository):
        asked |= set(re.findall(r"http://(?:127\.0\.0\.1|localhost):9457(/[\w/-]*)", source.read_text("utf-8")))
    table = (repository / "docs" / "reference" / "page.md").read_text("utf-8")
    asked |= {path for path in re.findall(r"^\| `(/[\w/-]*)", table, re.MULTILINE) if "/SEQ" not in path}
    assert {"/", "/metrics", "/healthz"} <= asked

    def answer(path: str) -> bytes:
        try:
            with urllib.request.urlopen(page.url + path, timeout=30) as answered:
                return bytes(answered.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.read()

    nowhere = answer("/nowhere")
    assert [path for path in sorted(asked - {"/events"}) if answer(path) == nowhere] == []


def test_every_path_of_the_repository_in_the_docs_is_there(repository: Path) -> None:
    tops = {path.name for path in repository.iterdir() if path.is_dir()} - {"docs", "training", "models"}
    missing = []
    for page, code in inline(repository):
        if page == "CHANGELOG.md":
            continue
        if re.fullmatch(r"[\w.@-]+(/[\w.@*-]+)+", code) and code.partition("/")[0] in tops and code.upper() != code:
            missing += [(page, code) for _ in [0] if not list(repository.glob(code))]
    assert missing == []


def slug(heading: str) -> str:
    text = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w -]", "", text).replace(" ", "-")


def test_every_link_to_a_section_leads_to_one(repository: Path) -> None:
    sections = {
        page.resolve(): {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)}
        for page in pages(repository)
    }
    broken = []
    for page in pages(repository):
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
            leads_to = (page.parent / target).resolve() if target else page.resolve()
            if leads_to in sections and anchor not in sections[leads_to]:
                broken.append((page.name, f"{target}#{anchor}"))
    assert broken == []


@pytest.mark.parametrize("name", ["http", "include", "curve_key"])
def test_the_check_of_settings_finds_faults(name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=name.replace("_", "[-_]")):
        load(f"{name} = 5", tmp_path)
