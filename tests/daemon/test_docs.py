"""The docs say what the code does: every setting, field, reason; every link; every example."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from frazil.documents import (
    CtfFit,
    FailedDocument,
    Heartbeat,
    MicrographDocument,
    ModelDocument,
    PickColumns,
    QualityDocument,
    Seconds,
    SessionDocument,
    document_schema,
)
from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS
from frazil.model import ModelContract, ModelIdentity
from frazil.replay import CatalogEntry, CatalogPage, CatalogRequest, ReplayPage, ReplayRequest
from frazil.session.intake.passed_over import PASS_REASONS
from frazil.session.pick.model_changes import ModelChange
from frazil.settings import COMPANIONS, ClusterSettings, ServeSettings


def read(repository: Path, *parts: str) -> str:
    return repository.joinpath("docs", "reference", *parts).read_text("utf-8")


def test_every_setting_is_documented_with_its_sentence(repository: Path) -> None:
    text = read(repository, "settings.md")
    for settings in (ServeSettings, ClusterSettings):
        hints = get_type_hints(settings, include_extras=True)
        for field in msgspec.structs.fields(settings):
            assert f"| `{field.name}` |" in text
            assert hints[field.name].__metadata__[-1].description in text


def test_the_companions_and_the_reasons_to_pass_over_are_documented(repository: Path) -> None:
    text = read(repository, "settings.md")
    (listed,) = re.findall(r"^companions = \[.*?^\]$", text, re.MULTILINE | re.DOTALL)
    assert tuple(tomllib.loads(listed)["companions"]) == COMPANIONS
    assert re.findall(r"^\| `(\w+)` \|", text.partition("## What is passed over")[2], re.MULTILINE) == [*PASS_REASONS]


def test_every_field_on_the_wire_is_documented(repository: Path) -> None:
    text = read(repository, "documents.md")
    documents = (MicrographDocument, QualityDocument, FailedDocument, ModelDocument, SessionDocument, Heartbeat)
    for record in (*documents, CtfFit, ModelIdentity, PickColumns, Seconds):
        missing = [f.encode_name for f in msgspec.structs.fields(record) if f"`{f.encode_name}`" not in text]
        assert missing == []


def test_every_field_of_a_replay_is_documented(repository: Path) -> None:
    text = read(repository, "stream.md")
    for record in (ReplayRequest, ReplayPage, CatalogRequest, CatalogPage, CatalogEntry):
        assert [f.encode_name for f in msgspec.structs.fields(record) if f'"{f.encode_name}"' not in text] == []


def test_the_json_schema_is_that_of_the_records(repository: Path) -> None:
    published = read(repository, "documents.schema.json")
    assert json.loads(published) == document_schema(), "run: frazil schema > docs/reference/documents.schema.json"


def test_every_key_of_the_contract_is_documented(repository: Path, make_contract: Callable[[], ModelContract]) -> None:
    text = read(repository, "model-contract.md")
    assert [key for key in make_contract().to_metadata() if f"`{key}`" not in text] == []


def test_every_reason_of_failure_is_documented(repository: Path) -> None:
    text = read(repository, "bad-input.md")
    reasons = set()
    for source in (repository / "daemon" / "frazil").rglob("*.py"):
        code = source.read_text("utf-8")
        reasons |= set(re.findall(r'(?:MicrographError|IncompleteMicrograph)\(\s*[\w.]+,\s*"(\w+)"', code))
    assert {"truncated", "not_mrc", "stack", "internal", "name"} <= reasons <= set(MICROGRAPH_REASONS)
    assert [reason for reason in MICROGRAPH_REASONS if f"`{reason}`" not in text] == []


def test_every_reason_to_refuse_a_model_is_documented(repository: Path, bad_models: dict[str, str]) -> None:
    text = read(repository, "model-repository.md")
    reasons = set(bad_models.values())
    for source in (repository / "daemon" / "frazil").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ModelError":
                reasons |= {reason.value for reason in node.args[1:] if isinstance(reason, ast.Constant)}
    # Nobody is told of the last two: the daemon ends, or another model takes the place of the one refused.
    assert {"canary", "hash", "provider"} <= reasons <= {*MODEL_REASONS, "stopped", "superseded"}
    assert [r for r in MODEL_REASONS if f"`{r}`" not in text] == []


def test_every_event_of_the_journal_is_documented(repository: Path) -> None:
    text = read(repository, "service.md")
    events = set()
    for source in (repository / "daemon" / "frazil").rglob("*.py"):
        events |= set(re.findall(r'extra=event\("(\w+)"', source.read_text("utf-8")))
    events |= {f"model_{event}" for event in get_args(get_type_hints(ModelChange)["event"])}
    assert {"picked", "failed", "hangs", "model_refused"} <= events
    assert [event for event in events if f"`{event}`" not in text] == []


def test_every_check_of_the_doctor_is_documented(repository: Path) -> None:
    text = read(repository, "doctor.md")
    checks = set()
    for source in (repository / "daemon" / "frazil" / "machine").rglob("*.py"):
        checks |= set(re.findall(r'(?:DoctorResult|_examine_writable)\(\s*"(\w+)"', source.read_text("utf-8")))
    assert {"python", "clock", "model", "watch", "out", "ledger"} <= checks
    assert [check for check in checks if f"`{check}`" not in text] == []


def test_links_between_pages_lead_somewhere(repository: Path) -> None:
    pages = [repository / "README.md", repository / "CONTRIBUTING.md", *(repository / "docs").rglob("*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


@pytest.mark.parametrize("module", ["frazil.picking", "frazil_trainer.simulate"])
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_no_module_is_called_daemon_or_trainer(repository: Path) -> None:
    assert not (repository / "daemon" / "__init__.py").exists()
    assert not (repository / "trainer" / "__init__.py").exists()


def test_the_site_builds_without_warnings_and_asks_nothing_of_other_hosts(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "how-to" / "install-at-a-microscope" / "index.html").read_text("utf-8")
    assert "Install at a microscope" in page
    loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"[^>]*>', page)
    assert loaded == []


def test_every_decision_has_a_date_and_a_status_and_stands_in_the_index(repository: Path) -> None:
    folder = repository / "docs" / "decisions"
    index, site = (folder / "README.md").read_text("utf-8"), (repository / "mkdocs.yml").read_text("utf-8")
    numbers = []
    for page in sorted(folder.glob("[0-9]*.md")):
        lines = page.read_text("utf-8").splitlines()
        number, title = page.name[:4], lines[0].removeprefix(f"# {page.name[:4]}. ")
        date, status = lines[2].removeprefix("Date: ").strip(), lines[3].removeprefix("Status: ")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", date), page.name
        assert status.startswith(("accepted", "superseded")), page.name
        assert f"| {number} | [{title}]({page.name}) | {date} | {status} |" in index, page.name
        assert f"decisions/{page.name}" in site, page.name
        numbers.append(int(number))
    unused = [int(number) for number in re.findall(r"^\| (\d{4}) \| \*This number was never used", index, re.MULTILINE)]
    assert sorted([*numbers, *unused]) == list(range(1, max(numbers) + 1))


def test_the_house_page_names_modules_that_there_are_and_counts_them(repository: Path) -> None:
    package, text = repository / "daemon" / "frazil", read(repository, "..", "house.md")
    rooms = {path.name for path in package.iterdir() if path.is_dir()}
    named = {name for name in re.findall(r"`([a-z]+(?:/\w+)+)/?`", text) if name.partition("/")[0] in rooms}
    assert len(named) > 30
    assert sorted(name for name in named if not ((package / f"{name}.py").is_file() or (package / name).is_dir())) == []
    for on_the_way, called, walk in re.findall(
        r"(\d+) modules on the way, (\d+) called\.(.*?)^## ", text, re.MULTILINE | re.DOTALL
    ):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in walk.splitlines() if line.startswith("|")]
        numbers = [int(row[0]) for row in rows if row[0].isdecimal()]
        assert numbers == list(range(1, int(on_the_way) + 1))
        assert sum(len(re.findall(r"`([\w/]+)`", row[3])) for row in rows) == int(called)
