"""From a file to a model that may serve: all checks, in their order.

The int8 twin, `model.int8.onnx` beside `model.onnx`, is the same network in 8-bit integers, which some processors
compute faster. The model stays the truth: its sha256 is the identity, its card holds the references of both, and the
twin serves only where the card says that it picks as well.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model.contract import CARD_NAME, Card, Device, Finds, ModelContract, Precision, Twin, read_card
from frazil.model.files import identify_content, inspect_content, locate_model, read_content
from frazil.model.model import BATCH_PIXELS, Model, score_tiles, takes_any_side
from frazil.model.runtime import RUNTIME_ERRORS, Placement, available_cores, open_session, ort, read_placement

__all__ = ["TWIN_NAME", "has_twin", "int8_instructions", "load_model"]

log = logging.getLogger(__name__)

TWIN_NAME = "model.int8.onnx"

_CONVOLVED_PIXELS = 2**17
"""`BATCH_PIXELS` of convolutions on the CPU, whose features, some fifty times as much, are best kept in the caches."""

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = {
    "x86": ("amx_int8", "avx512_vnni", "avx_vnni"),
    "ARM": ("i8mm", "asimddp"),
}
"""Flags of processors that multiply and add bytes in one step. Without them ONNX Runtime gains little by int8, and on
x86 its sums of 16 bits can overflow."""


def load_model(
    path: Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    require_gpu: bool = False,
    precision: Precision = "float32",
    finds: Finds = "particles",
) -> Model:
    """Load a model and check it: hash, operators, contract, shapes, reference output, and where it really runs.

    Hash and reference output are in the card. All that can be checked without running the model is checked before
    ONNX Runtime sees it.

    Args:
        path: as for `locate_model`.
        device: where to run it.
        threads: CPU threads of ONNX Runtime; default: every core this process may use.
        require_gpu: whether a model that does not run on a GPU is refused.
        precision: ``int8`` loads the model's int8 twin where possible; else `Model.precision_problem` has the reason.
        finds: what the model must be there for.

    Raises:
        ModelError: the model is missing or fails a check.
    """
    file, name, version = locate_model(path)
    content = read_content(file)
    identity = identify_content(content, name, version)
    card_file = file.parent / CARD_NAME
    card = read_card(card_file) if version or card_file.is_file() else None
    if card and card.sha256 != identity.sha256:
        raise ModelError(f"{file}: expected sha256 {card.sha256} (its card), found {identity.sha256}", "hash")
    onnx, contract = inspect_content(file, content)
    try:
        contract.check_finds(finds)
    except ModelError as error:
        raise ModelError(f"{file}: {error}", error.reason) from error
    tiles = _reference_tiles(card_file, card, contract)
    threads = threads or available_cores()
    # Windows are shared among threads, in batches from gathering their pixels to their scores, so that none waits for
    # another. Of a dense model, which has few tiles, operators are shared.
    workers = threads if contract.grid == 1 else 1
    checked = _check_file(content, file, contract, tiles, device, threads // workers)
    if card:
        checked.check_reference(card.reference.scores, card.reference.tolerance)
    on_cpu = checked.placement.cpu_problem()
    if require_gpu and on_cpu:
        raise ModelError(f"{file}: expected to run on a GPU, found {on_cpu}", "provider")
    precision_problem = None
    if precision == "int8":
        try:
            if checked.placement.on_cpu < sum(checked.placement.nodes.values()):
                raise ModelError(f"{file}: expected to run on the CPU, found {checked.placement.provider}", "provider")
            checked = _open_twin(file, card, contract, tiles, threads // workers)
        except ModelError as error:
            precision, precision_problem = "float32", str(error)
            log.warning("model %s serves in float32 although int8 is set: %s", identity.short, error)
    return Model(
        msgspec.structs.replace(identity, precision=precision),
        contract,
        checked.session,
        checked.placement,
        has_card=card is not None,
        batch_pixels=_CONVOLVED_PIXELS if on_cpu and ("", "Conv") in onnx.operators else BATCH_PIXELS,
        threads=threads,
        workers=workers if on_cpu else 1,
        precision_problem=precision_problem,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _CheckedFile:
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


def _check_file(
    content: bytes, file: Path, contract: ModelContract, tiles: NDArray[np.float32], device: Device, threads: int
) -> _CheckedFile:
    """Open a model and run it on (n, 1, t, t) tiles.

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
    return _CheckedFile(file=file, session=session, scores=scores, placement=placement)


def _reference_tiles(card_file: Path, card: Card | None, contract: ModelContract) -> NDArray[np.float32]:
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


def int8_instructions() -> str | None:
    """The processor's instructions for int8, as Linux calls them; None where it has none or they are not known."""
    try:
        lines = _CPU_INFO.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    flags = {
        flag
        for line in lines
        if line.partition(":")[0].strip() in ("flags", "Features")
        for flag in line.partition(":")[2].split()
    }
    return next((name for names in _INSTRUCTIONS.values() for name in names if name in flags), None)


def has_twin(path: Path) -> bool:
    """Whether an int8 twin lies beside a model; whether it is fit to serve is not checked.

    Raises:
        ModelError: the path leads to no model.
    """
    return locate_model(path)[0].with_name(TWIN_NAME).is_file()


def _open_twin(
    file: Path, card: Card | None, contract: ModelContract, tiles: NDArray[np.float32], threads: int
) -> _CheckedFile:
    """Open the int8 twin of a model on the CPU and check it as the model itself is checked.

    Raises:
        ModelError: there is none, the card does not admit it, this processor has no instructions for it, or it fails
            a check.
    """
    twin = _admitted(file, card)
    if int8_instructions() is None:
        known = "; ".join(f"{family}: {', '.join(names)}" for family, names in _INSTRUCTIONS.items())
        raise ModelError(
            f"{file}: expected a processor with instructions for int8 ({known}), "
            f"found {platform.machine() or 'one'} without",
            "provider",
        )
    twin_file = file.with_name(TWIN_NAME)
    content = read_content(twin_file)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != twin.sha256:
        raise ModelError(f"{twin_file}: expected sha256 {twin.sha256} (the model's card), found {sha256}", "hash")
    if inspect_content(twin_file, content)[1] != contract:
        raise ModelError(f"{twin_file}: expected the contract of {file.name}, found another one", "contract")
    checked = _check_file(content, twin_file, contract, tiles, "cpu", threads)
    checked.check_reference(twin.scores(checked.scores.size), twin.tolerance)
    return checked


def _admitted(file: Path, card: Card | None) -> Twin:
    if card is None or card.int8 is None:
        raise ModelError(f"{file}: expected an int8 twin in the model's card, found none", "missing")
    if not card.int8.admitted:
        raise ModelError(
            f"{file}: expected an int8 twin that picks as well as the model, "
            f"found F1 lower by {card.int8.largest_f1_drop:.3f} (the model's card)",
            "card",
        )
    return card.int8
