"""Int8 twins: a model is quantised, and its twin is kept beside it if it picks as well."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from frazil.errors import FrazilError, ModelError
from frazil.model import (
    CARD_NAME,
    MODEL_NAME,
    TWIN_NAME,
    Model,
    ModelFolder,
    Reference,
    Twin,
    TwinScores,
    int8_instructions,
    load_model,
    locate_model,
    read_card,
    write_card,
)
from frazil.model.runtime import ort
from frazil_trainer.data.labelled import LabelledMicrograph, LabelledPaths, find_labelled, load_labelled
from frazil_trainer.evaluation import ScoreRow, score_table, validation_paths
from frazil_trainer.examples.sampling import generators
from frazil_trainer.export.quantise import CALIBRATIONS, count_weighted, quantise, quantised_nodes
from frazil_trainer.recipe import Recipe

__all__ = ["LARGEST_F1_DROP", "TwinData", "add_twin", "load_twin_data", "make_twin", "show_twin"]

LARGEST_F1_DROP = 0.005
"""A twin is refused at this drop of F1 on a deciding set, or in their mean."""
_TOLERANCE = 0.02
"""Tolerance of its reference scores. Sums of integers are exact, but float32 layers may round differently on another
processor, and then change a feature by one step."""
_TILES = 2**40 + 17
"""Random stream of the tiles."""
_MICROGRAPHS_OF_A_SET = 2
_PIXELS_OF_A_MICROGRAPH = 320**2

Progress = Callable[[str], None]
_OfSet = TypeVar("_OfSet", LabelledMicrograph, LabelledPaths)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinData:
    """The micrographs that a twin is calibrated and judged on."""

    training: Sequence[LabelledMicrograph]
    """Their tiles give the ranges of features."""
    selection: Sequence[LabelledMicrograph]
    """Their tiles decide between calibrations."""
    validation: Sequence[LabelledPaths]
    """On these the twin must pick as well as the model."""
    seed: int


def load_twin_data(data: Path, recipe: Recipe) -> TwinData:
    """Read what a twin needs of the data of a recipe.

    Raises:
        FrazilError: a micrograph or its labels cannot be used.
    """
    paths = [one for source in recipe.data for one in find_labelled(data, source)]
    training, selection = (
        [load_labelled(one, recipe) for one in _spread([one for one in paths if one.part == part])]
        for part in ("training", "selection")
    )
    return TwinData(
        training=training, selection=selection, validation=validation_paths(data, recipe.data), seed=recipe.seed
    )


def make_twin(path: Path, data: TwinData, progress: Progress = lambda _: None) -> tuple[Twin, bytes]:
    """Quantise a version of a model, and compare its picks with the model's.

    Both are picked by the daemon's own picker at the same threshold. The calibration is the one with the nearest scores
    on tiles of the selection micrographs. If the twin then picks worse on the validation micrographs, more layers at
    both ends stay in float32. `progress` receives the name of each step.

    Returns:
        The twin's record, admitted or not, and the content of its file.

    Raises:
        FrazilError: this processor has no instructions for int8, the network has nothing to quantise, or a micrograph
            cannot be read.
    """
    if int8_instructions() is None:
        raise FrazilError("this processor: expected instructions for int8 to try a twin with, found none")
    file = locate_model(path)[0]
    model, full = onnx.load_model(file), load_model(path, "cpu")
    reference = read_card(file.parent / CARD_NAME).reference
    layers = count_weighted(model)
    if not layers:
        raise ModelError(f"{file}: expected layers that gain by int8, found none")
    progress("drawing tiles")
    calibration, comparison = (_draw_tiles(full, of, data.seed) for of in (data.training, data.selection))
    target = [full.score(tiles) for tiles in comparison]
    progress("float32 picks the validation micrographs")
    rows = score_table(full, data.validation)
    decides = {(one.source.folder, one.source.labels_ending): one.source.chooses_threshold for one in data.validation}
    best: tuple[Twin, bytes] | None = None
    with TemporaryDirectory(prefix="frazil-") as folder:
        candidate = Path(folder) / TWIN_NAME
        for excluded in range((layers + 1) // 2):
            nodes = quantised_nodes(model, excluded)
            tried: dict[str, tuple[float, bytes]] = {}
            for method in CALIBRATIONS:
                progress(f"calibrating by {method.name}")
                content = quantise(model, nodes, method, calibration).SerializeToString()
                candidate.write_bytes(content)
                tried[method.name] = _distance(load_model(candidate, "cpu"), comparison, target), content
            name = min(tried, key=lambda name: tried[name][0])
            content = tried[name][1]
            candidate.write_bytes(content)
            quantised = load_model(candidate, "cpu")
            progress("int8 picks the validation micrographs")
            scores = _compare(rows, score_table(quantised, data.validation), decides)
            made = {
                "calibration": name,
                "distances": {name: round(distance, 6) for name, (distance, _) in tried.items()},
                "calibration_tiles": sum(len(tiles) for tiles in calibration),
                "calibration_micrographs": [f"{m.source.folder}/{m.name}" for m in _spread(data.training)],
                "layers_in_int8": sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in _named(model, nodes)),
                "spared_at_each_end": excluded,
                "instructions": int8_instructions(),
                "onnxruntime": ort.__version__,
            }
            twin = _judge(content, quantised, reference, made, scores)
            if best is None or twin.largest_f1_drop < best[0].largest_f1_drop:
                best = twin, content
            if twin.admitted:
                break
    if best is None:
        raise RuntimeError("expected at least one try")
    return best


def add_twin(source: Path, folder: Path, twin: Twin, content: bytes) -> Path:
    """Write a version with its twin as the next version of a model. A refused twin is only in the card.

    Raises:
        ModelError: the twin does not load as the daemon loads it.
        OutputError: the folder cannot be written.
    """
    with ModelFolder(folder).stage() as staged:
        shutil.copyfile(source / MODEL_NAME, staged / MODEL_NAME)
        write_card(staged / CARD_NAME, msgspec.structs.replace(read_card(source / CARD_NAME), int8=twin))
        if twin.admitted:
            (staged / TWIN_NAME).write_bytes(content)
            loaded = load_model(staged / MODEL_NAME, "cpu", precision="int8")
            if loaded.precision_problem:
                raise ModelError(loaded.precision_problem)
        return ModelFolder(folder).add(staged)


def show_twin(twin: Twin, console: Console) -> None:
    """Print F1 of a model and its twin as a table, and the verdict."""
    table = Table(padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("validation set, labels", overflow="fold")
    for title in ("F1\nfloat32", "F1\nint8", "lower\nby", "decides"):
        table.add_column(title, justify="right")
    for one in twin.f1:
        figures = (f"{one.float32:.4f}", f"{one.int8:.4f}", f"{one.f1_drop:+.4f}")
        table.add_row(f"{one.folder} *{one.labels}", *figures, "yes" if one.decides else "no")
    console.print(table)
    verdict = "admitted" if twin.admitted else "refused"
    console.print(
        f"int8 twin {verdict}: F1 lower by {max(0.0, twin.largest_f1_drop):.4f} at most, "
        f"{LARGEST_F1_DROP:g} is too much; calibrated by {twin.made['calibration']}, "
        f"{twin.made['layers_in_int8']} layers in int8",
        highlight=False,
    )


def _judge(
    content: bytes,
    quantised: Model,
    reference: Reference,
    made: dict[str, object],
    scores: tuple[TwinScores, ...],
) -> Twin:
    tiles = reference.tiles()
    given = quantised.score(tiles)
    # All kernels in float32 on the same rounded numbers: an upper bound for the difference between processors.
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, plain, providers=["CPUExecutionProvider"])
    difference = float(np.abs(session.run(["scores"], {"tiles": tiles})[0] - given).max())
    twin = Twin(
        sha256=hashlib.sha256(content).hexdigest(),
        admitted=False,
        made={**made, "difference_of_plain_kernels": round(difference, 6)},
        scores_float16=Twin.pack_scores(given),
        tolerance=_TOLERANCE,
        f1=scores,
    )
    deciding = any(one.decides for one in scores)
    admitted = deciding and round(twin.largest_f1_drop, 6) < LARGEST_F1_DROP and difference <= _TOLERANCE / 2
    return msgspec.structs.replace(twin, admitted=admitted)


def _compare(
    full: Sequence[ScoreRow], quantised: Sequence[ScoreRow], decides: dict[tuple[str, str], bool]
) -> tuple[TwinScores, ...]:
    return tuple(
        TwinScores(
            folder=one.folder,
            labels=one.labels,
            decides=decides[one.folder, one.labels],
            float32=one.half.micro.f1,
            int8=other.half.micro.f1,
        )
        for one, other in zip(full, quantised, strict=True)
    )


def _distance(model: Model, batches: Sequence[NDArray[np.float32]], target: Sequence[NDArray[np.float32]]) -> float:
    """Root mean square difference of a model's scores from target scores."""
    squares = [((model.score(tiles) - scores) ** 2).ravel() for tiles, scores in zip(batches, target, strict=True)]
    return float(np.sqrt(np.concatenate(squares).mean()))


def _named(model: onnx.ModelProto, names: Sequence[str]) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.name in set(names)]


def _spread(micrographs: Sequence[_OfSet]) -> list[_OfSet]:
    """A few micrographs of each set, evenly spaced in it."""
    of_set: dict[str, list[_OfSet]] = {}
    for one in micrographs:
        of_set.setdefault(one.source.folder, []).append(one)
    chosen = []
    for members in of_set.values():
        count = min(_MICROGRAPHS_OF_A_SET, len(members))
        chosen += [members[int(at)] for at in np.linspace(0, len(members) - 1, count)]
    return chosen


def _draw_tiles(model: Model, micrographs: Sequence[LabelledMicrograph], seed: int) -> list[NDArray[np.float32]]:
    """(n, 1, t, t) tiles as in picking, a batch from each of a few micrographs."""
    side = _tile_side(model)
    count = max(1, _PIXELS_OF_A_MICROGRAPH // side**2)
    chosen = _spread(micrographs)
    batches = []
    for micrograph, rng in zip(chosen, generators(seed, _TILES, range(len(chosen))), strict=True):
        pixels, border = micrograph.picture.pixels, round(micrograph.border_px)
        # Mirrored as in picking if it is smaller than a tile.
        short = [max(0, side + 2 * border - length) for length in pixels.shape]
        pixels = np.pad(pixels, [(0, short[0]), (0, short[1])], mode="symmetric")
        corners = [rng.integers(border, length - border - side + 1, count) for length in pixels.shape]
        tiles = [pixels[y : y + side, x : x + side] for y, x in zip(*corners, strict=True)]
        batches.append(np.ascontiguousarray(np.stack(tiles)[:, np.newaxis], np.float32))
    return batches


def _tile_side(model: Model) -> int:
    """Side of a tile; if a model takes any, small enough for the features of many tiles to fit into memory."""
    contract = model.contract
    if not model.largest_tile_pixels:
        return contract.tile_px
    step = round(contract.step_px)
    least = contract.tile_px - (contract.grid - 1) * step
    steps = max(0, math.isqrt(_PIXELS_OF_A_MICROGRAPH) - least) // step
    return min(contract.tile_px, least + steps * step)
