"""Models: found in a repository, checked against contract and card, and run."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.picking.card import CARD_NAME, Card, read_card
from frazil.picking.contract import ModelContract
from frazil.picking.device import Accelerator, PictureOnDevice, can_prepare, find_difference
from frazil.picking.onnx_file import OnnxFile, parse_onnx
from frazil.picking.provider import Placement, available_cores, device_of, open_session, read_placement
from frazil.picking.standardise import STANDARDISATIONS
from frazil.picking.tiling import Tiling
from frazil.settings import Device

__all__ = [
    "CURRENT_NAME",
    "MODEL_NAME",
    "Model",
    "ModelIdentity",
    "Preparation",
    "identify_model",
    "load_model",
    "locate_model",
    "read_contract",
    "read_current",
]

log = logging.getLogger(__name__)

Preparation = Literal["auto", "device", "host"]
"""Where pictures are prepared: on the device that runs the model, or on the CPU. ``auto`` means there on a GPU."""

MODEL_NAME = "model.onnx"
CURRENT_NAME = "CURRENT"
_LARGEST_CURRENT_BYTES = 4096
_LARGEST_MODEL_BYTES = 2**31
_BATCH_PIXELS = 2**21
"""Pixels in one batch of tiles: 8 MiB of float32."""
_CONVOLVED_PIXELS = 2**17
"""The same for convolutions on the CPU, whose features, some fifty times as much, are best kept in the caches."""
_LARGEST_TILE_PIXELS = 2**21
"""Pixels in one tile, where the model leaves its sides open: the fewer tiles, the less is scored twice. The features
of the largest one are some 400 MB."""
_WARM_UP_PIXELS = 2**19


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model made a pick."""

    name: str
    version: int
    """Number of the version folder; 0 for a lone file."""
    sha256: str
    """Of the ONNX file."""

    @property
    def short(self) -> str:
        """Name and version."""
        return f"{self.name}/{self.version}"

    def __str__(self) -> str:
        return f"{self.short} (sha256 {self.sha256[:12]})"


class Model:
    """A model that has passed its checks and can score tiles.

    Attributes:
        identity: name, version, sha256.
        contract: what its metadata says.
        placement: which execution providers were seen to run its nodes.
        has_card: whether a card vouched for it.
        largest_tile_pixels: most pixels in one tile, where it takes tiles of any side; 0 where it takes the contract's.
        accelerator: prepares pictures on the device and scores them there; None where the CPU prepares them.
        preparation_problem: why there is none although there was to be one.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        contract: ModelContract,
        session: ort.InferenceSession,
        placement: Placement,
        *,
        has_card: bool,
        batch_pixels: int = _BATCH_PIXELS,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.placement = placement
        self.has_card = has_card
        self.largest_tile_pixels = _LARGEST_TILE_PIXELS if _takes_any_side(session) else 0
        self._batch_pixels = batch_pixels
        self.accelerator: Accelerator | None = None
        self.preparation_problem: str | None = None
        self._session = session

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of where it runs, such as ``CPUExecutionProvider``."""
        return self.placement.provider

    @property
    def preparation(self) -> str:
        """Where pictures are prepared, in a few words."""
        if self.accelerator is not None:
            return "pictures prepared on the device"
        why = f": {self.preparation_problem}" if self.preparation_problem else ""
        return f"pictures prepared on the CPU{why}"

    def largest_batch(self, tile_shape: tuple[int, int]) -> int:
        """Most tiles of (h, w) pixels in one batch."""
        h, w = tile_shape
        return max(1, self._batch_pixels // (h * w))

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 1, h, w) tiles → (n, gy, gx) probabilities.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        return self._finite(_score(self._session, tiles))

    def score_picture(self, picture: PictureOnDevice, tiling: Tiling) -> NDArray[np.float32]:
        """A picture on the device → (count, gy, gx) probabilities in the order of `Tiling.batches`.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        if self.accelerator is None:
            raise RuntimeError("expected a model with an accelerator, found one without")
        return self._finite(self.accelerator.score(picture, tiling, self.largest_batch(tiling.tile_shape)))

    def accelerate(self, threads: int) -> None:
        """From here on prepare pictures on the device, if that is proved to give what the CPU gives."""
        if not can_prepare(self.contract):
            self.decelerate(f"the standardisation {self.contract.normalisation} is not known there")
            return
        try:
            accelerator = Accelerator(self._session, self.contract, threads)
            problem = find_difference(accelerator, self)
        except Exception as error:  # noqa: BLE001 - whatever it is, the CPU can do it
            problem = str(error).strip() or type(error).__name__
        if problem is not None:
            self.decelerate(problem)
            return
        self.accelerator, self.preparation_problem = accelerator, None

    def decelerate(self, problem: str) -> None:
        """From here on prepare pictures on the CPU, and say why."""
        self.accelerator, self.preparation_problem = None, " ".join(problem.split())
        log.warning("model %s: pictures are prepared on the CPU: %s", self.identity.short, self.preparation_problem)

    def _finite(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(scores).all():
            raise ModelError(
                f"model {self.identity.short}: expected finite scores, found NaN or infinity",
                "not_finite",
            )
        return scores

    def warm_up(self, shape: tuple[int, int, int] | None = None) -> float:
        """Score a batch, so that the first micrograph does not pay for what is made on first use.

        Args:
            shape: (n, h, w) of the batch. Default: a few of the contract's tiles.

        Returns:
            The seconds that it took.
        """
        t = self.contract.tile_px
        n, h, w = shape or (max(1, _WARM_UP_PIXELS // t**2), t, t)
        batch = np.zeros((n, 1, h, w), np.float32)
        started = time.perf_counter()
        self.score(batch)
        return time.perf_counter() - started


def read_current(folder: Path) -> list[int]:
    """The versions that ``CURRENT`` names: the serving one, and below it those that served before, latest first.

    Raises:
        ModelError: it is missing, or names no version.
    """
    file = folder / CURRENT_NAME
    try:
        with file.open("rb") as opened:
            lines = opened.read(_LARGEST_CURRENT_BYTES).decode("ascii", "replace").split("\n")
    except OSError as error:
        raise ModelError(f"{file}: expected the number of a version, found no such file", "missing") from error
    versions = [line.strip() for line in lines if line.strip()]
    if not versions or not all(version.isdecimal() and int(version) > 0 for version in versions):
        raise ModelError(f"{file}: expected the number of a version, found {' '.join(versions)[:80]!r}", "missing")
    return [int(version) for version in versions]


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
        raise ModelError(f"{path}: expected a model's folder or an .onnx file, found nothing there", "missing")
    path = path.resolve()
    if path.is_dir() and (path / CURRENT_NAME).is_file():
        path = path / str(read_current(path)[0])
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ModelError(
            f"{path}: expected {CURRENT_NAME} or {MODEL_NAME} in a model's folder, found neither", "missing"
        )
    if file.name == MODEL_NAME and file.parent.name.isdecimal():
        return file, file.parent.parent.name, int(file.parent.name)
    return file, file.stem, 0


def identify_model(path: Path) -> ModelIdentity:
    """Which model a path means, by its file's name and content; says nothing of whether it is fit to serve.

    Raises:
        ModelError: the path leads to no model, or it cannot be read.
    """
    file, name, version = locate_model(path)
    return _identify(_read(file), name, version)


def read_contract(path: Path) -> ModelContract:
    """What a model says of itself; read without running it.

    Raises:
        ModelError: the path leads to no model, or to one without the contract.
    """
    file = locate_model(path)[0]
    return _inspect(file, _read(file))[1]


def load_model(
    path: Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    require_gpu: bool = False,
    preparation: Preparation = "auto",
) -> Model:
    """Load a model and check it: hash, operators, contract, shapes, reference output, and where it really runs.

    Hash and reference output are in the card. All that can be checked without running the model is checked before
    ONNX Runtime sees it.

    Args:
        path: as for `locate_model`.
        device: where to run it.
        threads: CPU threads of ONNX Runtime; default: every core this process may use.
        require_gpu: whether a model that does not run on a GPU is refused.
        preparation: where pictures are prepared; on the device only if that is proved here to give what the CPU gives.

    Raises:
        ModelError: the model is missing or fails a check.
    """
    file, name, version = locate_model(path)
    content = _read(file)
    identity = _identify(content, name, version)
    card_file = file.parent / CARD_NAME
    card = read_card(card_file) if version or card_file.is_file() else None
    if card and card.sha256 != identity.sha256:
        raise ModelError(f"{file}: expected sha256 {card.sha256} (its card), found {identity.sha256}", "hash")
    onnx, contract = _inspect(file, content)
    with tempfile.TemporaryDirectory(prefix="frazil-") as folder:
        # From bytes: what was hashed is what runs.
        session = open_session(content, file, device, threads or available_cores(), profile=Path(folder) / "run")
        _check_signature(file, session, contract)
        tiles = _reference_tiles(card_file, card, contract)
        try:
            scores = _score(session, tiles)
            if _takes_any_side(session):
                _check_any_side(file, session, contract)
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ModelError(f"{file}: ONNX Runtime cannot run it: {str(error).strip()}") from error
        placement = read_placement(session)
    if card:
        _check_reference(file, card, scores, placement)
    if require_gpu and (problem := placement.cpu_problem()):
        raise ModelError(f"{file}: expected to run on a GPU, found {problem}", "provider")
    on_cpu = placement.cpu_problem() is not None
    model = Model(
        identity,
        contract,
        session,
        placement,
        has_card=card is not None,
        batch_pixels=_CONVOLVED_PIXELS if on_cpu and ("", "Conv") in onnx.operators else _BATCH_PIXELS,
    )
    if preparation == "device" or (preparation == "auto" and device_of(session) == "cuda"):
        model.accelerate(threads or available_cores())
    return model


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST_MODEL_BYTES:
            raise ModelError(
                f"{file}: expected at most {_LARGEST_MODEL_BYTES} bytes, found {file.stat().st_size}", "memory"
            )
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}", "missing") from error


def _identify(content: bytes, name: str, version: int) -> ModelIdentity:
    return ModelIdentity(name=name, version=version, sha256=hashlib.sha256(content).hexdigest())


def _inspect(file: Path, content: bytes) -> tuple[OnnxFile, ModelContract]:
    try:
        onnx = parse_onnx(content)
        onnx.check_safe()
        contract = ModelContract.from_metadata(onnx.metadata)
    except ModelError as error:
        raise ModelError(f"{file}: {error}", error.reason) from error
    if contract.normalisation not in STANDARDISATIONS:
        known = ", ".join(sorted(STANDARDISATIONS))
        raise ModelError(
            f"{file}: expected a normalisation among {known}; found {contract.normalisation!r}", "contract"
        )
    return onnx, contract


def _check_signature(file: Path, session: ort.InferenceSession, contract: ModelContract) -> None:
    t, g = contract.tile_px, contract.grid
    sides, grids = ([None, None], [None, None]) if _takes_any_side(session) else ([t, t], [g, g])
    inputs = [(i.name, i.type, _known(i.shape[1:])) for i in session.get_inputs()]
    outputs = [(o.name, o.type, _known(o.shape[1:])) for o in session.get_outputs()]
    if inputs != [("tiles", "tensor(float)", [1, *sides])]:
        raise ModelError(f"{file}: expected input tiles float32 (n, 1, {t}, {t}), found {inputs}", "shapes")
    if outputs != [("scores", "tensor(float)", grids)]:
        raise ModelError(f"{file}: expected output scores float32 (n, {g}, {g}), found {outputs}", "shapes")
    if _takes_any_side(session) and not contract.step_px.is_integer():
        raise ModelError(
            f"{file}: expected a step of whole pixels for tiles of any side, found {contract.step_px}", "shapes"
        )


def _takes_any_side(session: ort.InferenceSession) -> bool:
    """Whether a model leaves the sides of its tiles open."""
    sides = session.get_inputs()[0].shape[2:]
    return len(sides) == 2 and not any(isinstance(side, int) for side in sides)


def _known(shape: list[int | str | None]) -> list[int | None]:
    """A shape without the names that ONNX gives to open sides."""
    return [side if isinstance(side, int) else None for side in shape]


def _check_any_side(file: Path, session: ort.InferenceSession, contract: ModelContract) -> None:
    """A tile that is longer by some steps must give as many more scores."""
    step = round(contract.step_px)
    least = contract.tile_px - (contract.grid - 1) * step
    found = _score(session, np.zeros((1, 1, least, least + step), np.float32)).shape
    if found != (1, 1, 2):
        raise ModelError(
            f"{file}: expected scores (1, 1, 2) for a tile of {least} x {least + step} px, found {found}", "shapes"
        )


def _reference_tiles(card_file: Path, card: Card | None, contract: ModelContract) -> NDArray[np.float32]:
    t = contract.tile_px
    if card is None:
        return np.zeros((1, 1, t, t), np.float32)
    tiles = card.reference.tiles()
    if tiles.shape[1:] != (1, t, t):
        raise ModelError(f"{card_file}: expected reference tiles (n, 1, {t}, {t}), found {tiles.shape}", "shapes")
    return tiles


def _score(session: ort.InferenceSession, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(session.run(["scores"], {"tiles": tiles})[0], np.float32)


def _check_reference(file: Path, card: Card, scores: NDArray[np.float32], placement: Placement) -> None:
    expected = np.array(card.reference.scores, np.float32)
    if scores.size != expected.size:
        raise ModelError(f"{file}: expected {expected.size} reference scores (its card), found {scores.size}", "shapes")
    difference = float(np.abs(scores.ravel() - expected).max())
    if not difference <= card.reference.tolerance:
        found = f"a difference of {difference:g}" if np.isfinite(scores).all() else "scores that are no numbers"
        raise ModelError(
            f"{file}: expected its reference scores within {card.reference.tolerance:g}, "
            f"found {found} on {placement.provider}",
            "reference" if np.isfinite(scores).all() else "not_finite",
        )
