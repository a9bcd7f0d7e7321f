"""Models: loaded, checked against contract and card, and run."""

from __future__ import annotations

import logging
import time
from math import isqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.picking.card import CARD_NAME, read_card
from frazil.picking.contract import ModelContract
from frazil.picking.device import Accelerator, PictureOnDevice, can_prepare, find_difference
from frazil.picking.model_files import ModelIdentity, identify_content, inspect_content, locate_model, read_content
from frazil.picking.onnx_runtime import ort
from frazil.picking.precision import open_twin
from frazil.picking.provider import Placement, available_cores, device_of
from frazil.picking.tiling import Tiling
from frazil.picking.trial import reference_tiles, run_trial, score_tiles, takes_any_side
from frazil.settings import Device, Precision

__all__ = ["Model", "Preparation", "load_model"]

log = logging.getLogger(__name__)

Preparation = Literal["auto", "device", "host"]
"""Where pictures are prepared: on the device that runs the model, or on the CPU. ``auto`` means there on a GPU."""

_BATCH_PIXELS = 2**21
"""Pixels in one batch of tiles: 8 MiB of float32."""
_CONVOLVED_PIXELS = 2**17
"""The same for convolutions on the CPU, whose features, some fifty times as much, are best kept in the caches."""
_LARGEST_TILE_PIXELS = 2**21
"""Pixels in one tile, where the model leaves its sides open: the fewer tiles, the less is scored twice. The features
of the largest one are some 400 MB."""
_WARM_UP_PIXELS = 2**19


class Model:
    """A model that has passed its checks and can score tiles.

    Attributes:
        identity: name, version, sha256.
        contract: what its metadata says.
        placement: which execution providers were seen to run its nodes.
        has_card: whether a card vouched for it.
        workers: threads that share the tiles of a picture, each with batches of its own.
        precision: in which it computes.
        precision_problem: why it does not compute in int8 although that was wanted.
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
        workers: int = 1,
        precision: Precision = "float32",
        precision_problem: str | None = None,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.placement = placement
        self.has_card = has_card
        self.precision = precision
        self.precision_problem = precision_problem
        self.largest_tile_pixels = _LARGEST_TILE_PIXELS if takes_any_side(session) else 0
        self.workers = workers
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

    def largest_batch_shape(self) -> tuple[int, int, int]:
        """(n, h, w) of the largest batch that a micrograph, however large, can bring."""
        t, step = self.contract.tile_px, self.contract.step_px
        if self.largest_tile_pixels:
            t = max(
                t - round((self.contract.grid - 1) * step),
                t + round((isqrt(self.largest_tile_pixels) - t) // step * step),
            )
        return self.largest_batch((t, t)), t, t

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 1, h, w) tiles → (n, gy, gx) probabilities.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        return self._finite(score_tiles(self._session, tiles))

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


def load_model(
    path: Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    require_gpu: bool = False,
    precision: Precision = "float32",
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
        precision: ``int8`` has the model's int8 twin score where it can, and says why where it cannot.
        preparation: where pictures are prepared; on the device only if that is proved here to give what the CPU gives.

    Raises:
        ModelError: the model is missing or fails a check.
    """
    file, name, version = locate_model(path)
    content = read_content(file)
    identity = identify_content(content, name, version)
    card_file = file.parent / CARD_NAME
    card = read_card(card_file) if version or card_file.is_file() else None
    if card and card.sha256 != identity.sha256:
        raise ModelError(f"{file}: expected sha256 {card.sha256} (its card), found {identity.sha256}", "hash")
    onnx, contract = inspect_content(file, content)
    tiles = reference_tiles(card_file, card, contract)
    threads = threads or available_cores()
    # Windows are shared among threads, in batches from gathering their pixels to their scores, so that none waits for
    # another. Of a dense model, which has few tiles, operators are shared.
    workers = threads if contract.grid == 1 else 1
    trial = run_trial(content, file, contract, tiles, device, threads // workers)
    if card:
        trial.check_reference(card.reference.scores, card.reference.tolerance)
    on_cpu = trial.placement.cpu_problem()
    if require_gpu and on_cpu:
        raise ModelError(f"{file}: expected to run on a GPU, found {on_cpu}", "provider")
    precision_problem = None
    if precision == "int8":
        try:
            if trial.placement.on_cpu < sum(trial.placement.nodes.values()):
                raise ModelError(f"{file}: expected to run on the CPU, found {trial.placement.provider}", "provider")
            trial = open_twin(file, card, contract, tiles, threads // workers)
        except ModelError as error:
            precision, precision_problem = "float32", str(error)
            log.warning("model %s serves in float32 although int8 is set: %s", identity.short, error)
    model = Model(
        identity,
        contract,
        trial.session,
        trial.placement,
        has_card=card is not None,
        batch_pixels=_CONVOLVED_PIXELS if on_cpu and ("", "Conv") in onnx.operators else _BATCH_PIXELS,
        workers=workers if on_cpu else 1,
        precision=precision,
        precision_problem=precision_problem,
    )
    if preparation == "device" or (preparation == "auto" and device_of(trial.session) == "cuda"):
        model.accelerate(threads)
    return model
