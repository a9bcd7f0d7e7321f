"""The folder of a training run: its checkpoint, its TensorBoard events, and at the end what came of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.files import write_atomically
from frazil_trainer.recipe import Recipe

__all__ = ["CHECKPOINT_NAME", "EVENTS_NAME", "RESULT_NAME", "RunFolder"]

CHECKPOINT_NAME = "checkpoint.pt"
EVENTS_NAME = "events"
RESULT_NAME = "run.json"


class RunFolder:
    """Keeps a run so that it can go on after it was stopped.

    Args:
        folder: made if missing.
        recipe: of the run.
        training_set_sha256: of the data that it learns from.

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
        """Where the checkpoint is, if there is one."""
        return self.folder / CHECKPOINT_NAME

    def read_result(self) -> dict[str, Any] | None:
        """What came of the run, or None where it has not ended.

        Raises:
            FrazilError: the file is not the result of a run.
        """
        file = self.folder / RESULT_NAME
        try:
            return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise FrazilError(f"{file}: expected what came of a run, cannot read it: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        """Write what came of the run.

        Raises:
            OutputError: it cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode({**result, **self._made_of}), indent=2) + b"\n"
        _write(self.folder / RESULT_NAME, text)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The state of a training when it was last written, or None where there is none.

        Only tensors and plain values are read: a checkpoint cannot run code.

        Raises:
            SettingsError: it belongs to another recipe or other data.
            FrazilError: the file is no checkpoint.
        """
        try:
            kept = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            made_of, state = kept["made_of"], kept["state"]
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
            raise FrazilError(
                f"{self.checkpoint}: expected a checkpoint, cannot read it ({type(error).__name__}); "
                "delete it to start anew"
            ) from error
        self._check_same(made_of)
        return dict(state)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write the state of a training, whole or not at all.

        Raises:
            OutputError: it cannot be written; the one before stays.
        """
        content = io.BytesIO()
        torch.save({"made_of": self._made_of, "state": state}, content)
        try:
            _write(self.checkpoint, content.getvalue())
        except OutputError as error:
            kept = (
                "the checkpoint before is whole, --resume goes on from it"
                if self.checkpoint.exists()
                else "none is kept"
            )
            raise OutputError(f"{error}; {kept}") from error

    def _check_same(self, made_of: dict[str, Any]) -> None:
        changed = list(_differences(made_of["recipe"], self._made_of["recipe"], ""))
        if made_of["training_set_sha256"] != self._made_of["training_set_sha256"]:
            changed.append("the training micrographs or their labels are others")
        if changed:
            raise SettingsError(
                f"{self.checkpoint}: expected the run of this recipe and data, found another: {changed[0]}; "
                "give the new run a folder of its own (--run-folder)"
            )


def _differences(old: object, new: object, where: str) -> Iterator[str]:
    """What changed between two recipes, a line each."""
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
