"""A model that was loaded, as it runs: tiles to scores."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model.contract import ModelContract, ModelIdentity
from frazil.model.runtime import Placement, ort
from frazil.model.tiling import Batches, MicrographSize, Tiling, plan_tiling, rescaled_shape

__all__ = ["BATCH_PIXELS", "Model", "score_tiles", "takes_any_side"]

BATCH_PIXELS = 2**21
"""Pixels in one batch of tiles: 8 MiB of float32."""
_LARGEST_TILE_PIXELS = 2**21
"""Pixels in one tile, where the model leaves its sides open: the fewer tiles, the less is scored twice. The features
of the largest one are some 400 MB."""
_WARM_UP_PIXELS = 2**19


def score_tiles(session: ort.InferenceSession, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 1, h, w) tiles → (n, gy, gx) scores."""
    return np.asarray(session.run(["scores"], {"tiles": tiles})[0], np.float32)


def takes_any_side(session: ort.InferenceSession) -> bool:
    """Whether a model leaves the sides of its tiles open."""
    sides = session.get_inputs()[0].shape[2:]
    return len(sides) == 2 and not any(isinstance(side, int) for side in sides)


class Model:
    """A model that has passed its checks and can score tiles.

    Attributes:
        identity: name, version, sha256, and the precision in which it computes.
        contract: of its metadata.
        placement: which execution providers were seen to run its nodes.
        has_card: whether a card vouched for it.
        workers: threads that share the tiles of a picture, each with batches of its own.
        precision_problem: why it does not compute in int8 although that was requested.
        largest_tile_pixels: most pixels in one tile, where it takes tiles of any side; 0 where it takes the contract's.
        session: of ONNX Runtime.
        threads: CPU threads that it was loaded with.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        contract: ModelContract,
        session: ort.InferenceSession,
        placement: Placement,
        *,
        has_card: bool,
        batch_pixels: int = BATCH_PIXELS,
        threads: int = 1,
        workers: int = 1,
        precision_problem: str | None = None,
    ) -> None:
        self.identity = identity
        self.contract = contract
        self.placement = placement
        self.has_card = has_card
        self.precision_problem = precision_problem
        self.largest_tile_pixels = _LARGEST_TILE_PIXELS if takes_any_side(session) else 0
        self.session = session
        self.threads = threads
        self.workers = workers
        self._batch_pixels = batch_pixels

    @property
    def precision(self) -> str:
        """In which it computes."""
        return self.identity.precision

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of where it runs, such as ``CPUExecutionProvider``."""
        return self.placement.provider

    def largest_batch(self, tile_shape: tuple[int, int]) -> int:
        """Most tiles of (h, w) pixels in one batch."""
        h, w = tile_shape
        return max(1, self._batch_pixels // (h * w))

    def plan(self, micrograph: MicrographSize) -> Tiling | None:
        """Place tiles on the picture of a micrograph; None where its margin leaves nothing of it."""
        picture = rescaled_shape(micrograph.shape, micrograph.diameter_px, self.contract.diameter_px)
        of_y, of_x = (micrograph.margin_px * (n / of) for n, of in zip(picture, micrograph.shape, strict=True))
        return plan_tiling(picture, self.contract, (of_y, of_x), largest_tile_pixels=self.largest_tile_pixels)

    def batch_shape(self, micrograph: MicrographSize) -> tuple[int, int, int] | None:
        """(n, h, w) of one batch of a micrograph; None where its margin leaves nothing of it."""
        tiling = self.plan(micrograph)
        if tiling is None:
            return None
        return tiling.batch_size(self.largest_batch(tiling.tile_shape)), *tiling.tile_shape

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
        return self.check_finite(score_tiles(self.session, tiles))

    def score_picture(self, picture: NDArray[np.float32], tiling: Tiling) -> NDArray[np.float32]:
        """(h', w') picture → (count, gy, gx) probabilities in the order of `Tiling.batches`; by `workers` threads.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        largest = self.largest_batch(tiling.tile_shape)

        def score(part: Tiling) -> NDArray[np.float32]:
            return np.concatenate([self.score(batch) for batch in part.batches(picture, largest)])

        first, *others = tiling.split(self.workers)
        if not others:
            return score(first)
        with ThreadPoolExecutor(len(others)) as pool:
            scoring = [pool.submit(score, part) for part in others]
            return np.concatenate([score(first), *(scored.result() for scored in scoring)])

    def count_batches(self, tiling: Tiling) -> Batches:
        """In how many batches `score_picture` scores, and how full they are."""
        largest = self.largest_batch(tiling.tile_shape)
        return sum((part.count_batches(largest) for part in tiling.split(self.workers)), Batches())

    def check_finite(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same scores.

        Raises:
            ModelError: some are NaN or infinite.
        """
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
