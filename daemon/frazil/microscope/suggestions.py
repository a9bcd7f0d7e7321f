"""Suggestions: the particle's diameter, measured for sessions that wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from frazil.errors import FrazilError, MicrographError
from frazil.health.logs import event
from frazil.health.state import SuggestedDiameter
from frazil.model import Model
from frazil.picking import TRIED_ANGSTROM, Micrograph, TriedDiameter, estimate_diameter, try_diameters
from frazil.session.intake.completeness import prove_complete
from frazil.session.intake.scan import Scanner
from frazil.session.intake.selection import Selection
from frazil.session.models import Models
from frazil.session.outbox.file_stamp import FileStamp, stamp_of
from frazil.session.pick.turns import Turns
from frazil.settings import ServeSettings

__all__ = ["Suggestions"]

log = logging.getLogger(__name__)

_MICROGRAPHS = 3
"""Number of micrographs that are measured."""
_LOOK_SECONDS = 5.0
_MOST_NAMES = 1000
"""Names of micrographs of a session that are looked at, in the order in which they are found."""


class Suggestions:
    """Measures micrographs of sessions that wait for their diameter, in a thread of its own.

    It takes its turn with those who pick, for each diameter that is tried.

    Args:
        models: loads models.
        turns: whose turn it is to pick.
        read: reads a micrograph, within limits of memory and time.
    """

    def __init__(self, models: Models, turns: Turns, read: Callable[[Path], Micrograph]) -> None:
        self._models = models
        self._turns = turns
        self._read = read
        self._wanted: dict[str, ServeSettings] = {}
        self._tried: dict[str, dict[Path, list[TriedDiameter]]] = {}
        self._useless: dict[Path, tuple[FileStamp, ServeSettings]] = {}
        """Files that nothing can be measured on, while neither they nor the settings change."""
        self._found: dict[str, SuggestedDiameter] = {}

    def want(self, wanted: dict[str, ServeSettings]) -> None:
        """Say for which sessions a diameter is wanted, by name, with their settings but for that."""
        self._wanted = wanted
        if not wanted:
            self._useless = {}
        for name in [name for name in self._tried if name not in wanted]:
            self._tried.pop(name, None)
            self._found.pop(name, None)

    def of(self, name: str) -> SuggestedDiameter | None:
        """The suggestion for a session; None while there is none."""
        return self._found.get(name)

    def run(self, stop: threading.Event) -> None:
        """Measure until `stop` is set."""
        while not stop.wait(_LOOK_SECONDS if self._wanted else 1.0):
            for name, settings in list(self._wanted.items()):
                try:
                    self._measure(name, settings, stop)
                except (FrazilError, OSError) as error:  # it is tried again, with what there is then
                    log.debug("session %s: its diameter cannot be measured as yet: %s", name, error)

    def _measure(self, name: str, settings: ServeSettings, stop: threading.Event) -> None:
        tried = self._tried.setdefault(name, {})
        if len(tried) >= _MICROGRAPHS:
            return
        model = self._models.load(settings.model.expanduser(), settings.precision)
        for path in _micrographs_of(settings):
            if len(tried) >= _MICROGRAPHS or stop.is_set() or name not in self._wanted:
                break
            if path in tried:
                continue
            found: list[TriedDiameter] = []
            try:
                source = stamp_of(path), settings
                if self._useless.get(path) == source:
                    continue
                prove_complete(path)
                micrograph = self._read(path)
                for diameter in TRIED_ANGSTROM:
                    with self._turns:
                        found += _try_one(micrograph, diameter, settings, model)
            except OSError:
                continue
            except MicrographError:  # not complete as yet, or none
                found = []
            if found:
                tried[path] = found
                self._suggest(name, [one for several in tried.values() for one in several], len(tried))
            else:
                self._useless[path] = source

    def _suggest(self, name: str, tried: list[TriedDiameter], micrographs: int) -> None:
        estimate = estimate_diameter(tried)
        best = estimate.best
        self._found[name] = SuggestedDiameter(
            diameter_angstrom=round(best.diameter_angstrom),
            low_angstrom=round(best.low_angstrom),
            high_angstrom=round(best.high_angstrom),
            micrographs=micrographs,
            doubt=estimate.doubt or "",
        )
        log.info(
            "session %s: its particles look like %.0f Å (%.0f to %.0f; %d micrographs)",
            *(name, best.diameter_angstrom, best.low_angstrom, best.high_angstrom, micrographs),
            extra=event("session_suggestion", session=name),
        )


def _try_one(micrograph: Micrograph, diameter: float, settings: ServeSettings, model: Model) -> list[TriedDiameter]:
    try:
        return try_diameters(
            micrograph,
            model,
            pixel_size_angstrom=settings.pixel_size_angstrom,
            contrast=settings.contrast,
            diameters_angstrom=[diameter],
        )
    except MicrographError as error:
        if error.reason == "diameter":  # this one cannot be shown in it; others can
            return []
        raise


def _micrographs_of(settings: ServeSettings) -> list[Path]:
    """Micrographs of a session, by their names."""
    root = settings.watch.expanduser().resolve()
    names: list[str] = []
    selection = Selection(settings.include, settings.exclude, settings.companions, settings.layout)

    def note(key: str, reason: object) -> None:
        if reason is None and not key.endswith("/") and len(names) < _MOST_NAMES:
            names.append(key)

    links = [Path(place).expanduser() for place in settings.link_roots if place]
    Scanner(root, selection, {}, link_roots=links, on_name=note, on_restart=names.clear).scan()
    return [root / name for name in names]
