"""Staging: the files of a model version are written to a temporary folder, which is then renamed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from frazil.errors import OutputError

__all__ = ["stage_version"]


@contextlib.contextmanager
def stage_version(folder: Path) -> Iterator[Path]:
    """A new folder inside a model's folder, for `ModelFolder.add`; it is removed if it was not added.

    Raises:
        OutputError: the folder cannot be written.
    """
    staged = folder / f".{uuid4().hex}.tmp"
    try:
        staged.mkdir(parents=True)
        yield staged
    except OSError as error:
        raise OutputError(f"{folder}: cannot write a model there: {error.strerror}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
