"""Simulated cryo-EM micrographs with known particles.

- `SimulationSettings` describes micrographs.
- `simulate_micrograph` makes one from a seed, `write_micrograph` writes it as an MRC file.
- `density_model` gives a molecule by one of `MODEL_NAMES`, `imagine_molecule` an imaginary one.

The same settings and seed give the same pixels:

>>> from frazil_trainer.simulate import SimulationSettings, simulate_micrograph
>>> settings = SimulationSettings(shape=(256, 320), model="apoferritin", particles_per_micrograph=(3, 3))
>>> simulated = simulate_micrograph(settings, seed=7)
>>> simulated.pixels.shape, len(simulated.truth)
((256, 320), 3)

Micrograph 5 of a series can be made alone:

>>> from frazil_trainer.simulate import series_seed
>>> alone = simulate_micrograph(settings, series_seed(seed=1, index=5))
"""

from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.imaginary import IMAGINARY, imagine_molecule
from frazil_trainer.simulate.micrograph import (
    SimulatedMicrograph,
    series_seed,
    simulate_micrograph,
    write_micrograph,
)
from frazil_trainer.simulate.molecules import MODEL_NAMES, density_model
from frazil_trainer.simulate.settings import SimulationSettings

__all__ = [
    "IMAGINARY",
    "MODEL_NAMES",
    "DensityModel",
    "SimulatedMicrograph",
    "SimulationSettings",
    "density_model",
    "imagine_molecule",
    "series_seed",
    "simulate_micrograph",
    "write_micrograph",
]
