"""Export: a trained network becomes a version in the model repository, checked before it is one."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from frazil.errors import ModelError, OutputError
from frazil.models import ModelFolder
from frazil.picking import (
    CARD_NAME,
    MODEL_NAME,
    Card,
    ModelContract,
    Reference,
    load_model,
    write_card,
)
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.examples.sampling import generators
from frazil_trainer.networks import Cnn, Fcn, Mlp
from frazil_trainer.recipe import (
    CnnSettings,
    FcnSettings,
    MlpSettings,
    Recipe,
)
from frazil_trainer.training.loop import Task

__all__ = ["Scorer", "export_version", "make_scorer", "write_onnx"]

_OPSET = 18
_TOLERANCE = 1e-4
_REFERENCE_TILES = 4
_REFERENCE_PIXELS = 16_384
_CHECK = 2**40 + 16
"""Stream of random numbers of the tiles that an export is checked on."""
_CHECK_TILES = 256
_CHECK_DENSE_TILES = 3
_TILE_LEVELS = 64
_WINDOWS_GRID = 64
"""Side of the scores of a tile whose windows are scored at once."""


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
        network = Fcn(settings)
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


class _Probabilities(nn.Module):
    """Gives probabilities, as the contract wants, where the network gives logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) probabilities."""
        return torch.sigmoid(self.network(tiles))


def write_onnx(network: nn.Module, contract: ModelContract, path: Path) -> None:
    """Write a network, which gives logits, as an ONNX file under the model contract."""
    probabilities = _Probabilities(network).eval()
    t, dim = contract.tile_px, torch.export.Dim
    # What scores many places of a tile can score more or fewer: tiles are cut to fit the picture.
    open_sides = {2: dim("h"), 3: dim("w")} if contract.grid > 1 else {}
    example = torch.zeros(2, 1, t, t + round(contract.step_px) if open_sides else t)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            probabilities,
            (example,),
            input_names=["tiles"],
            output_names=["scores"],
            dynamic_shapes={"tiles": {0: dim("n"), **open_sides}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError(f"{path}: torch gave no ONNX program")
    model = program.model_proto
    # Source lines and names of the machine that trained it are no business of the daemon's.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(model, contract.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def export_version(
    network: nn.Module,
    contract: ModelContract,
    tiles: NDArray[np.float32],
    folder: Path,
    *,
    run: dict[str, Any],
    validation: dict[str, Any],
) -> Path:
    """Write the next version of a model: ``<folder>/<n>/model.onnx`` and ``card.json``.

    Written aside and renamed whole; a version that exists is never changed. `ModelFolder.promote` makes it serve.

    Args:
        network: gives logits (n, g, g) for (n, 1, t, t) tiles.
        contract: what the model says of itself.
        tiles: (n, 1, t, t) real tiles, on which ONNX Runtime must give torch's scores within 1e-4.
        folder: the model's folder in the repository.
        run: provenance for the card.
        validation: scores for the card.

    Returns:
        The version's folder.

    Raises:
        ModelError: ONNX Runtime and torch disagree, or the result does not load as the daemon loads it.
        OutputError: the folder cannot be written.
    """
    aside = folder / f".{uuid4().hex}.tmp"
    try:
        aside.mkdir(parents=True)
        file = aside / MODEL_NAME
        write_onnx(network, contract, file)
        # Rounded to what the card stores, so that the reference is exact.
        rounded = tiles.astype(np.float16)
        with torch.no_grad():
            expected = torch.sigmoid(network.eval()(torch.from_numpy(rounded.astype(np.float32)))).numpy()
        model = load_model(file, "cpu")
        found = model.score(rounded.astype(np.float32))
        difference = float(np.abs(found - expected).max())
        if not difference <= _TOLERANCE:
            raise ModelError(f"{file}: expected torch's scores within {_TOLERANCE:g}, found {difference:g} off")
        kept = min(max(1, _REFERENCE_PIXELS // contract.tile_px**2), _REFERENCE_TILES, len(rounded))
        picked = np.linspace(0, len(rounded) - 1, kept).astype(int)
        card = Card(
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            reference=Reference.make(rounded[picked], expected[picked], _TOLERANCE),
            run={**run, "onnx_against_torch": {"tiles": len(tiles), "largest_difference": difference}},
            validation=validation,
        )
        write_card(aside / CARD_NAME, card)
        load_model(file, "cpu")
        return ModelFolder(folder).add(aside)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write a model there: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
