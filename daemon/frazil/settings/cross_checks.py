"""Conditions on several settings together, each of which is valid by itself; and diameters that no particle has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from frazil.addresses import check_address, check_page_address, replay_address
from frazil.errors import AddressError

__all__ = [
    "CROSS_CHECKS",
    "doubt_diameter",
]

_SMALLEST_ANGSTROM = 30.0
"""About the size of lysozyme (14 kDa), which is too small to be seen."""
_LARGEST_ANGSTROM = 10_000.0
"""The largest viruses."""
_PER_NANOMETRE = 10


def doubt_diameter(angstrom: float) -> str | None:
    """The reason to doubt a diameter, whatever the micrographs are, with advice; None if there is none."""
    if _SMALLEST_ANGSTROM <= angstrom <= _LARGEST_ANGSTROM:
        return None
    found = f"expected {_SMALLEST_ANGSTROM:g} to {_LARGEST_ANGSTROM:g} Å, found {angstrom:g} Å"
    if _SMALLEST_ANGSTROM <= _PER_NANOMETRE * angstrom <= _LARGEST_ANGSTROM:
        return f"{found}; for {angstrom:g} nm, give {_PER_NANOMETRE * angstrom:g}"
    return found


Values = Mapping[str, Any]


def _absolute(name: str) -> Callable[[Values], str | None]:
    """A check that a list has absolute paths only."""

    def check(values: Values) -> str | None:
        relative = [path for path in values[name] if path and not Path(path).expanduser().is_absolute()]
        return f"expected absolute paths, found {relative[0]}" if relative else None

    return check


def _keys(values: Values) -> str | None:
    found = sum(values[name] is not None for name in ("curve_key", "curve_clients"))
    return "expected both or neither, found one" if found == 1 else None


def _diameter(values: Values) -> str | None:
    diameter = values["diameter_angstrom"]
    doubt = None if values["unusual_diameter"] or diameter is None else doubt_diameter(diameter)
    return doubt and f"{doubt} (unusual_diameter accepts it)"


def _target_precision(values: Values) -> str | None:
    if values["target_precision"] is None or (values["threshold"] is None and values["choose_threshold"]):
        return None
    return "expected target_precision only where frazil chooses the threshold"


def _defocus(values: Values) -> str | None:
    least, most = values["least_defocus_um"], values["most_defocus_um"]
    if least is None or most is None or least < most:
        return None
    return f"expected least_defocus_um below most_defocus_um, found {least:g} and {most:g}"


def _microscope(values: Values) -> str | None:
    pattern = PurePosixPath(values["sessions"])
    if values["root"] is not None and values["ledger"] is not None:
        return "expected no ledger with root, since each session has its own"
    if not pattern.parts or pattern.is_absolute() or {"..", "**"} & set(pattern.parts):
        return f"expected a pattern of directories below root, such as */Averages, found {values['sessions']!r}"
    return None


def _gpu(values: Values) -> str | None:
    on_cpu = values["require_gpu"] and values["device"] == "cpu"
    return "expected device to be auto or cuda, found cpu" if on_cpu else None


def _addresses(values: Values) -> str | None:
    allow_others = values["curve_key"] is not None or values["publish_unencrypted"]
    try:
        check_address(values["publish_address"], allow_others=allow_others)
        check_address(values["replay_address"] or replay_address(values["publish_address"]), allow_others=allow_others)
    except AddressError as error:
        return str(error)
    return None


def _http(values: Values) -> str | None:
    try:
        check_page_address(values["http_address"], allow_others=values["http_unencrypted"])
    except AddressError as error:
        return str(error)
    return None


def _ports(values: Values) -> str | None:
    publish = values["publish_address"]
    used = [publish, values["replay_address"] or replay_address(publish), values["http_address"]]
    ports = [port for address in used if (port := address.rpartition(":")[2]).isdecimal() and int(port)]
    return None if len(ports) == len(set(ports)) else f"expected a port for each, found {', '.join(used)}"


CROSS_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Values], str | None]], ...] = (
    (("link_roots",), _absolute("link_roots")),
    (("ctf_tables",), _absolute("ctf_tables")),
    (("curve_key", "curve_clients"), _keys),
    (("diameter_angstrom", "unusual_diameter"), _diameter),
    (("threshold", "choose_threshold", "target_precision"), _target_precision),
    (("least_defocus_um", "most_defocus_um"), _defocus),
    (("root", "sessions", "ledger"), _microscope),
    (("require_gpu", "device"), _gpu),
    (("publish_address", "replay_address", "curve_key", "publish_unencrypted"), _addresses),
    (("http_address", "http_unencrypted"), _http),
    (("http_address", "publish_address", "replay_address"), _ports),
)
"""Setting names and a check of them: it takes all values by name, and returns the disagreement or None."""
