"""What was measured: one JSON object a line, written as it comes, so that a run that is cut off keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Results"]

Row = dict[str, Any]


class Results:
    """The file of the rows. Each names its ``part`` and its ``case``; of two of one case the later counts."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, part: str, case: str, figures: Row) -> None:
        """One more row, on the disk at once."""
        # A line that a kill cut short ends here, and spoils no other.
        cut = self._file.exists() and not self._file.read_bytes().endswith(b"\n")
        with self._file.open("a") as file:
            file.write("\n" * cut + json.dumps({"part": part, "case": case} | figures) + "\n")

    def rows(self) -> list[Row]:
        """The newest row of each case."""
        newest: dict[tuple[str, str], Row] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            newest[row["part"], row["case"]] = row
        return list(newest.values())

    def measured(self, part: str) -> set[str]:
        """Cases of a part that need no other try."""
        return {row["case"] for row in self.rows() if row["part"] == part and "failed" not in row}
