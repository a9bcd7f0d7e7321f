"""The specimen: the phase of molecules, amorphous ice, carbon film and dirt in the electron wave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frazil_trainer.simulate.density import DensityModel, project, random_rotations
from frazil_trainer.simulate.placement import place_particles
from frazil_trainer.simulate.scene import (
    CarbonFilm,
    Contamination,
    Frame,
    draw_carbon,
    draw_contamination,
    ice_transmission,
)
from frazil_trainer.simulate.settings import SimulationSettings
from frazil_trainer.simulate.surroundings import (
    Clump,
    Crack,
    Filament,
    Speckle,
    Surroundings,
    draw_clumps,
    draw_cracks,
    draw_filaments,
    draw_speckle,
    filament_phase,
)
from frazil_trainer.simulate.variety import preferred_rotations

__all__ = ["JUNK_KINDS", "Specimen", "draw_specimen", "lay_junk", "lay_noise", "lay_phase", "lay_transmission"]

_Array = NDArray[np.float32]

JUNK_KINDS = (
    "crystalline ice",
    "carbon film",
    "metal film",
    "filament",
    "crack",
    "clump",
    "ice crystal",
    "frozen ethane",
)
"""What `lay_junk` marks, from 1; of several at one place the last."""

_CLEARANCE_DIAMETERS = 0.15
"""Least distance of particles' centres from carbon and contamination."""
_LEAST_DIRT_DIAMETERS = 0.6
"""Smallest radius of contamination, larger than a particle's."""
_LEAST_LARGE_DIRT_DIAMETERS = 1.5
_LEAST_SPECK_DIAMETERS = 0.15
"""Smallest radius of specks of frozen ethane, which may be as large as particles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Specimen:
    """Positions of everything, in pixels of the micrograph."""

    model: DensityModel
    centres: NDArray[np.float64]
    """(n, 2) centres of the particles, columns y, x; some lie outside and reach in."""
    fragments: NDArray[np.float64]
    """(m, 2) places of broken pieces, columns y, x."""
    carbon: CarbonFilm | None
    contamination: tuple[Contamination, ...]
    surroundings: Surroundings
    clumps: tuple[Clump, ...]
    filaments: tuple[Filament, ...]
    speckles: tuple[Speckle, ...]
    cracks: tuple[Crack, ...]
    on_film: NDArray[np.float64]
    """(k, 2) molecules on the film, columns y, x."""


def draw_specimen(
    settings: SimulationSettings, model: DensityModel, surroundings: Surroundings, rng: np.random.Generator
) -> Specimen:
    """Draw film, dirt and clumps, then particles away from these."""
    diameter_px = model.diameter_angstrom / settings.pixel_size_angstrom
    has_carbon = rng.random() < settings.carbon_probability
    carbon = None
    if has_carbon:
        carbon = draw_carbon(settings.shape, settings.pixel_size_angstrom, rng, surroundings.film_edge_range)
    dirt_count = int(rng.integers(*settings.contamination_range, endpoint=True))
    contamination = draw_contamination(dirt_count, settings.shape, _LEAST_DIRT_DIAMETERS * diameter_px, rng)
    if surroundings.metal and carbon is not None:
        carbon = replace(carbon, transmission=float(rng.uniform(0.02, 0.3)), noise_ratio=1.0)
    if surroundings.small_dirt:
        specks = draw_contamination(surroundings.small_dirt, settings.shape, _LEAST_SPECK_DIAMETERS * diameter_px, rng)
        contamination += tuple(
            replace(speck, transmission=float(rng.uniform(0.4, 0.9)), is_small=True) for speck in specks
        )
    contamination += draw_contamination(
        surroundings.large_dirt, settings.shape, _LEAST_LARGE_DIRT_DIAMETERS * diameter_px, rng
    )
    clumps = draw_clumps(surroundings.clumps, settings.shape, diameter_px, rng)
    obstacles: tuple[CarbonFilm | Contamination | Clump, ...] = (*contamination, *clumps)
    if carbon is not None:
        obstacles = (carbon, *obstacles)

    def is_free(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        free = np.ones(y.shape, np.bool_)
        for obstacle in obstacles:
            free &= obstacle.depth(y, x) < -_CLEARANCE_DIAMETERS * diameter_px
        return free

    if settings.particles_per_micrograph is not None:
        count = int(rng.integers(*settings.particles_per_micrograph, endpoint=True))
    else:
        area = settings.shape[0] * settings.shape[1]
        count = round(rng.uniform(*settings.coverage_range) * area / (np.pi / 4 * diameter_px**2))
    distance = settings.minimum_distance_diameters * diameter_px
    centres = place_particles(
        count,
        shape=settings.shape,
        rim_px=diameter_px / 2,
        distance_px=distance,
        overlap_distance_px=distance / 3,
        overlap_fraction=settings.overlap_fraction,
        is_free=is_free,
        rng=rng,
    )
    fragment_count = round(len(centres) * rng.uniform(*settings.fragments_per_particle_range))
    fragments = rng.uniform((0, 0), settings.shape, (fragment_count, 2))
    filaments = draw_filaments(surroundings.filaments, settings.shape, settings.pixel_size_angstrom, rng)
    speckles = draw_speckle(surroundings.speckles, settings.shape, settings.pixel_size_angstrom, rng)
    cracks = draw_cracks(surroundings.cracks, settings.shape, settings.pixel_size_angstrom, rng)
    near = tuple(np.clip(np.rint(v), 0, n - 1).astype(np.intp) for v, n in zip(centres.T, settings.shape, strict=True))
    for crack in cracks:
        depth = crack.depth(Frame(origin=(0, 0), shape=settings.shape))[near]
        centres = np.where((depth < -_CLEARANCE_DIAMETERS * diameter_px)[:, np.newaxis], centres, np.nan)
    centres = centres[np.isfinite(centres).all(axis=1)]
    on_film = np.empty((0, 2))
    if carbon is not None:
        on_film = rng.uniform((0, 0), settings.shape, (surroundings.on_film, 2))
        on_film = on_film[carbon.depth(on_film[:, 0], on_film[:, 1]) > 0]
    return Specimen(
        model=model,
        centres=centres,
        fragments=fragments,
        carbon=carbon,
        contamination=contamination,
        surroundings=surroundings,
        clumps=clumps,
        filaments=filaments,
        speckles=speckles,
        cracks=cracks,
        on_film=on_film,
    )


def lay_phase(
    specimen: Specimen,
    frame: Frame,
    *,
    pixel_size_angstrom: float,
    interaction_rad_per_volt_angstrom: float,
    rng: np.random.Generator,
) -> _Array:
    """(h, w) float32 mean phase in rad on the frame: randomly rotated molecules as points, film and dirt.

    The frame must contain every particle.
    """
    phase = np.zeros(frame.shape, np.float32)
    surroundings = specimen.surroundings

    def add(part: DensityModel, y: float, x: float, rotation: NDArray[np.float64]) -> None:
        reach = int(np.ceil(part.diameter_angstrom / 2 / pixel_size_angstrom)) + 2
        row, column = int(np.floor(y)), int(np.floor(x))
        stamp = project(
            part,
            rotation,
            pixel_size_angstrom=pixel_size_angstrom,
            size_px=2 * reach + 1,
            centre_px=(reach + y - row, reach + x - column),
        )
        top, left = row - frame.origin[0] - reach, column - frame.origin[1] - reach
        # What reaches beyond the frame is cut off.
        first_row, first_column = max(0, -top), max(0, -left)
        below, right = max(0, top + len(stamp)), max(0, left + len(stamp))
        part_of_frame = phase[max(0, top) : below, max(0, left) : right]
        h, w = part_of_frame.shape
        part_of_frame += stamp[first_row : first_row + h, first_column : first_column + w]

    def add_all(parts: Sequence[DensityModel], places: NDArray[np.float64], rotations: NDArray[np.float64]) -> None:
        for i, ((y, x), rotation) in enumerate(zip(places.tolist(), rotations, strict=True)):
            add(parts[i % len(parts)], y, x, rotation)

    count, shapes = len(specimen.centres), surroundings.variants or (specimen.model,)
    spread = surroundings.view_spread_deg
    views = random_rotations(count, rng) if spread is None else preferred_rotations(count, spread, rng)
    add_all(shapes, specimen.centres, views)
    rotations = random_rotations(len(specimen.fragments), rng)
    for (y, x), rotation in zip(specimen.fragments.tolist(), rotations, strict=True):
        add(specimen.model.fragment(rng), y, x, rotation)
    low = np.array(frame.origin, np.float64)
    for stranger, number in surroundings.strangers:
        places = rng.uniform(low, low + np.array(frame.shape) - 1, (number, 2))
        add_all([stranger], places, random_rotations(number, rng))
    for clump in specimen.clumps:
        add_all(shapes, clump.places(rng), random_rotations(clump.count, rng))
    add_all(shapes, specimen.on_film, random_rotations(len(specimen.on_film), rng))
    phase *= np.float32(interaction_rad_per_volt_angstrom)
    for crack in specimen.cracks:
        phase += np.float32(crack.phase_rad) * crack.profile(frame)
    for filament in specimen.filaments:
        phase += filament_phase(
            filament,
            frame,
            pixel_size_angstrom=pixel_size_angstrom,
            interaction_rad_per_volt_angstrom=interaction_rad_per_volt_angstrom,
        )
    if specimen.carbon is not None:
        phase += np.float32(specimen.carbon.phase_rad) * _cover(specimen.carbon, frame)
    for dirt in specimen.contamination:
        rows, columns, part = frame.window(dirt.y, dirt.x, dirt.reach_px)
        phase[rows, columns] += np.float32(dirt.phase_rad) * dirt.thickness(*part.coordinates())
    return phase


def lay_noise(specimen: Specimen, frame: Frame, *, pixel_size_angstrom: float, rng: np.random.Generator) -> _Array:
    """(h, w) float32 white phase noise of 1 rad Å (rad per pixel of 1 Å) in ice, more on the film."""
    noise = rng.standard_normal(frame.shape, dtype=np.float32)
    noise /= np.float32(pixel_size_angstrom)
    if specimen.carbon is not None:
        noise *= 1 + np.float32(specimen.carbon.noise_ratio - 1) * _cover(specimen.carbon, frame)
    return noise


def lay_transmission(specimen: Specimen, frame: Frame, *, ice_gradient: float, rng: np.random.Generator) -> _Array:
    """(h, w) float32 transmission on the frame; 1 on average in clear ice."""
    transmission = ice_transmission(frame.shape, ice_gradient, rng)
    if specimen.carbon is not None:
        transmission *= 1 - np.float32(1 - specimen.carbon.transmission) * _cover(specimen.carbon, frame)
    for dirt in specimen.contamination:
        rows, columns, part = frame.window(dirt.y, dirt.x, dirt.reach_px)
        thickness = dirt.thickness(*part.coordinates())
        transmission[rows, columns] *= 1 - np.float32(1 - dirt.transmission) * thickness
    for speckle in specimen.speckles:
        transmission *= speckle.transmission(frame, rng)
    for crack in specimen.cracks:
        transmission *= np.maximum(1 + np.float32(crack.contrast) * crack.profile(frame), np.float32(0.05))
    return transmission


def lay_junk(specimen: Specimen, frame: Frame, *, pixel_size_angstrom: float) -> NDArray[np.uint8]:
    """(h, w) uint8 what of `JUNK_KINDS` lies at each pixel of the frame, counted from 1; 0 where there is none.

    The line of a filament or crack counts as at least a tenth of the particle's diameter wide.
    """
    kinds = np.zeros(frame.shape, np.uint8)
    y, x = frame.coordinates()
    least_px = 0.05 * specimen.model.diameter_angstrom / pixel_size_angstrom

    def mark(places: NDArray[np.bool_], kind: str) -> None:
        kinds[places] = JUNK_KINDS.index(kind) + 1

    for speckle in specimen.speckles:
        mark(speckle.covers(frame), "crystalline ice")
    if specimen.carbon is not None:
        mark(specimen.carbon.depth(y, x) > 0, "metal film" if specimen.surroundings.metal else "carbon film")
    for filament in specimen.filaments:
        wide = replace(filament, radius_px=max(filament.radius_px, least_px), hollow=0.0)
        mark(wide.thickness(y, x) > 0, "filament")
    for crack in specimen.cracks:
        mark(crack.depth(frame) > min(0.0, crack.half_width - least_px), "crack")
    for clump in specimen.clumps:
        mark(clump.depth(y, x) > 0, "clump")
    for dirt in specimen.contamination:
        rows, columns, part = frame.window(dirt.y, dirt.x, dirt.reach_px)
        inside = dirt.depth(*part.coordinates()) > 0
        kinds[rows, columns][inside] = JUNK_KINDS.index("frozen ethane" if dirt.is_small else "ice crystal") + 1
    return kinds


def _cover(carbon: CarbonFilm, frame: Frame) -> _Array:
    """(h, w) float32 fraction of each pixel under the film."""
    cover = carbon.depth(*frame.coordinates())
    cover += np.float32(0.5)
    return np.clip(cover, 0, 1, out=cover)
