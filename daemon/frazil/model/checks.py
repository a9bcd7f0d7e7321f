"""Checks before a model serves: it is opened, run on tiles, and compared with its contract and card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model.contract import Card, Device, ModelContract
from frazil.model.runtime import RUNTIME_ERRORS, Placement, open_session, ort, read_placement

__all__ = ["CheckedFile", "check_file", "reference_tiles", "score_tiles", "takes_any_side"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedFile:
    """A model's file that ran, and its scores."""

    file: Path
    session: ort.InferenceSession
    scores: NDArray[np.float32]
    """(n, gy, gx) of the tiles on which it ran."""
    placement: Placement

    def check_reference(self, expected: Sequence[float] | NDArray[np.float32], tolerance: float) -> None:
        """Check that the scores are those of the card.

        Raises:
            ModelError: they are not.
        """
        file, scores, promised = self.file, self.scores, np.array(expected, np.float32)
        if scores.size != promised.size:
            raise ModelError(
                f"{file}: expected {promised.size} reference scores (its card), found {scores.size}", "shapes"
            )
        difference = float(np.abs(scores.ravel() - promised).max())
        if not difference <= tolerance:
            found = f"a difference of {difference:g}" if np.isfinite(scores).all() else "scores that are no numbers"
            raise ModelError(
                f"{file}: expected its reference scores within {tolerance:g}, "
                f"found {found} on {self.placement.provider}",
                "reference" if np.isfinite(scores).all() else "not_finite",
            )


def check_file(
    content: bytes, file: Path, contract: ModelContract, tiles: NDArray[np.float32], device: Device, threads: int
) -> CheckedFile:
    """Open a model and run it on (n, 1, t, t) tiles.

    Args:
        content: of the ONNX file.
        file: its name, for messages.
        contract: of the model.
        tiles: to run it on.
        device: where it runs.
        threads: threads of ONNX Runtime's pool on the CPU.

    Raises:
        ModelError: it cannot be opened or run, or its inputs and outputs are not those of the contract.
    """
    with tempfile.TemporaryDirectory(prefix="frazil-") as folder:
        # From bytes: what was hashed is what runs.
        session = open_session(content, file, device, threads, profile=Path(folder) / "run")
        _check_signature(file, session, contract)
        try:
            scores = score_tiles(session, tiles)
            if takes_any_side(session):
                _check_any_side(file, session, contract)
        except RUNTIME_ERRORS as error:
            raise ModelError(f"{file}: ONNX Runtime cannot run it: {str(error).strip()}") from error
        placement = read_placement(session)
    return CheckedFile(file=file, session=session, scores=scores, placement=placement)


def reference_tiles(card_file: Path, card: Card | None, contract: ModelContract) -> NDArray[np.float32]:
    """The (n, 1, t, t) tiles of a card's reference; one of zeros where there is no card.

    Raises:
        ModelError: they are torn, or of another size than the contract's.
    """
    t = contract.tile_px
    if card is None:
        return np.zeros((1, 1, t, t), np.float32)
    tiles = card.reference.tiles()
    if tiles.shape[1:] != (1, t, t):
        raise ModelError(f"{card_file}: expected reference tiles (n, 1, {t}, {t}), found {tiles.shape}", "shapes")
    return tiles


def score_tiles(session: ort.InferenceSession, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 1, h, w) tiles → (n, gy, gx) scores."""
    return np.asarray(session.run(["scores"], {"tiles": tiles})[0], np.float32)


def takes_any_side(session: ort.InferenceSession) -> bool:
    """Whether a model leaves the sides of its tiles open."""
    sides = session.get_inputs()[0].shape[2:]
    return len(sides) == 2 and not any(isinstance(side, int) for side in sides)


def _check_signature(file: Path, session: ort.InferenceSession, contract: ModelContract) -> None:
    t, g = contract.tile_px, contract.grid
    sides, grids = ([None, None], [None, None]) if takes_any_side(session) else ([t, t], [g, g])
    inputs = [(i.name, i.type, _known(i.shape[1:])) for i in session.get_inputs()]
    outputs = [(o.name, o.type, _known(o.shape[1:])) for o in session.get_outputs()]
    if inputs != [("tiles", "tensor(float)", [1, *sides])]:
        raise ModelError(f"{file}: expected input tiles float32 (n, 1, {t}, {t}), found {inputs}", "shapes")
    if outputs != [("scores", "tensor(float)", grids)]:
        raise ModelError(f"{file}: expected output scores float32 (n, {g}, {g}), found {outputs}", "shapes")
    if takes_any_side(session) and not contract.step_px.is_integer():
        raise ModelError(
            f"{file}: expected a step of whole pixels for tiles of any side, found {contract.step_px}", "shapes"
        )


def _known(shape: list[int | str | None]) -> list[int | None]:
    """A shape without the names that ONNX gives to open sides."""
    return [side if isinstance(side, int) else None for side in shape]


def _check_any_side(file: Path, session: ort.InferenceSession, contract: ModelContract) -> None:
    """A tile that is longer by some steps must give as many more scores."""
    step = round(contract.step_px)
    least = contract.tile_px - (contract.grid - 1) * step
    found = score_tiles(session, np.zeros((1, 1, least, least + step), np.float32)).shape
    if found != (1, 1, 2):
        raise ModelError(
            f"{file}: expected scores (1, 1, 2) for a tile of {least} x {least + step} px, found {found}", "shapes"
        )
