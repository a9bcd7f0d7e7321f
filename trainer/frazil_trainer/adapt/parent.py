"""The model that is adapted: its network, read back from its ONNX file.

A version of any age can be adapted, also one that a user trained, since nothing but its file is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from frazil.errors import FrazilError
from frazil.model import Model, ModelContract, load_model, locate_model
from frazil_trainer.networks import Fcn
from frazil_trainer.recipe import FcnSettings

__all__ = ["Parent", "read_parent"]

_ARCHITECTURE = "fcn"
_ALIKE = 1e-4
"""Largest difference between the scores of the file and of the network read from it."""
_CHECKED_TILES = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parent:
    """A model, and its network in torch."""

    model: Model
    """As the daemon runs it."""
    network: Fcn
    """Without batch normalisation, which an export folds into the convolutions, and without a halo to cut off."""

    @property
    def contract(self) -> ModelContract:
        """Its contract."""
        return self.model.contract


def read_parent(path: Path, threads: int) -> Parent:
    """Read a fully convolutional model, and prove that its network gives the same scores.

    Raises:
        ModelError: the model cannot be loaded.
        FrazilError: it has another architecture, or its network is not the one that this version of frazil trains.
    """
    file = locate_model(path)[0]
    model = load_model(path, "cpu", threads)
    found = model.contract.architecture
    if found != _ARCHITECTURE:
        raise FrazilError(f"{file}: expected a fully convolutional model (fcn) to adapt, found {found}")
    try:
        network = _read_network(onnx.load(file), model.contract)
    except (IndexError, KeyError, RuntimeError, ValueError) as error:
        raise FrazilError(
            f"{file}: expected the network of frazil's fcn, found another ({error}); only models that frazil-train "
            "made can be adapted"
        ) from error
    difference = _difference(model, network)
    if not difference <= _ALIKE:
        raise FrazilError(
            f"{file}: expected its network to give its scores within {_ALIKE:g}, found {difference:.2g} off; "
            "it was made by another version of frazil-train"
        )
    return Parent(model=model, network=network)


def _read_network(graph: onnx.ModelProto, contract: ModelContract) -> Fcn:
    """The network of a file, whose convolutions are in the order of ours.

    Raises:
        IndexError, KeyError, RuntimeError, ValueError: it is another network.
    """
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes = [node for node in graph.graph.node if node.op_type == "Conv"]
    weights = [[torch.from_numpy(np.array(tensors[name], np.float32)) for name in node.input[1:]] for node in nodes]
    # Of the four before the blocks at quarter resolution, two are in a block of their own.
    settings = FcnSettings(
        widths=(len(weights[0][0]), len(weights[1][0]), len(weights[4][0])),
        dilations=tuple(_dilation(node) for node in nodes[6:-1:2]),
        halo_cells=round(contract.offset_px / Fcn.step_px),
        tile_px=contract.tile_px,
    )
    network = Fcn(settings, cut_halo=False, folded=True)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for convolution, (weight, bias) in zip(convolutions, weights, strict=True):
        convolution.load_state_dict({"weight": weight, "bias": bias})
    return network.eval()


def _dilation(node: onnx.NodeProto) -> int:
    attributes: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return int(attributes.get("dilations", [1])[0])


@torch.no_grad()
def _difference(model: Model, network: Fcn) -> float:
    """Largest difference of their scores on tiles of noise with discs, where scores are neither all 0 nor all 1."""
    t, halo = model.contract.tile_px, network.settings.halo_cells
    rng = np.random.default_rng(0)
    tiles = rng.normal(0.5, 0.12, (_CHECKED_TILES, 1, t, t)).astype(np.float32)
    y, x = np.mgrid[:t, :t]
    radius = model.contract.diameter_px / 2
    for cy, cx in rng.uniform(0, t, (max(4, round((t / model.contract.diameter_px) ** 2 / 4)), 2)):
        tiles[:, 0][:, np.hypot(y - cy, x - cx) < radius] -= np.float32(0.15)
    cut = slice(halo, -halo or None)
    expected = torch.sigmoid(network(torch.from_numpy(tiles)))[:, cut, cut].numpy()
    found = model.score(tiles)
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
