"""The folder of a training run: its checkpoint, its TensorBoard events, and its result at the end."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.files import write_atomically
from frazil_trainer.recipe import Recipe
from frazil_trainer.training.loop import EpochReport
from frazil_trainer.training.precision import Precision

__all__ = ["CHECKPOINT_NAME", "EVENTS_NAME", "RESULT_NAME", "RunFolder", "RunRecord", "read_version"]

CHECKPOINT_NAME = "checkpoint.pt"
EVENTS_NAME = "events"
RESULT_NAME = "run.json"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The provenance of a model, for its card."""

    recipe: Recipe
    data: dict[str, list[str]]
    """Micrographs by part, below the data folder."""
    learnt_from: dict[str, int]
    """Numbers of examples and parameters."""
    last_epoch: EpochReport
    device: str
    processes: int
    precision: Precision
    versions: dict[str, str]
    """Versions of programs."""
    threshold: str
    """The threshold, and how it was chosen."""


class _Finished(msgspec.Struct):
    version: str


def read_version(run: Path) -> Path | None:
    """The model version that the run in a folder made, or None if it has not finished.

    Raises:
        FrazilError: the file is not the result of a run.
    """
    file = run / RESULT_NAME
    try:
        return Path(msgspec.json.decode(file.read_bytes(), type=_Finished).version)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise FrazilError(f"{file}: expected the result of a run, cannot read it: {error}") from error


class RunFolder:
    """The files of a run of a recipe on training data of some checksum, from which it can resume.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, recipe: Recipe, training_set_sha256: str) -> None:
        self.folder = folder
        self._made_of = {"recipe": msgspec.to_builtins(recipe), "training_set_sha256": training_set_sha256}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: expected a folder for the run, cannot make it: {error.strerror}") from error

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file, whether it exists or not."""
        return self.folder / CHECKPOINT_NAME

    def write_result(
        self, version: Path, run: RunRecord, validation: msgspec.Struct, epochs: Sequence[EpochReport]
    ) -> None:
        """Write the result of the run.

        Raises:
            OutputError: it cannot be written.
        """
        result = {"version": str(version), "run": run, "validation": validation, "epochs": epochs, **self._made_of}
        _write(self.folder / RESULT_NAME, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last state of a training, or None without a checkpoint.

        Only tensors and plain values are read: a checkpoint cannot run code.

        Raises:
            SettingsError: the recipe or the data are others.
            FrazilError: the file is not a checkpoint.
        """
        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            made_of, state = saved["made_of"], saved["state"]
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many kinds for a foreign file
            raise FrazilError(
                f"{self.checkpoint}: expected a checkpoint, cannot read it ({type(error).__name__}); "
                "delete it to start anew"
            ) from error
        self._check_same(made_of)
        return dict(state)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state of a training in one atomic step.

        Raises:
            OutputError: it cannot be written; the previous checkpoint stays.
        """
        content = io.BytesIO()
        torch.save({"made_of": self._made_of, "state": state}, content)
        try:
            _write(self.checkpoint, content.getvalue())
        except OutputError as error:
            kept = "the previous checkpoint is intact, --resume continues from it"
            raise OutputError(f"{error}; {kept if self.checkpoint.exists() else 'there is no checkpoint'}") from error

    def _check_same(self, made_of: dict[str, Any]) -> None:
        changed = list(_differences(made_of["recipe"], self._made_of["recipe"], ""))
        if made_of["training_set_sha256"] != self._made_of["training_set_sha256"]:
            changed.append("the training micrographs or their labels have changed")
        if changed:
            raise SettingsError(
                f"{self.checkpoint}: expected the run of this recipe and data, found another: {changed[0]}; "
                "give the new run a folder of its own (--run-folder)"
            )


def _differences(old: object, new: object, where: str) -> Iterator[str]:
    """A line for each change between two recipes."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif msgspec.json.encode(old) != msgspec.json.encode(new):
        shown = (str(value) if not isinstance(value, list | tuple) else f"{len(value)} of them" for value in (old, new))
        yield f"{where} was {next(shown)}, is {next(shown)}"


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
