"""Admission: a promoted model is checked in a process of its own, then loaded here and tried on a batch."""

from __future__ import annotations

import functools
import logging
import threading
import time
from pathlib import Path

from frazil.errors import ModelError
from frazil.model import MicrographSize, Model, Precision, has_twin, held_bytes
from frazil.model.contract import Finds
from frazil.session.models import Models

__all__ = ["Admission"]

log = logging.getLogger(__name__)

_OTHERS_BYTES = 2**29
"""Memory that the rest of the daemon, which picks meanwhile, may take while a model is loaded."""


class Admission:
    """Admits models that pass their checks.

    Args:
        models: loads and checks versions.
        finds: what the models must be there for.
        precision: in which they should compute, if they can.
        check_seconds: processor time that a check may take.
        threads: CPU threads of a model; None for every core.
        stop: ends a check early when set.
    """

    def __init__(
        self,
        models: Models,
        *,
        finds: Finds,
        precision: Precision,
        check_seconds: float,
        threads: int | None,
        stop: threading.Event,
    ) -> None:
        self._models = models
        self._finds = finds
        self._precision = precision
        self._check_seconds = check_seconds
        self._threads = threads
        self._stop = stop

    def admit(self, path: Path, micrograph: MicrographSize | None) -> tuple[Model, float]:
        """Check a model, load it, and run it on a batch.

        Args:
            path: a version's folder, or an .onnx file.
            micrograph: of the usual size; None takes the largest batch that any can bring.

        Returns:
            The model, and the seconds that the batch took.

        Raises:
            ModelError: it failed a check.
        """
        started = time.monotonic()
        prove = functools.partial(
            self._models.check,
            path,
            seconds=self._check_seconds,
            threads=self._threads,
            micrograph=micrograph,
            finds=self._finds,
            stop=self._stop,
        )
        proof = prove()
        needed_bytes, precision = proof.memory_bytes, self._precision
        if precision == "int8" and has_twin(path):  # the twin may fail though the model passes
            try:
                needed_bytes = max(needed_bytes, prove(precision="int8").memory_bytes)
            except ModelError as error:
                if error.reason == "stopped":
                    raise
                log.warning("%s serves in float32 although int8 is set: %s", path, error)
                precision = "float32"
        proved = time.monotonic()
        held_before = held_bytes("VmRSS")
        model = self._models.load(path, precision)
        if model.identity.sha256 != proof.sha256:
            raise ModelError(
                f"{path}: expected sha256 {proof.sha256}, as in its check, found {model.identity.sha256}", "hash"
            )
        loaded = time.monotonic()
        batch_seconds = model.warm_up(model.batch_shape(micrograph) if micrograph else model.largest_batch_shape())
        taken_bytes = held_bytes("VmRSS") - held_before
        if model.provider == "CPUExecutionProvider" and taken_bytes > needed_bytes + _OTHERS_BYTES:
            raise ModelError(
                f"{path}: expected to take {needed_bytes >> 20} MiB of memory, as in its check, "
                f"found that it takes {taken_bytes >> 20} MiB",
                "memory",
            )
        log.info(
            "model %s is ready in %s: checked in %.2f s (%d MiB), loaded in %.2f s, %s",
            model.identity,
            model.precision,
            proved - started,
            needed_bytes >> 20,
            loaded - proved,
            model.placement.describe(batch_seconds),
        )
        return model, batch_seconds
