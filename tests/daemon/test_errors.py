"""What a user sees of a name that holds anything: one line, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from frazil.documents import MicrographDocument
from frazil.errors import MicrographError, error_line, printable
from frazil.file_picker import PickedFile
from frazil.health.logs import LineFormatter

HOSTILE = "a\x1b[2J\r\n\x9b31m\u202e\udcff.mrc"
SHOWN = "a\\x1b[2J"


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


def test_readable_names_stay_as_they_are() -> None:
    assert printable("Grille 3 – Mikroskop Ü, 一.mrc") == "Grille 3 – Mikroskop Ü, 一.mrc"


def test_an_error_line_shows_control_characters() -> None:
    line = error_line("frazil", MicrographError(Path(HOSTILE), "corrupt", "expected this"))
    assert line.isprintable()
    assert line.startswith(f"frazil: error: {SHOWN}")


def test_log_lines_and_tracebacks_show_control_characters() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        raise MicrographError(Path(HOSTILE), "corrupt", "expected this")
    except MicrographError as error:
        log.exception("failed %s", HOSTILE, exc_info=error)
    first, *traceback = stream.getvalue().splitlines()
    assert first.startswith(f"ERROR failed {SHOWN}")
    assert traceback[0].startswith("Traceback")
    assert any(SHOWN in line for line in traceback)
    assert all(line.isprintable() for line in (first, *traceback))


def test_the_line_of_a_picked_file_shows_control_characters(make_document: Callable[..., MicrographDocument]) -> None:
    picked = PickedFile(document=make_document(f"/data/{HOSTILE}"), file=Path("out") / HOSTILE)
    assert picked.as_line().isprintable()
