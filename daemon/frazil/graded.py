"""Micrographs with their grades: which are chosen, and tables of them as RELION reads them.

A person's mark of a micrograph, good or bad, comes before frazil's grade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from frazil.documents import Grade, Mark, MicrographDocument
from frazil.picking.coordinates.star import spell
from frazil.session.outbox.ledger import LedgerReader, QualityRecord

__all__ = ["GRADE_CHOICES", "GradeChoice", "GradedMicrograph", "graded_micrographs", "micrographs_star"]

GradeChoice = Literal["all", "good", "usable"]
"""Which micrographs are chosen; ``usable`` are those that are not bad."""
GRADE_CHOICES: dict[GradeChoice, frozenset[Grade]] = {
    "all": frozenset(("good", "doubtful", "bad")),
    "good": frozenset(("good",)),
    "usable": frozenset(("good", "doubtful")),
}
_MOST_CORRECTED = 1_000_000
_NOWHERE_ANGSTROM = 999.0
"""What RELION writes for the resolution of a fit that reaches nowhere."""
_OPTICS = ("rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_OPTICS_OF_CTF = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_CTF = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnCtfAstigmatism",
    "rlnDefocusAngle",
    "rlnCtfFigureOfMerit",
    "rlnCtfMaxResolution",
)
_Group = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedMicrograph:
    """An assessed micrograph."""

    path: Path
    """Of its file, as documents name it."""
    grade: Grade
    """A person's mark, else frazil's grade."""
    record: QualityRecord


def graded_micrographs(reader: LedgerReader, choice: GradeChoice = "all") -> Iterator[GradedMicrograph]:
    """The assessed micrographs of a session, by path.

    Raises:
        OutputError: the ledger cannot be read.
    """
    marks = dict(_marks(reader))
    root = _root(reader)
    for record in reader.qualities():
        mark = marks.get(record.path, "")
        grade: Grade = mark or record.grade
        if grade in GRADE_CHOICES[choice]:
            yield GradedMicrograph(path=root / record.path, grade=grade, record=record)


def micrographs_star(micrographs: Iterable[tuple[str, QualityRecord]]) -> tuple[str, list[str]]:
    """Micrographs as a table of RELION 3.1, as its own CTF jobs write it: optics groups, then the micrographs.

    Where the CTF of some could be fitted, those without are left out: RELION takes a defocus of 0 for one that was
    measured. Where none could, as in a session of filtered pictures, the table has all, without a CTF.

    Args:
        micrographs: the name of each as it is to stand in the table, and what is known of it.

    Returns:
        The text, and the names of those that were left out, each with the reason.
    """
    found = list(micrographs)
    with_ctf = any(record.defocus_u_angstrom is not None for _, record in found)
    with_phase = with_ctf and any(record.phase_shift_deg for _, record in found)
    groups: dict[_Group, int] = {}
    rows, left_out = [], []
    for name, record in found:
        if with_ctf and record.defocus_u_angstrom is None:
            left_out.append(f"{name}: no CTF was fitted")
            continue
        try:
            spelt = spell(name)
        except ValueError as error:
            left_out.append(str(error))
            continue
        group = groups.setdefault(_group_of(record), len(groups) + 1)
        values = [spelt, str(group), *(_ctf_values(record) if with_ctf else ())]
        rows.append([*values, f"{record.phase_shift_deg or 0.0:.2f}"] if with_phase else values)
    optics = [
        [f"opticsGroup{number}", str(number), pixel_size, pixel_size, *rest]
        for (pixel_size, *rest), number in groups.items()
    ]
    columns = ("rlnMicrographName", "rlnOpticsGroup", *(_CTF if with_ctf else ()))
    text = _table("optics", (*_OPTICS, *(_OPTICS_OF_CTF if with_ctf else ())), optics)
    text += _table("micrographs", (*columns, "rlnPhaseShift") if with_phase else columns, rows)
    return text, left_out


def _table(block: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, start=1))
    return f"\n# version 30001\n\ndata_{block}\n\nloop_\n{names}" + "".join(f"{' '.join(row)}\n" for row in rows) + "\n"


def _group_of(record: QualityRecord) -> _Group:
    """Pixel size and, with a CTF, voltage, aberration and amplitude contrast: an optics group has the same."""
    values = (record.pixel_size_angstrom, record.voltage_kv, record.cs_mm, record.amplitude_contrast)
    return tuple(f"{value:.6f}" for value in values if value is not None)


def _ctf_values(record: QualityRecord) -> tuple[str, ...]:
    u, v = record.defocus_u_angstrom or 0.0, record.defocus_v_angstrom or 0.0
    resolution = record.ctf_resolution_angstrom
    return (
        f"{u:.2f}",
        f"{v:.2f}",
        f"{abs(u - v):.2f}",
        f"{record.defocus_angle_deg or 0.0:.2f}",
        f"{record.ctf_correlation or 0.0:.6f}",
        f"{_NOWHERE_ANGSTROM if resolution is None else resolution:.4f}",
    )


def _marks(reader: LedgerReader) -> Iterator[tuple[str, Mark]]:
    for stored in reader.corrected_results(_MOST_CORRECTED):
        document = stored.decode()
        if isinstance(document, MicrographDocument) and not isinstance(document.corrections, msgspec.UnsetType):
            yield stored.path, document.corrections.mark


def _root(reader: LedgerReader) -> Path:
    """The watched directory by the name that documents give it; relative where there is no document."""
    newest = reader.newest_result()
    document = None if newest is None else msgspec.json.decode(newest.body, type=MicrographDocument)
    if newest is None or document is None:
        return Path()
    return Path(document.path).parents[len(Path(newest.path).parts) - 1]
