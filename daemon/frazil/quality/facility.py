"""Fits of the CTF that other programs made of the same micrographs: they are read in place of fitting again.

Beside a micrograph: CTFFIND's text and Warp's XML. In tables of many micrographs: RELION's ``micrographs_ctf.star`` and
cryoSPARC's exposures (``.cs``). docs/reference/ctf.md lists names and fields. Nothing in these files is trusted: sizes
are bounded before they are read, no object is unpickled, and no entity of XML is expanded.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from frazil.documents import CtfFit
from frazil.errors import FrazilError, printable
from frazil.files import open_regular
from frazil.picking.coordinates.cryosparc import CsRecords, read_records
from frazil.picking.coordinates.star import parse_tables, with_optics
from frazil.picking.coordinates.table import without_uid
from frazil.picking.formats import micrograph_stem

__all__ = ["FacilityTables", "find_facility_ctf"]

_TEXT_BYTES = 1 << 16
"""CTFFIND's text is shorter; its picture, which may end in .ctf, is not."""
_LARGEST_XML_BYTES = 1 << 24
_LARGEST_TABLE_BYTES = 1 << 26
"""A table of text takes some ten times its size in memory."""
_MOST_MICROGRAPHS = 200_000
_TEXT_ENDINGS = (
    *("_PS.txt", "_ctffind4.txt", "_ctffind5.txt", "_ctffind.txt", "_ctf.txt", "_CTF.txt", "_diagnostic.txt"),
    *(".ctf", ".txt"),
)
"""Of CTFFIND's text, after the micrograph's stem."""
_COPY_ENDINGS = re.compile(
    r"([_-](patch_aligned|rigid_aligned|aligned|doseweighted|noDW|DW|DWS|PS|fractions|EER|frames|movie))+$",
    re.IGNORECASE,
)
"""What programs that align movies add to a name."""
_FOUND_LETTERS = 60
_LARGEST_DEFOCUS_ANGSTROM = 1e6

_CTFFIND = re.compile(r"#\s*(Output from CTFFind|Columns: #1\W+micrograph number)", re.IGNORECASE)
_CTFFIND_OPTICS = re.compile(
    r"acceleration voltage:\s*([\d.]+).*spherical aberration:\s*([\d.]+).*amplitude contrast:\s*([\d.]+)", re.IGNORECASE
)
_WARP_AVERAGES = "average"
"""Folder of Warp's micrographs; its XML lies in the one above."""
_Source = Literal["ctffind", "relion", "cryosparc", "warp"]


@dataclass(frozen=True, slots=True)
class _Named:
    """A fit of a table, and the micrograph's name without its ending, with its folders, the innermost first."""

    stem: str
    folders: tuple[str, ...]
    fit: CtfFit


@dataclass(slots=True, kw_only=True)
class _Table:
    stamp: tuple[tuple[int, int] | None, ...]
    """Of its file, and of those that may name its micrographs."""
    fits: dict[str, list[_Named]]
    """By the name that is left of a micrograph's."""


@dataclass(slots=True, kw_only=True)
class FacilityTables:
    """Tables of a facility's fits, read again only after they changed. Whoever asks keeps it.

    Args:
        paths: of RELION's STAR files and cryoSPARC's ``.cs`` files; one that is not there yet may come. Where a job of
            cryoSPARC left the names of its micrographs in ``passthrough_exposures.cs``, both are given.

    Attributes:
        faults: why a file cannot be read, in words, by its path; a file beside a micrograph is among them until another
            micrograph is asked for.
    """

    paths: Sequence[Path] = ()
    faults: dict[Path, str] = field(default_factory=dict)
    _tables: dict[Path, _Table] = field(default_factory=dict)

    def look_up(self, micrograph: Path) -> CtfFit | None:
        """The fit of a micrograph in the first table that has one; of several of its name, that of its folder.

        Its own name comes before that of another copy of the same movie.
        """
        for path in self.paths:
            named = self._read(path).get(_bare(micrograph.name), [])
            stem, folders = micrograph_stem(micrograph.name), _folders(micrograph.parent)
            alike = [(one.stem == stem, _common(one.folders, folders)) for one in named]
            best = [one.fit for one, count in zip(named, alike, strict=True) if count == max(alike)]
            if best and all(one == best[0] for one in best):
                return best[0]
        return None

    def _read(self, path: Path) -> Mapping[str, list[_Named]]:
        is_cs = path.suffix.lower() == ".cs"
        files = [path, *(one for one in self.paths if one != path and one.suffix.lower() == ".cs")] if is_cs else [path]
        stamp = tuple(map(_stamp, files))
        if stamp[0] is None:
            self._tables.pop(path, None)
            self.faults.pop(path, None)
            return {}
        known = self._tables.get(path)
        if known is None or known.stamp != stamp:
            try:
                there = [one for one, its in zip(files, stamp, strict=True) if its is not None]
                fits = _index(path, _of_cryosparc(there) if is_cs else _of_relion(path))
                self.faults.pop(path, None)
            except FrazilError as error:
                self.faults[path] = str(error)
                fits = {} if known is None else known.fits  # it may be half written
            known = self._tables[path] = _Table(stamp=stamp, fits=fits)
        return known.fits


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def find_facility_ctf(micrograph: Path, tables: FacilityTables) -> CtfFit | None:
    """The fit that another program made of a micrograph; None where there is none that can be read.

    A file beside the micrograph comes before the tables. Why a file could not be read stands in `tables.faults`.
    """
    for path in [one for one in tables.faults if one not in tables.paths]:
        del tables.faults[path]
    stem = micrograph_stem(micrograph.name)
    for name in dict.fromkeys((stem, _bare(micrograph.name))):
        beside = [micrograph.with_name(name + ending) for ending in (".xml", *_TEXT_ENDINGS)]
        if micrograph.parent.name == _WARP_AVERAGES:
            beside.append(micrograph.parent.with_name(f"{name}.xml"))
        for path in beside:
            if not path.is_file():
                continue
            try:
                fit = _of_warp(path) if path.suffix == ".xml" else _of_ctffind(path)
            except FrazilError as error:
                tables.faults[path] = str(error)
                continue
            if fit is not None:
                return fit
    return tables.look_up(micrograph)


def _bare(name: str) -> str:
    """The name of an exposure: without folder, ending, cryoSPARC's identifier, and what aligning a movie adds."""
    stem = without_uid(micrograph_stem(PurePosixPath(name).name))
    return _COPY_ENDINGS.sub("", stem) or stem


def _folders(parent: PurePosixPath | Path) -> tuple[str, ...]:
    return tuple(reversed(parent.parts))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def _index(path: Path, fits: Iterator[tuple[str, CtfFit]]) -> dict[str, list[_Named]]:
    by_name: dict[str, list[_Named]] = {}
    for number, (name, fit) in enumerate(fits):
        if number >= _MOST_MICROGRAPHS:
            raise FrazilError(f"{path}: expected at most {_MOST_MICROGRAPHS} micrographs, found more")
        place = PurePosixPath(name)
        named = _Named(micrograph_stem(place.name), _folders(place.parent), fit)
        by_name.setdefault(_bare(name), []).append(named)
    return by_name


def _fit(
    path: Path,
    source: _Source,
    *,
    u: float,
    v: float,
    angle: float,
    shift_deg: float,
    resolution: float | None,
    correlation: float | None,
    voltage: float,
    cs: float,
    amplitude: float,
) -> CtfFit | None:
    """A fit as frazil's own are: U the larger defocus, the angle from 0 to 180; None where the program found none.

    Raises:
        FrazilError: no microscope has such numbers.
    """
    if not all(map(math.isfinite, (u, v, angle, shift_deg))) or (u == 0 and v == 0):
        return None
    if max(abs(u), abs(v)) > _LARGEST_DEFOCUS_ANGSTROM:
        raise FrazilError(
            f"{path}: expected a defocus of at most {_LARGEST_DEFOCUS_ANGSTROM / 1e4:g} µm, found {u:g} Å"
        )
    if not (10 <= voltage <= 3000 and 0 <= cs <= 100 and 0 <= amplitude <= 1):
        found = f"{voltage:g} kV, {cs:g} mm, {amplitude:g}"
        raise FrazilError(f"{path}: expected voltage, spherical aberration and amplitude contrast, found {found}")
    if u < v:
        u, v, angle = v, u, angle + 90
    follows_none = resolution == math.inf
    return CtfFit(
        defocus_u_angstrom=u,
        defocus_v_angstrom=v,
        defocus_angle_deg=angle % 180,
        phase_shift_deg=shift_deg % 180,
        resolution_angstrom=resolution if resolution is not None and 0 < resolution < math.inf else None,
        correlation=correlation if correlation is not None and -1 <= correlation <= 1 else None,
        voltage_kv=voltage,
        cs_mm=cs,
        amplitude_contrast=amplitude,
        source=source,
        is_reliable=not follows_none,
        doubt="the program found no ring that follows its fit" if follows_none else "",
    )


def _content(path: Path, most: int) -> bytes:
    """A file's first bytes: one more than `most` if there are more.

    Raises:
        FrazilError: it cannot be read.
    """
    try:
        with io.BufferedReader(open_regular(path)) as file:
            return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)  # so much is allocated
    except OSError as error:
        raise FrazilError(f"{path}: expected a fit of the CTF, cannot read it: {error.strerror}") from error


def _of_ctffind(path: Path) -> CtfFit | None:
    """CTFFIND 4 and 5, and programs that write as it does; None if it is something else, such as its picture.

    Columns: number, defocus 1 and 2 in Å, azimuth in degrees, phase shift in radians, correlation, resolution in Å;
    CTFFIND 5 has more.
    """
    text = _content(path, _TEXT_BYTES)[:_TEXT_BYTES].decode("utf-8", "replace")
    if not _CTFFIND.match(text):
        return None
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    optics = _CTFFIND_OPTICS.search(text)
    if not optics:
        raise FrazilError(
            f"{path}: expected a line with voltage, spherical aberration and amplitude contrast, found none"
        )
    if len(rows) != 1 or len(rows[0]) < 7:
        found = f"{len(rows)} rows" if len(rows) != 1 else f"{len(rows[0])} values"
        raise FrazilError(f"{path}: expected one row of at least 7 values, found {found}")
    try:
        _, u, v, angle, shift, correlation, resolution = (float(value) for value in rows[0][:7])
        voltage, cs, amplitude = (float(value) for value in optics.groups())
    except ValueError as error:
        raise FrazilError(f"{path}: expected numbers, found {printable(' '.join(rows[0]))[:_FOUND_LETTERS]}") from error
    return _fit(
        path,
        "ctffind",
        u=u,
        v=v,
        angle=angle,
        shift_deg=math.degrees(shift),
        resolution=resolution,
        correlation=correlation,
        voltage=voltage,
        cs=cs,
        amplitude=amplitude,
    )


def _of_warp(path: Path) -> CtfFit | None:
    """Warp's XML: ``<CTF>`` with ``<Param Name= Value=>``, in µm, and π for the phase shift; None without one."""
    content = _content(path, _LARGEST_XML_BYTES)
    if len(content) > _LARGEST_XML_BYTES:
        raise FrazilError(f"{path}: expected at most {_LARGEST_XML_BYTES >> 20} MiB of XML, found more")
    try:
        root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise FrazilError(f"{path}: cannot be read as XML ({printable(str(error))[:_FOUND_LETTERS]})") from error
    ctf = root.find("CTF")
    resolution = root.get("CTFResolutionEstimate")
    if root.tag != "Movie" or ctf is None or (resolution is None and root.find("OptionsCTF") is None):
        return None  # a tilt series, another program's, or not fitted yet: Warp writes defaults then
    values = {param.get("Name", ""): param.get("Value", "") for param in ctf.findall("Param")}
    if "Defocus" not in values:
        return None
    numbers = dict.fromkeys(("DefocusDelta", "DefocusAngle", "PhaseShift"), 0.0)
    for name in (*numbers, "Defocus", "Voltage", "Cs", "Amplitude"):
        if name in values or name not in numbers:
            numbers[name] = _number(path, name, values.get(name))
    half = numbers["DefocusDelta"] / 2
    return _fit(
        path,
        "warp",
        u=1e4 * (numbers["Defocus"] + half),
        v=1e4 * (numbers["Defocus"] - half),
        angle=numbers["DefocusAngle"],
        shift_deg=180 * numbers["PhaseShift"],
        resolution=_number(path, "CTFResolutionEstimate", resolution) if resolution else None,
        correlation=None,
        voltage=numbers["Voltage"],
        cs=numbers["Cs"],
        amplitude=numbers["Amplitude"],
    )


def _number(path: Path, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        found = "none" if text is None else repr(text[:_FOUND_LETTERS])
        raise FrazilError(f"{path}: expected a number as {name}, found {found}") from None


_RELION_NEEDED = (
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"),
    *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"),
)
_RELION = frozenset((*_RELION_NEEDED, "rlnPhaseShift", "rlnCtfMaxResolution", "rlnCtfFigureOfMerit"))


def _of_relion(path: Path) -> Iterator[tuple[str, CtfFit]]:
    """Micrographs of a STAR file of RELION 3.0, and of 3.1 with its optics groups.

    A row that is no fit is passed over, unless there is no other.
    """
    content = _content(path, _LARGEST_TABLE_BYTES)
    if len(content) > _LARGEST_TABLE_BYTES:
        raise FrazilError(f"{path}: expected at most {_LARGEST_TABLE_BYTES >> 20} MiB, found more")
    try:
        tables = list(parse_tables(content.decode("utf-8-sig")))
    except ValueError as error:  # no text, or no STAR
        raise FrazilError(f"{path}: cannot be read as a STAR file ({printable(str(error))})") from None
    table = next((one for one in tables if {"rlnMicrographName", "rlnDefocusU"} <= one.columns.keys()), None)
    if table is None:
        raise FrazilError(
            f"{path}: expected a table with rlnMicrographName and rlnDefocusU, found none: give "
            "the micrographs_ctf.star of a job of CTF estimation"
        )
    columns = with_optics(table, tables)
    for name in _RELION_NEEDED:
        if name not in columns:
            raise FrazilError(f"{path}: expected a column {name}, found none")
    fault: FrazilError | None = None
    is_any = False
    for row, micrograph in enumerate(columns["rlnMicrographName"]):
        try:
            fit = _of_row(path, {name: values[row] for name, values in columns.items() if name in _RELION})
        except FrazilError as error:
            fault = fault or error
            continue
        is_any = True
        if fit is not None:
            yield micrograph, fit
    if fault is not None and not is_any:
        raise fault


def _of_row(path: Path, values: Mapping[str, str]) -> CtfFit | None:
    def number(name: str) -> float:
        return _number(path, name, values[name])

    def optional(name: str) -> float | None:
        return number(name) if name in values else None

    return _fit(
        path,
        "relion",
        u=number("rlnDefocusU"),
        v=number("rlnDefocusV"),
        angle=number("rlnDefocusAngle"),
        shift_deg=optional("rlnPhaseShift") or 0.0,
        resolution=optional("rlnCtfMaxResolution"),
        correlation=optional("rlnCtfFigureOfMerit"),
        voltage=number("rlnVoltage"),
        cs=number("rlnSphericalAberration"),
        amplitude=number("rlnAmplitudeContrast"),
    )


_CS_NAME = "micrograph_blob/path"
_CS_NEEDED = ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")
_CS_OPTIONAL = ("ctf/phase_shift_rad", "ctf_stats/ctf_fit_to_A", "ctf_stats/cross_corr")


def _of_cryosparc(paths: Sequence[Path]) -> Iterator[tuple[str, CtfFit]]:
    """Exposures of the first file, whose angles and defocus are RELION's but for their units.

    The names of the micrographs are its own, or those that another file has for the same ``uid``.
    """
    path, more = paths[0], (*_CS_NEEDED, *_CS_OPTIONAL)
    records = read_records(path, more_numbers=more, most_records=_MOST_MICROGRAPHS)
    if not any(name in records.columns for name in _CS_NEEDED) and _CS_NAME in records.columns:
        return  # it names the micrographs of another one
    for needed in _CS_NEEDED:
        if needed not in records.columns:
            raise FrazilError(f"{path}: expected a field {needed}, found none: give exposures with their CTF")
    names = _names(records)
    for other in paths[1:] if not names else ():
        names = {**_names(read_records(other, most_records=_MOST_MICROGRAPHS)), **names}
    if not names:
        raise FrazilError(
            f"{path}: expected a field {_CS_NAME}, found none: give the file that has it too, such as "
            "passthrough_exposures.cs"
        )
    columns = {
        one: [float(value) for value in records.columns[one].tolist()]
        for one in (*_CS_NEEDED, *_CS_OPTIONAL)
        if one in records.columns
    }
    for row, uid in enumerate(records.uids("uid").tolist()):
        if uid not in names:
            continue
        u, v, angle, voltage, cs, amplitude = (columns[one][row] for one in _CS_NEEDED)
        shift, resolution, correlation = (columns[one][row] if one in columns else None for one in _CS_OPTIONAL)
        fit = _fit(
            path,
            "cryosparc",
            u=u,
            v=v,
            angle=math.degrees(angle),
            shift_deg=math.degrees(shift or 0.0),
            resolution=resolution,
            correlation=correlation or None,  # 0 where it was not filled in
            voltage=voltage,
            cs=cs,
            amplitude=amplitude,
        )
        if fit is not None:
            yield names[uid], fit


def _names(records: CsRecords) -> dict[int, str]:
    """Names of micrographs by ``uid``."""
    if _CS_NAME not in records.columns:
        return {}
    codes = records.columns[_CS_NAME].tolist()
    return {uid: records.names[_CS_NAME][code] for uid, code in zip(records.uids("uid").tolist(), codes, strict=True)}
