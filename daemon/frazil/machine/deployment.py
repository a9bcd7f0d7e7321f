"""The files for programs beside frazil that travel with it: of systemd, Prometheus and Grafana."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import frazil
from frazil.errors import OutputError
from frazil.faults import reason_of
from frazil.files import write_atomically

__all__ = ["Deployed", "Program", "deploy", "shipped"]

Program = Literal["prometheus", "grafana"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What became of the files."""

    written: list[Path]
    as_they_were: list[Path]
    """Files that were there already, with the same content."""
    kept: list[Path]
    """Files that were there already with other content, and were left alone."""


def shipped(name: str) -> Path:
    """A folder or file below ``deploy/``: in the wheel, or in the repository of a checkout."""
    package = Path(frazil.__file__).parent
    in_wheel = package / "deploy" / name
    return in_wheel if in_wheel.exists() else package.parents[1] / "deploy" / name


def deploy(program: Program, to: Path, *, replace: bool = False) -> Deployed:
    """Write the files of a program into a directory, which is made if missing.

    Args:
        program: whose files.
        to: the directory.
        replace: whether a file with other content is replaced.

    Raises:
        OutputError: a file cannot be read or written.
    """
    source, result = shipped(program), Deployed(written=[], as_they_were=[], kept=[])
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place, content = to / file.relative_to(source), file.read_bytes()
        try:
            before = place.read_bytes() if place.exists() else None
            if before is not None and (before == content or not replace):
                (result.as_they_were if before == content else result.kept).append(place)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, content)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written: {reason_of(error)}") from error
        result.written.append(place)
    return result
