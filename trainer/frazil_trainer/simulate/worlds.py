"""Worlds: micrographs no two of which have the molecule, the microscope, the specimen or the handling in common.

A picker that is trained on them learns what particles have in common rather than how some look (domain randomisation:
Tobin et al., IROS 2017; for cryo-EM, Harastani et al., Template Learning, Nature Communications 2025).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import OutputError
from frazil.picking import write_star
from frazil.picking.picks import Picks
from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.handling import draw_handling
from frazil_trainer.simulate.imaginary import imagine_molecule
from frazil_trainer.simulate.micrograph import series_seed, simulate_micrograph, write_junk, write_pixels
from frazil_trainer.simulate.molecules import MODEL_NAMES, density_model
from frazil_trainer.simulate.series import write_manifest
from frazil_trainer.simulate.settings import SimulationSettings
from frazil_trainer.simulate.surroundings import Surroundings
from frazil_trainer.simulate.variety import bend, embed, empty_disc

__all__ = ["DIAMETERS_NAME", "World", "simulate_world", "write_worlds"]

DIAMETERS_NAME = "diameters.csv"
"""Table of the micrographs in a folder: ``micrograph``, a stem, ``diameter_angstrom``, ``molecule``, ``particles``."""
_MANIFEST_NAME = "worlds.json"

_SIDE_DIAMETERS = (17.0, 25.0)
_DIAMETERS_PX = (26.0, 58.0)
_DIRTY_SIDE_DIAMETERS = (18.0, 38.0)
"""Wide, since what is junk shows in what lies around it."""
_DIRTY_DIAMETERS_PX = (22.0, 40.0)
_DIRTY_KINDS, _DIRTY_SHARES = (0, 1, 2, 4), (0.25, 0.4, 0.25, 0.1)
"""How many kinds of junk a dirty world has, and how often."""
_EMPTY_SHARE = 0.18
_IMAGINARY_SHARE = 0.35
_IMAGINARY_DIAMETERS_ANGSTROM = (75.0, 420.0)
_GIVEN_DIAMETERS = (0.82, 1.1)
"""What people give as the diameter, over that of the sphere around the molecule."""
_SMALL_STRANGER, _LARGE_STRANGER = 0.5, 1.8
"""Other molecules are smaller or larger than these, in diameters; those of like size could not be told apart."""
_NO_PARTICLES = ("tmv_rod", "microtubule", "origami")
"""Names that begin so are of rods, filaments and artificial shapes: they are strangers, never particles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """A micrograph of a world of its own."""

    pixels: NDArray[np.float32]
    """(h, w) as other programs leave them."""
    truth: Picks
    pixel_size_angstrom: float
    diameter_angstrom: float
    """As a person may give it."""
    molecule: str
    junk: NDArray[np.uint8]
    """(h, w) what of `JUNK_KINDS` lies at each pixel, counted from 1; 0 where there is none."""


def simulate_world(
    seed: int | np.random.SeedSequence,
    molecules: Sequence[DensityModel] = (),
    *,
    is_empty: bool | None = None,
    is_dirty: bool = False,
) -> World:
    """Simulate a micrograph of which everything is drawn from wide ranges, also whether it holds particles.

    Args:
        seed: decides everything.
        molecules: real ones to draw from, beside imaginary ones. Default: the simulator's own.
        is_empty: whether it holds no particles, only all else. Default: drawn.
        is_dirty: whether it is for learning junk: wider, three in four with one or several kinds of it, the others with
            none at all.
    """
    rng = np.random.default_rng(seed)
    known = molecules or [density_model(name) for name in MODEL_NAMES]
    particles = [molecule for molecule in known if not molecule.name.startswith(_NO_PARTICLES)]
    molecule = _draw_molecule(particles, rng)
    drawn_empty = rng.random() < _EMPTY_SHARE
    is_empty = drawn_empty if is_empty is None else is_empty
    diameter_px = _log_uniform(rng, *(_DIRTY_DIAMETERS_PX if is_dirty else _DIAMETERS_PX))
    pixel_size = molecule.diameter_angstrom / diameter_px
    side = round(rng.uniform(*(_DIRTY_SIDE_DIAMETERS if is_dirty else _SIDE_DIAMETERS)) * diameter_px)
    settings = _draw_settings(side, pixel_size, rng, is_empty=is_empty)
    surroundings = _draw_surroundings(molecule, known, (side / diameter_px) ** 2, rng, is_empty=is_empty)
    if is_dirty:
        settings, surroundings = _with_junk(settings, surroundings, (side / diameter_px) ** 2, rng)
    seeds = np.random.SeedSequence(int(rng.integers(2**63)))
    simulated = simulate_micrograph(settings, seeds, molecule, surroundings)
    pixels, factor = draw_handling(simulated.pixels, diameter_px, rng)
    h, w = (new / old for new, old in zip(pixels.shape, simulated.pixels.shape, strict=True))
    truth = simulated.truth
    return World(
        pixels=pixels,
        truth=Picks(y=(truth.y + 0.5) * h - 0.5, x=(truth.x + 0.5) * w - 0.5, score=truth.score),
        pixel_size_angstrom=pixel_size / factor,
        diameter_angstrom=round(molecule.diameter_angstrom * float(rng.uniform(*_GIVEN_DIAMETERS)), 1),
        molecule=molecule.name,
        junk=np.asarray(cv2.resize(simulated.junk, pixels.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def write_worlds(
    folder: Path, molecules: Sequence[DensityModel], *, count: int, seed: int, are_dirty: bool = False
) -> Iterator[Path]:
    """Write worlds 1 to `count` of a seed, yielding each path when its file is complete, and then their diameters.

    Dirty ones have a mask of their junk beside them. Files of an earlier call with the same molecules and seed are
    kept.

    Raises:
        SettingsError: the folder holds worlds of other molecules or another seed.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(
            folder / _MANIFEST_NAME,
            {"seed": seed, "molecules": [one.name for one in molecules]} | ({"dirty": True} if are_dirty else {}),
            "expected worlds of these molecules and this seed, found others; give them a folder of their own",
        )
        rows = []
        for index in range(count):
            path = folder / f"world_{index + 1:04d}.mrc"
            row = path.with_suffix(".json")
            if not path.exists():
                world = simulate_world(series_seed(seed, index), molecules, is_dirty=are_dirty)
                if are_dirty:
                    write_junk(path, world.junk)
                write_star(path.with_suffix(".star"), world.truth)
                row.write_text(
                    json.dumps([path.stem, world.diameter_angstrom, world.molecule, len(world.truth)]) + "\n", "utf-8"
                )
                write_pixels(path, world.pixels, world.pixel_size_angstrom)
            rows.append(json.loads(row.read_text("utf-8")))
            yield path
        with (folder / DIAMETERS_NAME).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["micrograph", "diameter_angstrom", "molecule", "particles"], *rows])
    except OSError as error:
        raise OutputError(f"{folder}: cannot write micrographs there: {error.strerror}") from error


def _draw_molecule(known: Sequence[DensityModel], rng: np.random.Generator) -> DensityModel:
    if rng.random() < _IMAGINARY_SHARE:
        molecule = imagine_molecule(_log_uniform(rng, *_IMAGINARY_DIAMETERS_ANGSTROM), rng)
        if rng.random() < 0.4:
            molecule = _stretched(molecule, rng)
        embedded = rng.random() < 0.3 and molecule.diameter_angstrom < 260
    else:
        molecule = known[int(rng.integers(len(known)))]
        embedded = rng.random() < 0.2 and molecule.diameter_angstrom < 220
    return embed(molecule, rng) if embedded else molecule


def _stretched(molecule: DensityModel, rng: np.random.Generator) -> DensityModel:
    """Up to three times as long as wide, or as flat as that; of the same volume and largest diameter."""
    factor = float(np.exp(rng.uniform(-1, 1) * np.log(3)))
    positions = molecule.positions * np.array([1, 1, factor]) / max(1.0, factor)
    weights = molecule.weights * min(1.0, factor) / max(1.0, factor**2)
    return replace(molecule, positions=positions, weights=weights)


def _draw_settings(side: int, pixel_size: float, rng: np.random.Generator, *, is_empty: bool) -> SimulationSettings:
    voltage = float(rng.choice([300.0, 200.0, 120.0], p=[0.65, 0.3, 0.05]))
    crowd = rng.random()
    coverage = (0.02, 0.15) if crowd < 0.25 else (0.12, 0.45) if crowd < 0.6 else (0.4, 0.95)
    distance = rng.uniform(0.7, 1.1) if crowd < 0.6 else rng.uniform(0.5, 0.95)
    dirt = int(rng.integers(0, 6)) if rng.random() < 0.3 else 0
    coarse = _log_uniform(rng, 0.04, 2.0)
    return SimulationSettings(
        shape=(side, side),
        pixel_size_angstrom=pixel_size,
        voltage_kv=voltage,
        cs_mm=float(rng.choice([2.7, 2.0, 1.4, 0.01], p=[0.7, 0.15, 0.1, 0.05])),
        amplitude_contrast=float(rng.uniform(0.06, 0.14)),
        defocus_range_um=(0.6, 3.6),
        astigmatism_range_um=(0.0, 0.15),
        b_factor_range_a2=(40.0, 800.0),
        elastic_share_range=(0.3, 0.95),
        dose_e_per_a2=_log_uniform(rng, 12, 90),
        detector_blur_px=float(rng.uniform(0.2, 0.9)),
        noise_blur_share=float(rng.uniform(0, 0.9)),
        particles_per_micrograph=(0, 0) if is_empty else None,
        coverage_range=coverage,
        minimum_distance_diameters=float(distance),
        overlap_fraction=float(rng.uniform(0, 0.2)) if rng.random() < 0.5 else 0.0,
        fragments_per_particle_range=(0.0, 0.6),
        ice_gradient=_log_uniform(rng, 0.005, 0.25),
        ice_noise_rad_angstrom=float(rng.uniform(0.03, 0.12)),
        coarse_noise_range_rad_angstrom=(coarse, coarse),
        carbon_probability=0.3 if is_empty else 0.18,
        contamination_range=(dirt, dirt),
    )


def _draw_surroundings(
    molecule: DensityModel, known: Sequence[DensityModel], area: float, rng: np.random.Generator, *, is_empty: bool
) -> Surroundings:
    """What lies around the particles, on an area in diameters squared; more of it where there are none."""
    more = 2.0 if is_empty else 1.0

    def some(probability: float, lowest: int, highest: int) -> int:
        return int(rng.integers(lowest, highest, endpoint=True)) if rng.random() < probability * more else 0

    diameter = molecule.diameter_angstrom
    small = [one for one in known if one.diameter_angstrom < _SMALL_STRANGER * diameter]
    large = [one for one in known if _LARGE_STRANGER * diameter < one.diameter_angstrom < 5 * diameter]
    strangers: list[tuple[DensityModel, int]] = []
    if small and rng.random() < 0.3 * more:
        strangers.append((small[int(rng.integers(len(small)))], round(area * rng.uniform(0.05, 0.6))))
    if large and rng.random() < 0.08 * more:
        strangers.append((large[int(rng.integers(len(large)))], int(rng.integers(1, 5))))
    if rng.random() < 0.06 * more:
        strangers.append((empty_disc(0.45 * diameter, rng), round(area * rng.uniform(0.02, 0.2))))
    variants = tuple(bend(molecule, rng) for _ in range(4)) if rng.random() < 0.35 else ()
    return Surroundings(
        strangers=tuple(strangers),
        clumps=some(0.15, 1, 6),
        filaments=some(0.1, 1, 8),
        speckles=some(0.1, 1, 3),
        small_dirt=some(0.15, 2, 40),
        metal=rng.random() < 0.3,
        view_spread_deg=float(rng.uniform(8, 35)) if rng.random() < 0.35 else None,
        variants=variants,
    )


def _with_junk(
    settings: SimulationSettings, surroundings: Surroundings, area: float, rng: np.random.Generator
) -> tuple[SimulationSettings, Surroundings]:
    """The same without junk, then with that of some kinds, on an area in diameters squared."""
    film, dirt = 0.0, 0
    surroundings = replace(surroundings, clumps=0, filaments=0, speckles=0, small_dirt=0, metal=False)
    kinds = ("film", "ice crystals", "large ice crystals", "ethane", "clumps", "crystalline ice", "filaments", "cracks")
    shares = np.array([3, 2, 2, 2, 2, 1.5, 1, 2])
    for kind in rng.choice(kinds, rng.choice(_DIRTY_KINDS, p=_DIRTY_SHARES), replace=False, p=shares / shares.sum()):
        match kind:
            case "film":
                film = 1.0
                surroundings = replace(
                    surroundings,
                    metal=bool(rng.random() < 0.2),
                    film_edge_range=(-0.6, 0.9),
                    on_film=round(area * rng.uniform(0, 0.6)) if rng.random() < 0.5 else 0,
                )
            case "ice crystals":
                dirt = int(rng.integers(1, 12, endpoint=True))
            case "large ice crystals":
                surroundings = replace(surroundings, large_dirt=int(rng.integers(1, 4, endpoint=True)))
            case "ethane":
                surroundings = replace(surroundings, small_dirt=int(rng.integers(3, 50)))
            case "clumps":
                surroundings = replace(surroundings, clumps=int(rng.integers(1, 7)))
            case "crystalline ice":
                surroundings = replace(surroundings, speckles=int(rng.integers(1, 3)))
            case "filaments":
                surroundings = replace(surroundings, filaments=int(rng.integers(1, 7)))
            case _:
                surroundings = replace(surroundings, cracks=int(rng.integers(1, 4)))
    return replace(settings, carbon_probability=film, contamination_range=(dirt, dirt)), surroundings


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
