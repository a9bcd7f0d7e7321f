"""The self-test: a micrograph whose particles are known is picked, and the picks are compared with them.

It travels with frazil: simulated galactosidase on a picker's coarse grid, so that it is small and needs no simulator.
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
"""Of its particles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the known micrograph was picked."""

    model: str
    provider: str
    computes_in: str
    """Precision of its numbers."""
    particles: int
    picks: int
    hits: int
    """Picks within half a diameter of a particle, matched one to one."""
    load_seconds: float
    pick_seconds: float
    """Reading and picking it, with a model that is warm."""

    @property
    def precision(self) -> float:
        """Share of the picks that are hits."""
        return self.hits / self.picks if self.picks else 0.0

    @property
    def recall(self) -> float:
        """Share of the particles that were hit."""
        return self.hits / self.particles

    def check(self, least: float) -> None:
        """Check that picking works.

        Raises:
            FrazilError: precision or recall is less than this.
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
        settings: of a daemon, whose model and device are used.
        model: is used instead.

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
