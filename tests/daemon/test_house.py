"""What has one home stays there: these are read from the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

OUTBOX = "session/outbox/"


def users(repository: Path, pattern: str, *homes: str) -> list[str]:
    """Lines of the daemon that match, outside of their homes."""
    root = repository / "daemon" / "frazil"
    return [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        if not str(file.relative_to(root)).startswith(homes)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize(
    ("what", "pattern", "homes"),
    [
        ("retries", r"\._retry\b|until_stopped|catch_up|insist", (OUTBOX,)),
        ("commits", r"\.commit_\w+\(|body_at", (OUTBOX,)),
        # `frazil pick --json` and `frazil listen` print documents, or write them as files.
        (
            "encodes documents",
            r"encode_document\b",
            (OUTBOX, "documents.py", "file_picker.py", "commands/stream.py", "pick_files.py"),
        ),
    ],
)
def test_nobody_but_the_outbox(repository: Path, what: str, pattern: str, homes: tuple[str, ...]) -> None:
    assert users(repository, pattern, *homes) == [], f"only the outbox {what}"


def test_only_one_module_writes_a_file_aside_and_renames_it(repository: Path) -> None:
    """All others go through `frazil.files`, which flushes file and folder."""
    assert users(repository, r"aside\.replace\(", "files.py") == []
