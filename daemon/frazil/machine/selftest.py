"""The self-test: picks a micrograph with known particles, and compares the picks with them.

The micrograph is part of frazil: simulated galactosidase on a model's coarse grid, so that it is small and needs no
simulator.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from frazil.errors import FrazilError
from frazil.model import Device, load_model
from frazil.picking import Picker, PickingSettings, PreparationOnDevice, match_picks, read_micrograph, read_star
from frazil.settings import ServeSettings, default_model_path

__all__ = ["KNOWN_DIAMETER_ANGSTROM", "KNOWN_MICROGRAPH", "Outcome", "run_selftest"]

_KNOWN = Path(__file__).parent / "known"
KNOWN_MICROGRAPH = _KNOWN / "micrograph.mrc.gz"
KNOWN_DIAMETER_ANGSTROM = 172.0
"""Diameter of the particles in the known micrograph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of picking the known micrograph."""

    model: str
    provider: str
    computes_in: str
    """Precision of the model's computation."""
    particles: int
    picks: int
    hits: int
    """Number of picks within half a diameter of a particle, matched one to one."""
    load_seconds: float
    pick_seconds: float
    """Time of reading and picking, with a warm model."""

    @property
    def precision(self) -> float:
        """Fraction of the picks that are hits."""
        return self.hits / self.picks if self.picks else 0.0

    @property
    def recall(self) -> float:
        """Fraction of the particles that were hit."""
        return self.hits / self.particles

    def check(self, least: float) -> None:
        """Check that precision and recall are high enough.

        Raises:
            FrazilError: precision or recall is lower.
        """
        if min(self.precision, self.recall) < least:
            raise FrazilError(
                f"the known micrograph: expected precision and recall of at least {least:g}, found "
                f"{self.precision:.2f} and {self.recall:.2f}; a model for another kind of particle may do so, "
                "the one in the wheel must not: install frazil again, and run frazil doctor"
            )


def run_selftest(settings: ServeSettings | None = None, *, model: Path | None = None) -> Outcome:
    """Pick the known micrograph.

    Args:
        settings: settings of a daemon, whose model and device are used; None for the defaults.
        model: model to use instead of the settings'.

    Raises:
        FrazilError: the model cannot serve.
    """
    device: Device = settings.device if settings else "auto"
    started = time.perf_counter()
    loaded = load_model(
        model or (settings.model if settings else default_model_path()),
        device,
        settings.threads if settings else None,
        require_gpu=settings is not None and settings.require_gpu,
        precision=settings.precision if settings else "float32",
    )
    device_preparation = PreparationOnDevice(loaded)
    loaded.warm_up()
    ready = time.perf_counter()
    micrograph = read_micrograph(KNOWN_MICROGRAPH)
    picking = PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM)
    picks = Picker(loaded, picking, device=device_preparation).pick(micrograph)
    done = time.perf_counter()
    truth = read_star(_KNOWN / "truth.star")
    pixel_size = micrograph.resolve_pixel_size(None)
    hits = int((match_picks(picks, truth, 0.5 * KNOWN_DIAMETER_ANGSTROM / pixel_size) >= 0).sum())
    return Outcome(
        model=loaded.identity.short,
        provider=loaded.provider,
        computes_in=loaded.precision,
        particles=len(truth),
        picks=len(picks),
        hits=hits,
        load_seconds=ready - started,
        pick_seconds=done - ready,
    )
