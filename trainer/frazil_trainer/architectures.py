"""What each architecture learns from, and where the scores of what it learnt lie in a tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frazil.errors import SettingsError
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.examples.sampling import generators
from frazil_trainer.networks import Cnn, Fcn, FcnConfig, Mlp
from frazil_trainer.recipe import (
    CentredCrops,
    CnnSettings,
    DrawnCrops,
    FcnSettings,
    JitteredCrops,
    MlpSettings,
    Patches,
    Recipe,
)
from frazil_trainer.training.dense import PatchTask
from frazil_trainer.training.task import Task
from frazil_trainer.training.windows import DrawnCropTask, FixedCropTask

__all__ = ["Scorer", "make_scorer", "make_task"]

_CHECK = 2**40 + 16
"""Stream of random numbers of the tiles that an export is checked on."""
_CHECK_TILES = 256
_CHECK_DENSE_TILES = 3
_TILE_LEVELS = 64
_WINDOWS_GRID = 64
"""Side of the scores of a tile whose windows are scored at once."""


def make_task(recipe: Recipe, micrographs: Mapping[str, Sequence[LabelledMicrograph]]) -> Task:
    """Join a recipe's network and examples.

    Args:
        recipe: all settings.
        micrographs: by part: training, selection, validation.

    Raises:
        FrazilError: the micrographs do not hold the examples.
    """
    training, selection = micrographs["training"], micrographs["selection"]
    match recipe.network, recipe.examples:
        case FcnSettings() as settings, Patches() as patches:
            return PatchTask(recipe, settings, patches, training, selection)
        case MlpSettings() | CnnSettings() as settings, DrawnCrops() as crops:
            return DrawnCropTask(recipe, settings, crops, training, selection)
        case MlpSettings() | CnnSettings() as settings, CentredCrops() | JitteredCrops() as crops:
            return FixedCropTask(recipe, settings, crops, training, micrographs["validation"])
    raise SettingsError("expected a network with examples that it can learn from")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scorer:
    """A trained network, where its scores lie in a tile, and real tiles to check its export on."""

    network: nn.Module
    tile_px: int
    grid: int
    step_px: float
    offset_px: float
    check_tiles: NDArray[np.float32]
    """(n, 1, t, t)."""


def make_scorer(recipe: Recipe, task: Task, selection: Sequence[LabelledMicrograph]) -> Scorer:
    """What to export of a trained task.

    Args:
        recipe: that it was trained by.
        task: trained.
        selection: micrographs to take tiles from.
    """
    settings = recipe.network
    if isinstance(settings, FcnSettings):
        network = Fcn(FcnConfig(widths=settings.widths, dilations=settings.dilations, halo_cells=settings.halo_cells))
        network.load_state_dict(task.network.state_dict())
        return Scorer(
            network=network.eval(),
            tile_px=settings.tile_px,
            grid=settings.tile_px // Fcn.step_px - 2 * settings.halo_cells,
            step_px=float(Fcn.step_px),
            offset_px=float(Fcn.step_px * settings.halo_cells),
            check_tiles=_whole_tiles(recipe, settings.tile_px, selection),
        )
    if (over_tiles := _over_tiles(settings, task.network)) is not None:
        tile_px = settings.tile_px + (_WINDOWS_GRID - 1) * round(settings.stride_px)
        return Scorer(
            network=over_tiles,
            tile_px=tile_px,
            grid=_WINDOWS_GRID,
            step_px=settings.stride_px,
            offset_px=(settings.tile_px - 1) / 2,
            check_tiles=_whole_tiles(recipe, tile_px, selection),
        )
    held_out = torch.cat([tiles for tiles, *_ in next(iter(task.held_out.values()))])
    return Scorer(
        network=task.network,
        tile_px=settings.tile_px,
        grid=1,
        step_px=settings.stride_px,
        offset_px=(settings.tile_px - 1) / 2,
        check_tiles=held_out[:_CHECK_TILES].numpy(),
    )


def _over_tiles(settings: MlpSettings | CnnSettings, network: nn.Module) -> nn.Module | None:
    """A network of windows as it scores all windows of a tile at once; None where it can only score one by one."""
    match settings, network:
        case CnnSettings(padding=False), Cnn():
            return network
        case MlpSettings(stride_px=stride_px), Mlp() if stride_px.is_integer():
            return network.over_tiles(round(stride_px))
    return None


def _whole_tiles(recipe: Recipe, tile_px: int, micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float32]:
    sampler = PatchSampler(
        micrographs,
        patch_px=tile_px,
        step_px=2,  # of wanted scores, which are not used
        diameter_px=recipe.diameter_px,
        spread_diameters=1.0,
        augment=False,
    )
    tiles, *_ = sampler.draw(generators(recipe.seed, _CHECK, range(_CHECK_DENSE_TILES)))
    # In steps that deflate well: the card holds such a tile.
    return np.asarray(np.round(tiles * _TILE_LEVELS) / _TILE_LEVELS, np.float32)
