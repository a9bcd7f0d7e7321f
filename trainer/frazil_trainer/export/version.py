"""Export: a trained network becomes a version in the model repository, checked before it is one."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
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

__all__ = ["export_version", "write_onnx"]

_OPSET = 18
_TOLERANCE = 1e-4
_REFERENCE_TILES = 4
_REFERENCE_PIXELS = 16_384


class _Scorer(nn.Module):
    """Gives probabilities, as the contract wants, where the network gives logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) probabilities."""
        return torch.sigmoid(self.network(tiles))


def write_onnx(network: nn.Module, contract: ModelContract, path: Path) -> None:
    """Write a network, which gives logits, as an ONNX file under the model contract."""
    scorer = _Scorer(network).eval()
    t, dim = contract.tile_px, torch.export.Dim
    # What scores many places of a tile can score more or fewer: tiles are cut to fit the picture.
    open_sides = {2: dim("h"), 3: dim("w")} if contract.grid > 1 else {}
    example = torch.zeros(2, 1, t, t + round(contract.step_px) if open_sides else t)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecations
        program = torch.onnx.export(
            scorer,
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
