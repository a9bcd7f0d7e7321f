"""The models of all sessions: each version is loaded once, and checked once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frazil.model import Model, ModelIdentity, Precision, SandboxResult, check_in_sandbox, identify_model

__all__ = ["Models"]

_CHECKS_KEPT = 16


class Models:
    """Loads and checks models for every session. Its methods may be called from any thread; each takes its turn.

    Args:
        load: loads a model in a precision.
    """

    def __init__(self, load: Callable[[Path, Precision], Model]) -> None:
        self._load = load
        self._loading, self._checking = threading.Lock(), threading.Lock()
        self._loaded: weakref.WeakValueDictionary[tuple[ModelIdentity, Precision], Model] = (
            weakref.WeakValueDictionary()
        )
        self._checked: dict[tuple[Any, ...], SandboxResult] = {}

    def load(self, path: Path, precision: Precision) -> Model:
        """Load a model, or find it loaded.

        Args:
            path: a model's folder, one version's folder, or an .onnx file.
            precision: in which it should compute, if it can.

        Raises:
            ModelError: it cannot be loaded, or fails a check.
        """
        with self._loading:
            key = identify_model(path), precision
            model = self._loaded.get(key)
            if model is None:
                model = self._loaded[key] = self._load(path, precision)
            return model

    def check(self, path: Path, *, stop: threading.Event, **how: Any) -> SandboxResult:
        """Check a model in a process of its own, unless just that was checked for another session.

        Args:
            path: as for `load`.
            stop: ends the check early when set.
            how: further arguments of `check_in_sandbox`.

        Raises:
            ModelError: as for `check_in_sandbox`.
        """
        key = identify_model(path), *sorted(how.items())
        with self._checking:
            if key not in self._checked:
                result = check_in_sandbox(path, stop=stop, **how)
                self._checked = dict([*self._checked.items(), (key, result)][-_CHECKS_KEPT:])
            return self._checked[key]
