"""A series of simulated micrographs on disk, with its settings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from frazil.errors import OutputError, SettingsError
from frazil.picking import write_star
from frazil_trainer.simulate.micrograph import series_seed, simulate_micrograph, write_junk, write_micrograph
from frazil_trainer.simulate.settings import SimulationSettings

__all__ = ["MANIFEST_NAME", "write_manifest", "write_series"]

MANIFEST_NAME = "simulation.json"


def write_series(
    folder: Path,
    settings: SimulationSettings,
    *,
    count: int,
    seed: int,
    interval_seconds: float = 0.0,
    masks: bool = False,
) -> Iterator[Path]:
    """Write micrographs 1 to `count` of a series, yielding each path when the file is complete.

    The STAR file is written before its micrograph, so that every micrograph has one. Files of an earlier call with
    the same settings and seed are kept. With `masks`, each has the mask of its junk beside it.

    Raises:
        SettingsError: the folder holds a series with other settings or another seed.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(
            folder / MANIFEST_NAME,
            {"seed": seed, "settings": asdict(settings)},
            "expected a series of these settings and this seed, found another; give it a folder of its own",
        )
        for index in range(count):
            started = time.monotonic()
            path = folder / f"simulated_{index + 1:04d}.mrc"
            if not path.exists():
                simulated = simulate_micrograph(settings, series_seed(seed, index))
                if masks:
                    write_junk(path, simulated.junk)
                write_star(path.with_suffix(".star"), simulated.truth)
                if index:
                    time.sleep(max(0.0, interval_seconds - (time.monotonic() - started)))
                write_micrograph(path, simulated)
            yield path
    except OSError as error:
        raise OutputError(f"{folder}: cannot write micrographs there: {error.strerror}") from error


def write_manifest(file: Path, manifest: dict[str, object], mismatch: str) -> None:
    """Write what micrographs are made of, once.

    Raises:
        SettingsError: the file says otherwise; the message ends in `mismatch`.
        OSError: the file cannot be read or written.
    """
    text = json.dumps(manifest, indent=2) + "\n"
    if not file.exists():
        file.write_text(text, "utf-8")
    elif file.read_text("utf-8") != text:
        raise SettingsError(f"{file}: {mismatch}")
