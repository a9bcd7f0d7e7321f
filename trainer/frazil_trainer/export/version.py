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
from frazil_trainer.networks import Fcn, Mlp
from frazil_trainer.recipe import CnnSettings, FcnSettings, Recipe
from frazil_trainer.training.loop import ExampleSource

__all__ = ["Scorer", "export_version", "make_scorer", "write_onnx"]

_OPSET = 18
_TOLERANCE = 1e-4
_REFERENCE_TILES = 4
_REFERENCE_PIXELS = 16_384
_CHECK = 2**40 + 16
"""Random stream of the tiles that an export is checked on."""
_CHECK_TILES = 256
_CHECK_DENSE_TILES = 3
_TILE_LEVELS = 64
_WINDOWS_GRID = 64
"""Windows along one side of a tile that is scored at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scorer:
    """A trained network for export, the grid of its scores in a tile, and real tiles to check the export on."""

    network: nn.Module
    tile_px: int
    grid: int
    step_px: float
    offset_px: float
    check_tiles: NDArray[np.float32]
    """(n, 1, t, t)."""


def make_scorer(
    recipe: Recipe, network: nn.Module, examples: ExampleSource, selection: Sequence[LabelledMicrograph]
) -> Scorer:
    """Prepare a trained network for export; one that can score many windows of a tile at once will.

    Args:
        recipe: recipe of the training.
        network: trained.
        examples: source of the training's examples.
        selection: micrographs for the tiles to check on.
    """
    settings = recipe.network
    if isinstance(settings, FcnSettings):
        with_halo = Fcn(settings)
        with_halo.load_state_dict(network.state_dict())
        return Scorer(
            network=with_halo.eval(),
            tile_px=settings.tile_px,
            grid=settings.tile_px // Fcn.step_px - 2 * settings.halo_cells,
            step_px=float(Fcn.step_px),
            offset_px=float(Fcn.step_px * settings.halo_cells),
            check_tiles=_whole_tiles(recipe, settings.tile_px, selection),
        )
    over_tiles: nn.Module | None = None
    if isinstance(settings, CnnSettings) and not settings.padding:
        over_tiles = network
    elif isinstance(network, Mlp) and settings.stride_px.is_integer():
        over_tiles = network.over_tiles(round(settings.stride_px))
    grid = 1 if over_tiles is None else _WINDOWS_GRID
    tile_px = settings.tile_px + (grid - 1) * round(settings.stride_px)
    if over_tiles is None:
        held_out = next(iter(examples.held_out.values()))
        check_tiles = torch.cat([tiles for tiles, *_ in held_out])[:_CHECK_TILES].numpy()
    else:
        check_tiles = _whole_tiles(recipe, tile_px, selection)
    return Scorer(
        network=network if over_tiles is None else over_tiles,
        tile_px=tile_px,
        grid=grid,
        step_px=settings.stride_px,
        offset_px=(settings.tile_px - 1) / 2,
        check_tiles=check_tiles,
    )


def _whole_tiles(recipe: Recipe, tile_px: int, micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float32]:
    """(n, 1, t, t) tiles of micrographs, in steps that compress well, since the card holds one of them."""
    sampler = PatchSampler(
        micrographs,
        patch_px=tile_px,
        step_px=2,  # for target scores, which are not used
        diameter_px=recipe.diameter_px,
        spread_diameters=1.0,
        augment=False,
    )
    tiles, *_ = sampler.draw(generators(recipe.seed, _CHECK, range(_CHECK_DENSE_TILES)))
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
