"""Models: found in a repository, checked against contract and card, and run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.picking.card import CARD_NAME, read_card
from frazil.picking.contract import ModelContract
from frazil.picking.provider import available_cores, open_session
from frazil.settings import Device

__all__ = [
    "CURRENT_NAME",
    "MODEL_NAME",
    "Model",
    "ModelIdentity",
    "load_model",
    "locate_model",
]

MODEL_NAME = "model.onnx"
CURRENT_NAME = "CURRENT"
_LARGEST_MODEL_BYTES = 2**31
_BATCH_PIXELS = 2**21
"""Pixels in one batch of tiles: 8 MiB of float32. A dense network needs some fifty times as much while it runs."""
_WARM_UP_PIXELS = 2**19


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model made a pick."""

    name: str
    version: int
    """Number of the version folder; 0 for a lone file."""
    sha256: str
    """Of the ONNX file."""


class Model:
    """A model that has passed its checks and can score tiles.

    Attributes:
        identity: name, version, sha256.
        contract: what its metadata says.
        provider: ONNX Runtime's name of where it runs, such as ``CPUExecutionProvider``.
        has_card: whether a card vouched for it.
        batch: tiles in one batch.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        contract: ModelContract,
        session: ort.InferenceSession,
        *,
        has_card: bool,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.provider: str = session.get_providers()[0]
        self.has_card = has_card
        self.batch = max(1, _BATCH_PIXELS // contract.tile_px**2)
        self._session = session

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 1, t, t) tiles → (n, g, g) probabilities.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        scores = np.asarray(self._session.run(["scores"], {"tiles": tiles})[0], np.float32)
        if not np.isfinite(scores).all():
            raise ModelError(f"model {self.identity.name}/{self.identity.version}: expected finite scores, found NaN")
        return scores

    def warm_up(self) -> None:
        """Score a few tiles, so that the first micrograph does not pay for what is made on first use."""
        t = self.contract.tile_px
        self.score(np.zeros((max(1, _WARM_UP_PIXELS // t**2), 1, t, t), np.float32))


def locate_model(path: Path) -> tuple[Path, str, int]:
    """Find the ONNX file that a path means.

    Args:
        path: a model's folder (its ``CURRENT`` version is meant), one version's folder, or an .onnx file.

    Returns:
        The file, the model's name and its version.

    Raises:
        ModelError: the path leads to no model.
    """
    if not path.exists():
        raise ModelError(f"{path}: expected a model's folder or an .onnx file, found nothing there")
    path = path.resolve()
    if path.is_dir() and (path / CURRENT_NAME).is_file():
        version = (path / CURRENT_NAME).read_text("ascii", "replace").strip()
        if not version.isdecimal():
            raise ModelError(f"{path / CURRENT_NAME}: expected the number of a version, found {version!r}")
        path = path / version
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{path}: expected {CURRENT_NAME} or {MODEL_NAME} in a model's folder, found neither")
    if file.name == MODEL_NAME and file.parent.name.isdecimal():
        return file, file.parent.parent.name, int(file.parent.name)
    return file, file.stem, 0


def load_model(path: Path, device: Device = "auto", threads: int | None = None) -> Model:
    """Load a model and check it: contract, shapes, and hash and reference output where it has a card.

    Args:
        path: as for `locate_model`.
        device: where to run it.
        threads: CPU threads of ONNX Runtime; default: every core this process may use.

    Raises:
        ModelError: the model is missing or fails a check.
    """
    file, name, version = locate_model(path)
    try:
        if file.stat().st_size > _LARGEST_MODEL_BYTES:
            raise ModelError(f"{file}: expected at most {_LARGEST_MODEL_BYTES} bytes, found {file.stat().st_size}")
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    identity = ModelIdentity(name=name, version=version, sha256=hashlib.sha256(content).hexdigest())
    # From bytes: what was hashed is what runs, and no weights are read from outside the file.
    session = open_session(content, file, device, threads or available_cores())
    try:
        contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    _check_signature(file, session, contract)
    card_file = file.parent / CARD_NAME
    has_card = card_file.is_file()
    if version and not has_card:
        raise ModelError(f"{card_file}: expected the card of a model in a repository, found none")
    model = Model(identity, contract, session, has_card=has_card)
    if has_card:
        _check_card(model, file, card_file)
    return model


def _check_signature(file: Path, session: ort.InferenceSession, contract: ModelContract) -> None:
    t, g = contract.tile_px, contract.grid
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()]
    if inputs != [("tiles", "tensor(float)", [1, t, t])]:
        raise ModelError(f"{file}: expected input tiles float32 (n, 1, {t}, {t}), found {inputs}")
    if outputs != [("scores", "tensor(float)", [g, g])]:
        raise ModelError(f"{file}: expected output scores float32 (n, {g}, {g}), found {outputs}")


def _check_card(model: Model, file: Path, card_file: Path) -> None:
    card = read_card(card_file)
    if card.sha256 != model.identity.sha256:
        raise ModelError(f"{file}: expected sha256 {card.sha256} (its card), found {model.identity.sha256}")
    tiles = card.reference.tiles()
    t = model.contract.tile_px
    if tiles.shape[1:] != (1, t, t):
        raise ModelError(f"{card_file}: expected reference tiles (n, 1, {t}, {t}), found {tiles.shape}")
    scores = model.score(tiles).ravel()
    expected = np.array(card.reference.scores, np.float32)
    if scores.shape != expected.shape:
        raise ModelError(f"{card_file}: expected {scores.size} reference scores, found {expected.size}")
    difference = float(np.abs(scores - expected).max())
    if not difference <= card.reference.tolerance:
        raise ModelError(
            f"{file}: expected its reference scores within {card.reference.tolerance:g}, "
            f"found a difference of {difference:g} on {model.provider}"
        )
