"""Small labelled data and a tiny recipe, shared by the tests of the trainer."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from frazil.picking import Picks, Picture, Rescaling
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.recipe import AdamW, DrawnCrops, FcnSettings, MlpSettings, Patches, Recipe, Sgd, TrainingSet
from frazil_trainer.simulate import SimulationSettings, density_model
from frazil_trainer.simulate.series import write_series

if importlib.util.find_spec("torch") is None:
    collect_ignore = [
        "test_adapt.py",
        "test_follow.py",
        "test_junk.py",
        "test_training.py",
        "test_dense_training.py",
        "test_export.py",
        "test_paper_crops.py",
        "test_runs.py",
        "test_training_precision.py",
    ]

PIXEL_SIZE_ANGSTROM = 3.5


@pytest.fixture(scope="session")
def simulated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two easy training sets, easy/ and small/, of micrographs that are not square."""
    data = tmp_path_factory.mktemp("data")
    for name, model, count in (("easy", "apoferritin", 4), ("small", "galactosidase", 3)):
        settings = SimulationSettings(
            shape=(384, 512),
            pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
            model=model,
            coverage_range=(0.2, 0.2),
            carbon_probability=0.0,
            contamination_range=(0, 0),
            fragments_per_particle_range=(0.0, 0.0),
            coarse_noise_range_rad_angstrom=(0.3, 0.3),
            elastic_share_range=(0.9, 0.9),
            defocus_range_um=(2.5, 2.5),
        )
        list(write_series(data / name, settings, count=count, seed=4))
    return data


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """A recipe on `simulated_data` that trains in about a second."""
    return Recipe(
        seed=7,
        data=(
            TrainingSet(
                folder="easy",
                diameter_angstrom=density_model("apoferritin").diameter_angstrom,
                weight=2,
                validation=("simulated_0001",),
                selection=("simulated_0002",),
            ),
            TrainingSet(
                folder="small",
                diameter_angstrom=density_model("galactosidase").diameter_angstrom,
                validation=("simulated_0001",),
                selection=("simulated_0002",),
            ),
        ),
        diameter_px=9.6,
        epochs=3,
        batch=64,
        network=MlpSettings(tile_px=16, stride_px=3.2, hidden=16),
        examples=DrawnCrops(per_epoch=2048, positive_offset_diameters=0.2, negative_offset_diameters=0.45),
        optimiser=Sgd(learning_rate=0.02),
    )


@pytest.fixture(scope="session")
def tiny_recipe_text(tiny_recipe: Recipe) -> str:
    """The same as the text of a recipe file."""
    return recipe_text(tiny_recipe)


@pytest.fixture(scope="session")
def fcn_recipe(tiny_recipe: Recipe) -> Recipe:
    """A small fully convolutional network, trained on one particle for a moment."""
    return msgspec.structs.replace(
        tiny_recipe,
        data=tiny_recipe.data[:1],
        network=FcnSettings(widths=(6, 8, 12), dilations=(1, 2), halo_cells=6, tile_px=128),
        examples=Patches(patch_px=96, per_epoch=400),
        optimiser=AdamW(learning_rate=1e-2),
        diameter_px=16.0,
        epochs=3,
        batch=8,
    )


@pytest.fixture(scope="session")
def fcn_parent(fcn_recipe: Recipe, simulated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the particle of easy/."""
    from frazil_trainer.run import run_recipe

    folder = tmp_path_factory.mktemp("models")
    version = run_recipe(
        fcn_recipe, simulated_data, folder / "tiny", Console(quiet=True), run=folder / "run", device="cpu"
    )
    assert version is not None
    return version


def recipe_text(recipe: Recipe) -> str:
    """A recipe as the text of its file."""
    plain = msgspec.to_builtins(recipe)
    tables = [(f"[{name}]", value) for name, value in plain.items() if isinstance(value, dict)]
    tables += [("[[data]]", one) for one in plain.pop("data")]
    lines = []
    for title, table in [("", plain), *tables]:
        lines += [title, *(f"{key} = {msgspec.json.encode(v).decode()}" for key, v in table.items() if is_plain(v))]
    return "\n".join(lines) + "\n"


def is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, dict)


@pytest.fixture(scope="session")
def write_recipe() -> Callable[[Path, Recipe], Path]:
    """Write a recipe's file."""

    def write(file: Path, recipe: Recipe) -> Path:
        file.write_text(recipe_text(recipe), "utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def make_labelled() -> Callable[..., LabelledMicrograph]:
    """Labelled micrographs out of arrays, without files."""

    def make(
        pixels: np.ndarray,
        centres: object,
        *,
        border_px: float = 0.0,
        folder: str = "a",
        weight: float = 1.0,
        blank: np.ndarray | None = None,
    ) -> LabelledMicrograph:
        h, w = pixels.shape
        return LabelledMicrograph(
            name="made",
            picture=Picture(
                pixels=pixels.astype(np.float32),
                rescaling=Rescaling(shape=(h, w), rescaled_shape=(h, w)),
                diameter_px=9.6,
                pixel_size_angstrom=2.0,
            ),
            centres=np.array(centres, np.float64).reshape(-1, 2),
            border_px=border_px,
            source=TrainingSet(folder=folder, diameter_angstrom=19.2, weight=weight),
            blank=blank,
        )

    return make


@pytest.fixture(scope="session")
def disc_micrographs(make_labelled: Callable[..., LabelledMicrograph]) -> list[LabelledMicrograph]:
    """Two pictures of dark discs in faint noise: an easy problem. The first to train on, the second not."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :200]
    made = []
    for _ in range(2):
        centres = [
            (20 + 30 * i + rng.uniform(-3, 3), 20 + 32 * j + rng.uniform(-3, 3)) for i in range(3) for j in (0, 1, 3, 5)
        ]
        pixels = np.full((120, 200), 0.6) + rng.normal(0, 0.03, (120, 200))
        for cy, cx in centres:
            pixels[np.hypot(y - cy, x - cx) <= 4.8] -= 0.3
        made.append(make_labelled(pixels, centres))
    return made


@pytest.fixture(scope="session")
def make_picks() -> Callable[..., Picks]:
    """Picks out of a list of (y, x) or (y, x, score)."""

    def make(*rows: tuple[float, ...]) -> Picks:
        full = np.array([(*row, 1.0)[:3] for row in rows], np.float64).reshape(-1, 3)
        return Picks(y=full[:, 0], x=full[:, 1], score=full[:, 2])

    return make
