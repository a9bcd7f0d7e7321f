"""The page in the docs: what stands between two of its comments comes from the report, the rest is prose."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.speed.pictures import PICTURES
from benchmarks.speed.report import Report
from benchmarks.speed.tables import make_table

__all__ = ["REPORT_FILE", "make_pages"]

_REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
_PAGE = _REFERENCE / "benchmarks.md"
REPORT_FILE = _REFERENCE / "speed" / "speed.json"
_PLACE = re.compile(r"(<!-- speed: ([\w-]+) -->\n).*?(<!-- speed: end -->)", re.DOTALL)


def make_pages(report: Report) -> dict[Path, str]:
    """Every file that is made from the report, with what belongs into it.

    Raises:
        KeyError: the page has a place for a table that there is not.
    """
    page = _PLACE.sub(
        lambda place: f"{place[1]}\n{make_table(report, place[2])}\n\n{place[3]}", _PAGE.read_text("utf-8")
    )
    pages = {_PAGE: page}
    if report.stages is not None:
        pages |= {REPORT_FILE.parent / name: draw(report) for name, draw in PICTURES.items()}
    return pages
