"""Section `alternatives`: ways that were tried, each beside the one that was taken; the choice can be made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.bench import Bench
from benchmarks.speed.floor import bare_session
from benchmarks.speed.spread import Rounds, Spread, rounds_within
from benchmarks.speed.straightforward import WindowNetwork
from frazil.model import int8_instructions, load_model, locate_model
from frazil.model.runtime import ort
from frazil.model.tiling import plan_tiling
from frazil.picking import Picker, PixelMemory, read_micrograph
from frazil.picking.rescale import rescale
from frazil.reading import read_and_rescale

__all__ = ["Alternative", "Alternatives", "measure"]

_CONTRACT_BATCH = 4
_SMALL_TILE_PIXELS = 98_304


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Two ways to one end."""

    what: str
    tried: str
    tried_seconds: Spread
    taken: str
    taken_seconds: Spread
    times: Spread
    """What was tried over what was taken: above 1, the choice was right here."""


class Alternatives(msgspec.Struct, frozen=True, kw_only=True):
    """All pairs that can be measured here."""

    pairs: list[Alternative]


@dataclass(frozen=True, kw_only=True)
class _Pair:
    what: str
    tried: tuple[str, Callable[[], object]]
    taken: tuple[str, Callable[[], object]]


def measure(bench: Bench) -> Alternatives:
    """Each pair in turns."""
    pairs = []
    for pair in _pairs(bench):
        bench.say(pair.what)
        rounds = Rounds()
        pair.tried[1](), pair.taken[1]()  # what is made on first use does not count
        for _ in rounds_within(bench.scale.rounds, bench.scale.budget_seconds / 6):
            rounds.time("tried", pair.tried[1])
            rounds.time("taken", pair.taken[1])
        pairs.append(
            Alternative(
                what=pair.what,
                tried=pair.tried[0],
                tried_seconds=rounds.spread("tried"),
                taken=pair.taken[0],
                taken_seconds=rounds.spread("taken"),
                times=rounds.ratio("tried", "taken"),
            )
        )
    return Alternatives(pairs=pairs)


def _pairs(bench: Bench) -> Iterator[_Pair]:
    yield from _preparation(bench)
    yield from _tiles(bench)
    yield from _batches(bench)
    yield from _sessions(bench)
    yield from _precisions(bench)


def _preparation(bench: Bench) -> Iterator[_Pair]:
    micrograph = read_micrograph(bench.square())
    for model in ("mlp/2", "fcn"):
        rescaling = bench.picker(model).prepare(micrograph).rescaling
        h, w = rescaling.rescaled_shape
        yield _Pair(
            what=f"rescaling to {w} x {h} px",
            tried=("cv2.INTER_AREA", partial(cv2.resize, micrograph.pixels, (w, h), interpolation=cv2.INTER_AREA)),
            taken=("products of small matrices", partial(rescale, micrograph.pixels, rescaling)),
        )
    picture = rescale(micrograph.pixels, bench.picker("mlp/2").prepare(micrograph).rescaling)
    sample = picture[::4, ::4]
    yield _Pair(
        what="five percentiles of the picture",
        tried=("np.percentile", partial(np.percentile, sample, [0.05, 25, 50, 75, 99.95])),
        taken=("np.sort", partial(np.sort, sample, axis=None)),
    )
    whole = read_micrograph(bench.square("int16"), as_stored=True).pixels
    rescaling = bench.picker("fcn").prepare(micrograph).rescaling
    memory, path, picker = PixelMemory(), bench.square(), bench.picker("fcn")

    def read_then_rescale() -> None:
        rescale(read_micrograph(path, as_stored=True, memory=memory).pixels, rescaling)

    def rescale_meanwhile() -> None:
        read_and_rescale(path, picker.rescaling, memory=memory)

    yield _Pair(
        what="reading and rescaling",
        tried=("one after the other", read_then_rescale),
        taken=("rescaling while reading", rescale_meanwhile),
    )
    yield _Pair(
        what="an int16 micrograph, rescaled",
        tried=("as float32 first", lambda: rescale(whole.astype(np.float32), rescaling)),
        taken=("as stored", partial(rescale, whole, rescaling)),
    )


def _tiles(bench: Bench) -> Iterator[_Pair]:
    picker = bench.picker("fcn")
    picture = picker.prepare(read_micrograph(bench.square()))
    contract = picker.model.contract
    shape = picture.rescaling.rescaled_shape
    fixed, fitting = (plan_tiling(shape, contract, (0.0, 0.0), largest_tile_pixels=most) for most in (0, 2**21))
    assert fixed is not None
    assert fitting is not None

    def score(batches: list[NDArray[np.float32]]) -> None:
        for tiles in batches:
            picker.model.score(tiles)

    of_contract, of_picture = (
        [tiles.copy() for tiles in fixed.batches(picture.pixels, _CONTRACT_BATCH)],
        [tiles.copy() for tiles in fitting.batches(picture.pixels, 1)],
    )
    h, w = fitting.tile_shape
    yield _Pair(
        what="`fcn` on a picture",
        tried=(f"{fixed.count} tiles of {contract.tile_px} px", partial(score, of_contract)),
        taken=(f"{fitting.count} of {h} x {w} px", partial(score, of_picture)),
    )
    yield _small_tiles(bench)


def _small_tiles(bench: Bench) -> _Pair:
    """Tiles whose features stay in the caches, each scored by one thread that waits for no other."""
    picker = bench.picker("cnn")
    picture = picker.prepare(read_micrograph(bench.square()))
    tiling = plan_tiling(
        picture.rescaling.rescaled_shape, picker.model.contract, (0.0, 0.0), largest_tile_pixels=_SMALL_TILE_PIXELS
    )
    assert tiling is not None
    parts = [[tiles.copy() for tiles in part.batches(picture.pixels, 1)] for part in tiling.split(bench.threads)]
    session = bare_session(locate_model(bench.models / "cnn")[0], 1)

    def score(part: list[NDArray[np.float32]]) -> None:
        for tiles in part:
            session.run(None, {"tiles": tiles})

    def score_all() -> None:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(score, parts))

    h, w = tiling.tile_shape
    return _Pair(
        what="`cnn` on a picture",
        tried=(f"{tiling.count} tiles of {h} x {w} px, a thread for each of {len(parts)} parts", score_all),
        taken=("one tile, all threads", partial(picker.score, picture)),
    )


def _batches(bench: Bench) -> Iterator[_Pair]:
    for model, tried, taken in (("cnn", 1024, 32), ("mlp/2", 32, 512)):
        picker = bench.picker(model)
        contract = picker.model.contract
        side = contract.tile_px - round((contract.grid - 1) * contract.step_px)
        session = bare_session(locate_model(bench.models / model)[0], bench.threads, spins=False)
        windows = np.random.default_rng(0).random((2048, 1, side, side), np.float32)

        def score(size: int, session: ort.InferenceSession = session, windows: NDArray[np.float32] = windows) -> None:
            for start in range(0, len(windows), size):
                session.run(None, {"tiles": windows[start : start + size]})

        yield _Pair(
            what=f"2,048 windows of `{model}`",
            tried=(f"batches of {tried:,}", partial(score, tried)),
            taken=(f"batches of {taken:,}", partial(score, taken)),
        )
    micrograph = read_micrograph(bench.square())
    of_windows, of_tiles = (bench.picker(model) for model in ("mlp/2", "mlp"))
    cut_out, whole = (picker.prepare(micrograph) for picker in (of_windows, of_tiles))
    yield _Pair(
        what="the windows of `mlp`",
        tried=("64 px every 12.8 px, cut out", partial(of_windows.score, cut_out)),
        taken=("40 px every 8 px, whole tiles", partial(of_tiles.score, whole)),
    )
    picker = bench.picker("cnn")
    picture = picker.prepare(micrograph)
    own = picker.score(picture)
    network = WindowNetwork(locate_model(bench.models / "cnn")[0], picker.model.contract, bench.threads)
    y, x = picture.rescaling.to_rescaled(own.y_px, 0), picture.rescaling.to_rescaled(own.x_px, 1)
    yield _Pair(
        what=f"{own.scores.size:,} windows of `cnn`",
        tried=("one by one, batches of 1,024", partial(network.score, picture.pixels, y, x)),
        taken=("whole tiles", partial(picker.score, picture)),
    )


def _sessions(bench: Bench) -> Iterator[_Pair]:
    onnx = locate_model(bench.models / "fcn")[0]
    optimised = bench.folder / "optimised.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    as_is = ort.SessionOptions()
    as_is.graph_optimization_level, as_is.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    yield _Pair(
        what="opening a session of `fcn`",
        tried=(
            "optimised graph, saved before",
            lambda: ort.InferenceSession(optimised, as_is, providers=["CPUExecutionProvider"]),
        ),
        taken=("the model", partial(bare_session, onnx, bench.threads)),
    )
    spinning, resting = (bare_session(onnx, bench.threads, spins=spins) for spins in (True, False))
    tile = np.random.default_rng(0).random((1, 1, 1032, 1032), np.float32)
    yield _Pair(
        what="`fcn` on one tile",
        tried=("idle threads spin", lambda: spinning.run(None, {"tiles": tile})),
        taken=("idle threads sleep", lambda: resting.run(None, {"tiles": tile})),
    )


def _precisions(bench: Bench) -> Iterator[_Pair]:
    if not int8_instructions():
        return
    for model in ("mlp", "fcn", "cnn"):
        quick = load_model(bench.models / model, "cpu", bench.threads, precision="int8")
        if quick.precision != "int8":
            continue
        single = bench.picker(model)
        picture = single.prepare(read_micrograph(bench.square()))
        whole = Picker(quick, single.settings)
        yield _Pair(
            what=f"`{model}`, scores of a picture",
            tried=("int8, if asked for", partial(whole.score, picture)),
            taken=("float32", partial(single.score, picture)),
        )
