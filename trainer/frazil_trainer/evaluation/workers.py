"""Micrographs scored by the workers of a Dask cluster, one in each task: the result is that of one process.

Everything goes to and fro as bytes of msgpack. Workers read micrographs, labels, models and picks by the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import frazil
from frazil.cluster.calls import call_each
from frazil.cluster.engine import Engine
from frazil.cluster.same import check_program, load_same_model
from frazil_trainer.data.labelled import LabelledPaths
from frazil_trainer.evaluation.micrographs import ScoredMicrograph, Scoring, score_micrograph
from frazil_trainer.evaluation.sources import ModelSource, PickFiles, PickSource

__all__ = ["score_by_workers"]


class _Model(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    name: str
    path: Path
    sha256: str
    threshold: float
    threads: int


class _Files(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    files: PickFiles
    """With the micrograph's own place alone."""


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    frazil: str = frazil.__version__
    """Version of the program: another one may score otherwise."""
    members: list[LabelledPaths]
    sources: list[_Model | _Files]


def _plain(value: object) -> bytes:
    """What msgpack has no word for."""
    if isinstance(value, Path):
        return os.fsencode(value.absolute())
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).tobytes()
    raise NotImplementedError(type(value))


def _full(kind: type, value: Any) -> object:
    return Path(os.fsdecode(value)) if kind is Path else np.frombuffer(value, np.float64)


_TASKS = msgspec.msgpack.Decoder(_Task, dec_hook=_full)
_SCORED = msgspec.msgpack.Decoder(list[ScoredMicrograph], dec_hook=_full)


def score_by_workers(engine: Engine[str], threads: int, beat: Callable[[], None] = lambda: None) -> Scoring:
    """Have micrographs scored by the workers of a cluster, with some threads each; for `score_micrographs`.

    The sources are those of `open_sources`. `beat` is called every second or so.
    """

    def score(
        sources: Sequence[PickSource], micrographs: Mapping[str, Sequence[LabelledPaths]]
    ) -> Iterator[tuple[str, list[ScoredMicrograph]]]:
        tasks = {
            name: (msgspec.msgpack.encode(_task(sources, members, threads), enc_hook=_plain),)
            for name, members in micrographs.items()
        }
        for name, answer in call_each(engine, score_task, tasks, beat):
            yield name, _SCORED.decode(answer)

    return score


def _task(sources: Sequence[PickSource], members: Sequence[LabelledPaths], threads: int) -> _Task:
    described: list[_Model | _Files] = []
    micrograph = members[0].micrograph
    for source in sources:
        if isinstance(source, PickFiles):
            own = {path: place for path, place in source.files.items() if path == micrograph}
            described.append(_Files(files=replace(source, files=own)))
        elif isinstance(source, ModelSource) and source.path is not None:
            described.append(
                _Model(
                    name=source.name,
                    path=source.path,
                    sha256=source.model.identity.sha256,
                    threshold=source.threshold,
                    threads=threads,
                )
            )
        else:
            raise TypeError(f"{source.name}: workers cannot load it")
    return _Task(members=list(members), sources=described)


def score_task(task: bytes) -> bytes:
    """Score one micrograph: the task that a worker is given.

    Raises:
        FrazilError: the worker has another version of frazil; or as `score_micrograph`.
    """
    decoded = _TASKS.decode(task)
    check_program(decoded.frazil)
    sources = [source.files if isinstance(source, _Files) else _load(source) for source in decoded.sources]
    return msgspec.msgpack.encode(score_micrograph(sources, decoded.members), enc_hook=_plain)


@lru_cache
def _load(of: _Model) -> ModelSource:
    return ModelSource(load_same_model(of.path, of.sha256, of.threads), name=of.name, threshold=of.threshold)
