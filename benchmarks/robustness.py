"""How well a model picks raw counts: doses, defoci, and the same micrograph given in other ways.

Micrographs are simulated from a seed that no recipe uses: the truth is known, and nothing was trained on it. Each
case goes through a file and the daemon's own reader, as at a microscope. Prints the tables of the docs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from figures import markdown_table
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from frazil.model import Contrast, Model, load_model
from frazil.picking import Picker, PickingSettings, match_picks, read_micrograph
from frazil.settings import default_model_path
from frazil_trainer.evaluation.ranking import Tally, tally_matches
from frazil_trainer.simulate import SimulatedMicrograph, SimulationSettings, series_seed, simulate_micrograph

SEED = 9001
PARTICLES = ("galactosidase", "apoferritin")
DOSES_E_PER_A2 = (10.0, 20.0, 40.0, 80.0)
DEFOCI_UM = (0.6, 1.0, 1.5, 2.5)
STANDARD_DOSE_E_PER_A2 = 40.0
STANDARD_DEFOCUS_UM = 1.5
INT16_COUNTS = 100
"""What one electron is written as: averages of frames are often scaled before they become whole numbers."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A way in which the same micrograph may be given."""

    name: str
    change: Callable[[Pixels], NDArray[np.generic]]
    contrast: Contrast = "dark"


FORMS = (
    Form(name="float32, as counted", change=lambda pixels: pixels),
    Form(name="int16", change=lambda pixels: np.clip(np.rint(pixels * INT16_COUNTS), -32768, 32767).astype(np.int16)),
    Form(name="inverted, contrast declared", change=lambda pixels: pixels.max() - pixels, contrast="bright"),
    Form(name="times 1000", change=lambda pixels: pixels * np.float32(1000)),
    Form(name="ice from 1 to 1/3 of the beam", change=lambda pixels: pixels * ice_gradient(pixels.shape)),
)


def main() -> None:
    """Simulate, pick, score; print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=default_model_path(), help="default: the default model")
    parser.add_argument("--count", type=int, default=3, help="micrographs of each kind (default 3)")
    parser.add_argument("--size", type=int, default=2048, help="side of a micrograph in pixels (default 2048)")
    args = parser.parse_args()

    model = load_model(args.model)
    cases = [(particle, dose, STANDARD_DEFOCUS_UM) for particle in PARTICLES for dose in DOSES_E_PER_A2]
    cases += [
        (particle, STANDARD_DOSE_E_PER_A2, defocus)
        for particle in PARTICLES
        for defocus in DEFOCI_UM
        if defocus != STANDARD_DEFOCUS_UM
    ]
    imaging: defaultdict[tuple[str, float, float], Tally] = defaultdict(Tally)
    forms: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
    for particle, dose, defocus in track(cases, description="Picking", console=Console(stderr=True)):
        standard = (dose, defocus) == (STANDARD_DOSE_E_PER_A2, STANDARD_DEFOCUS_UM)
        for simulated in simulate(particle, dose, defocus, args.count, args.size):
            for form in FORMS if standard else FORMS[:1]:
                tally = score(model, simulated, form)
                if form is FORMS[0]:
                    imaging[particle, dose, defocus] += tally
                if standard:
                    forms[particle, form.name] += tally

    rows = [
        (particle, f"{dose:g} e/Å²", f"{defocus:g} µm", *figures(tally))
        for (particle, dose, defocus), tally in sorted(imaging.items())
    ]
    form_rows = [
        (particle, name, *figures(tally), f"{tally.f1 - forms[particle, FORMS[0].name].f1:+.3f}")
        for (particle, name), tally in forms.items()
    ]
    heads = ("particles", "precision", "recall", "F1")
    print(markdown_table(("particle", "dose", "defocus", *heads), rows), end="\n\n")
    print(markdown_table(("particle", "given as", *heads, "change"), form_rows))


def simulate(particle: str, dose: float, defocus_um: float, count: int, size: int) -> Iterator[SimulatedMicrograph]:
    """Micrographs of one particle at one dose and defocus; the same specimens at every one of them."""
    settings = SimulationSettings(
        shape=(size, size), model=particle, dose_e_per_a2=dose, defocus_range_um=(defocus_um, defocus_um)
    )
    for index in range(count):
        yield simulate_micrograph(settings, series_seed(seed=SEED, index=index))


def score(model: Model, simulated: SimulatedMicrograph, form: Form) -> Tally:
    """Write a micrograph in some form, read it as the daemon does, pick it, and count."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "micrograph.mrc"
        with mrcfile.new(file) as mrc:
            mrc.set_data(form.change(simulated.pixels))
            mrc.voxel_size = simulated.pixel_size_angstrom
        settings = PickingSettings(diameter_angstrom=simulated.diameter_angstrom, contrast=form.contrast)
        picks = Picker(model, settings).pick(read_micrograph(file))
    diameter_px = simulated.diameter_angstrom / simulated.pixel_size_angstrom
    return tally_matches(match_picks(picks, simulated.truth, diameter_px / 2), len(simulated.truth))


def ice_gradient(shape: tuple[int, ...]) -> Pixels:
    """(h, w) share of the beam that gets through ice growing thicker from one corner to the other."""
    y, x = (np.linspace(0, 1, side, dtype=np.float32) for side in shape)
    return np.asarray(1 - (y[:, np.newaxis] + x) / 3, np.float32)


def figures(tally: Tally) -> tuple[str, str, str, str]:
    """Particles, precision, recall and F1 for a table."""
    return (
        str(tally.hits + tally.misses),
        f"{tally.precision:.3f}",
        f"{tally.recall:.3f}",
        f"{tally.f1:.3f}",
    )


if __name__ == "__main__":
    main()
