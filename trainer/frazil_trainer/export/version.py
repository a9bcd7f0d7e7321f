"""A trained network becomes a version in the model repository, after it was checked."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from frazil.errors import ModelError
from frazil.model import CARD_NAME, MODEL_NAME, Card, ModelContract, ModelFolder, Reference, load_model, write_card
from frazil.model.contract import Calibration
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.networks import Fcn, JunkFinder, Mlp
from frazil_trainer.recipe import CnnSettings, FcnSettings, JunkSettings, Recipe
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

    def contract(
        self,
        recipe: Recipe,
        *,
        threshold: float,
        training_set_sha256: str,
        f1: Mapping[str, float] | None = None,
        junk_iou: Mapping[str, float] | None = None,
        calibration: Calibration | None = None,
    ) -> ModelContract:
        """The contract of the exported model, with its figures by validation set.

        Of a picker, `f1` is F1 within half a diameter; of a model of junk, `junk_iou` is that of the area.
        """
        figures = {"f1_within_half_a_diameter": f1 or {}} if junk_iou is None else {"iou_of_junk": junk_iou}
        return ModelContract(
            architecture=str(recipe.network.__struct_config__.tag),
            tile_px=self.tile_px,
            grid=self.grid,
            step_px=self.step_px,
            offset_px=self.offset_px,
            diameter_px=recipe.diameter_px,
            normalisation=recipe.normalisation,
            contrast="dark",
            threshold=threshold,
            training_set_sha256=training_set_sha256,
            validation=msgspec.json.encode(figures).decode(),
            calibration=msgspec.json.encode(calibration).decode() if calibration else "",
        )


def make_scorer(
    recipe: Recipe, network: nn.Module, examples: ExampleSource, selection: Sequence[LabelledMicrograph]
) -> Scorer:
    """Prepare a trained network for export; one that can score many windows of a tile at once will.

    The selection micrographs give the tiles to check on, unless windows are scored one by one.
    """
    settings = recipe.network
    if isinstance(settings, FcnSettings | JunkSettings):
        with_halo: Fcn | JunkFinder = (
            JunkFinder(settings)
            if isinstance(settings, JunkSettings)
            else Fcn(settings, folded=isinstance(network, Fcn) and network.folded)
        )
        with_halo.load_state_dict(network.state_dict())
        return Scorer(
            network=with_halo.eval(),
            tile_px=settings.tile_px,
            grid=settings.tile_px // with_halo.step_px - 2 * settings.halo_cells,
            step_px=float(with_halo.step_px),
            offset_px=float(with_halo.step_px * settings.halo_cells),
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
    tiles, *_ = sampler.draw(recipe.seed, _CHECK, range(_CHECK_DENSE_TILES))
    return np.asarray(np.round(tiles * _TILE_LEVELS) / _TILE_LEVELS, np.float32)


def export_version(
    scorer: Scorer,
    contract: ModelContract,
    folder: Path,
    *,
    run: msgspec.Struct | None = None,
    validation: msgspec.Struct | None = None,
) -> Path:
    """Write the next version of a model: ``<folder>/<n>/model.onnx`` and ``card.json``.

    ONNX Runtime must give torch's scores within 1e-4 on the scorer's tiles. A version is added in one atomic step and
    never changed. `ModelFolder.promote` makes it serve. Provenance and scores go into its card.

    Raises:
        ModelError: ONNX Runtime and torch disagree, or the result does not load as the daemon loads it.
        OutputError: the folder cannot be written.
    """
    tiles = scorer.check_tiles
    with ModelFolder(folder).stage() as staged:
        file = staged / MODEL_NAME
        write_onnx(scorer.network, contract, file)
        # Rounded as in the card, so that the reference is exact.
        rounded = tiles.astype(np.float16)
        with torch.no_grad():
            expected = torch.sigmoid(scorer.network.eval()(torch.from_numpy(rounded.astype(np.float32)))).numpy()
        found = load_model(file, "cpu", finds=contract.finds).score(rounded.astype(np.float32))
        difference = float(np.abs(found - expected).max())
        if not difference <= _TOLERANCE:
            raise ModelError(f"{file}: expected torch's scores within {_TOLERANCE:g}, found {difference:g} off")
        count = min(max(1, _REFERENCE_PIXELS // contract.tile_px**2), _REFERENCE_TILES, len(rounded))
        chosen = np.linspace(0, len(rounded) - 1, count).astype(int)
        agreement = {"tiles": len(tiles), "largest_difference": difference}
        card = Card(
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            reference=Reference.make(rounded[chosen], expected[chosen], _TOLERANCE),
            run={**_as_dict(run), "onnx_against_torch": agreement},
            validation=_as_dict(validation),
        )
        write_card(staged / CARD_NAME, card)
        load_model(file, "cpu", finds=contract.finds)
        return ModelFolder(folder).add(staged)


def write_onnx(network: nn.Module, contract: ModelContract, path: Path) -> None:
    """Write a network, which gives logits, as an ONNX file with the contract in its metadata."""
    scores = _Probabilities(network).eval()
    t, dim = contract.tile_px, torch.export.Dim
    # A network with a grid of scores takes tiles of any size: tiles are cut to fit the micrograph.
    open_sides = {2: dim("h"), 3: dim("w")} if contract.grid > 1 else {}
    example = torch.zeros(2, 1, t, t + round(contract.step_px) if open_sides else t)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            scores,
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
    # Source lines and names of the training machine are private to it.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(model, contract.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


class _Probabilities(nn.Module):
    """Probabilities, as in the contract, of a network that gives logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) probabilities."""
        return torch.sigmoid(self.network(tiles))


def _as_dict(record: msgspec.Struct | None) -> dict[str, Any]:
    return {} if record is None else dict(msgspec.to_builtins(record))
