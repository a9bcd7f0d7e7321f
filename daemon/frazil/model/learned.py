"""A session's own model, learned while it collects: its folder, what was kept out of a training, and each training.

The folder is a model's folder like any other, below the session's output directory. Whoever trains writes its versions,
and ``trainings.json`` and ``following.json`` beside them; the daemon reads.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from frazil.files import write_atomically
from frazil.model.contract import ModelIdentity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "F1",
    "Following",
    "KeptOut",
    "Training",
    "kept_out_of",
    "learned_folder",
    "read_following",
    "read_trainings",
    "write_following",
    "write_trainings",
]

_MODELS_NAME = "frazil-models"
_LEARNED_NAME = "learned"
_TRAININGS_NAME = "trainings.json"
_FOLLOWING_NAME = "following.json"
_KEPT_OUT_KEY = "kept_out"
_LARGEST_TRAININGS_BYTES = 2**20
_LARGEST_FOLLOWING_BYTES = 4096
_MOST_TRAININGS = 20


def learned_folder(out: Path) -> Path:
    """The folder of a session's own model, of the session's output directory. It need not be there."""
    return out / _MODELS_NAME / _LEARNED_NAME


class KeptOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A micrograph, or a part of one, that a model did not learn from."""

    path: str
    """The ledger's name of the micrograph."""
    region: tuple[float, float, float, float] | None = None
    """First y, first x, and end y, end x, in pixels of the micrograph; None for all of it."""

    def holds(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) which positions, in pixels of the micrograph, lie in it."""
        first_y, first_x, end_y, end_x = self.region or (-math.inf, -math.inf, math.inf, math.inf)
        return (y >= first_y) & (y < end_y) & (x >= first_x) & (x < end_x)


class F1(msgspec.Struct, frozen=True, kw_only=True):
    """F1 on what was kept out, of the model that served and of the new one, each at its own threshold."""

    before: float
    after: float
    micrographs: int
    particles: int


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """One training: from what, how far, and how it ended."""

    state: Literal["training", "offered", "handed_in", "failed"]
    """``offered``: the version is there, and waits to be promoted. ``handed_in``: it was promoted, and the daemon
    decides."""
    started_at: float
    """Unix time, in seconds."""
    updated_at: float
    """When the trainer last said something: one that says nothing for long hangs, or has died."""
    session: str
    """Its name; empty for the only session of a daemon."""
    parent: ModelIdentity
    """The model that was adapted."""
    learnt_from: tuple[str, ...]
    """The ledger's names of micrographs."""
    kept_out: tuple[str, ...]
    minutes: float
    """That it may take."""
    loss: tuple[float, ...] = ()
    """Mean of each epoch."""
    version: int = 0
    """That it made; 0 before that."""
    sha256: str = ""
    f1: F1 | None = None
    reason: str = ""
    """Why it failed."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """What a follower of the session says while it waits for corrections."""

    updated_at: float
    """Unix time, in seconds."""
    after: int
    """Micrographs to learn from that begin a training."""
    waiting: int
    """Micrographs to learn from, so far."""
    promotes: bool
    """Whether it hands in what is better."""


_CARD_DECODER = tuple[KeptOut, ...]


def kept_out_of(run: dict[str, object]) -> tuple[KeptOut, ...]:
    """What a model did not learn from, as the run in its card says; nothing where that says nothing."""
    try:
        return msgspec.convert(run.get(_KEPT_OUT_KEY, ()), _CARD_DECODER)
    except msgspec.ValidationError:
        return ()


def read_trainings(folder: Path) -> list[Training]:
    """The trainings of a session's own model, oldest first; none where there were none, or the file is torn."""
    with contextlib.suppress(OSError, msgspec.MsgspecError), (folder / _TRAININGS_NAME).open("rb") as file:
        return msgspec.json.decode(file.read(_LARGEST_TRAININGS_BYTES), type=list[Training])
    return []


def write_trainings(folder: Path, trainings: list[Training]) -> None:
    """Write the last trainings, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomically(folder / _TRAININGS_NAME, msgspec.json.encode(trainings[-_MOST_TRAININGS:]))


def read_following(folder: Path) -> Following | None:
    """What the follower said last; None where there is none, it ended, or the file is torn."""
    with contextlib.suppress(OSError, msgspec.MsgspecError), (folder / _FOLLOWING_NAME).open("rb") as file:
        return msgspec.json.decode(file.read(_LARGEST_FOLLOWING_BYTES), type=Following)
    return None


def write_following(folder: Path, following: Following | None) -> None:
    """Say how a follower stands; None says that it has ended.

    Raises:
        OSError: the folder cannot be written.
    """
    if following is None:
        (folder / _FOLLOWING_NAME).unlink(missing_ok=True)
    else:
        write_atomically(folder / _FOLLOWING_NAME, msgspec.json.encode(following))
