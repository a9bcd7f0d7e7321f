"""Thousands of broken and hostile micrographs: each must give a clear error or a correct picture, and soon.

Real files of every format, as mrcfile, tifffile, libtiff, gzip and bzip2 write them, are changed where it hurts: fields
of headers set to extremes, offsets swapped or turned into loops, bits flipped, bytes cut out, files cut short, bombs.
A process with a limit of memory reads each input with ``check_complete`` and ``read_micrograph``, and picks what it
could read as the daemon does; another process watches it.
Ends with status 1 on a crash, a hang, an error without a type, memory above the cap, or a picture that differs from
what the reference reader (mrcfile, tifffile) sees.
"""

from __future__ import annotations

import argparse
import bz2
import collections
import gzip
import io
import logging
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray

from frazil.errors import MicrographError, is_out_of_memory
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, PixelMemory, check_complete, read_micrograph
from frazil.settings import default_model_path

CAP_BYTES = 32 << 20
SLACK_BYTES = 8 << 20
"""Memory of the interpreter that comes and goes beside the picture."""
ADDRESS_SPACE_BYTES = CAP_BYTES + (512 << 20)
HANG_SECONDS = 20.0
SHAPE = (61, 93)
PIXEL_SIZE_ANGSTROM = 1.5
DIAMETER_ANGSTROM = 27.0
EXTREMES = (0, 1, 2, 3, 4, 7, 8, 16, 101, 255, 256, 4096, 65_535, 65_536, 65_537, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1)
EXTREME_FLOATS = (0.0, -0.0, 1e-45, 1e-38, 1e-10, 1e-3, 0.5, 1.0, 93.0, 1e3, 1e6, 1e30, 3.4e38, -1.5, -1e-10, -1e30)
EXTREME_FLOATS += (float("inf"), float("-inf"), float("nan"))
EXTREMES_64 = (*EXTREMES, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

Mutation = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one input."""

    kind: str
    seconds: float = 0.0
    grown_bytes: int = 0
    detail: str = ""
    picking: str = ""
    """What came of picking it; empty where it could not be read."""


FAILURES = ("crash", "hang", "untyped error", "memory above the cap", "read wrongly")


# --- inputs -----------------------------------------------------------------------------------------------------


def make_input(index: int, seed: int) -> tuple[str, bytes]:
    """Name and content of one input; the same for the same numbers."""
    rng = np.random.default_rng((seed, index))
    ending = (".mrc", ".tif", ".mrc.gz", ".tif", ".mrc", ".mrc.bz2")[index % 6]
    if ending == ".tif":
        mutations = [*BYTE_MUTATIONS, *[mutate_tiff] * 6, *[mutate_resolution] * 2, loop_tiff]
        content = mutate(write_tiff(rng), rng, mutations)
    elif ending == ".mrc":
        content = mutate(write_mrc(rng), rng, [*BYTE_MUTATIONS, *[mutate_mrc] * 6, *[mutate_floats] * 3])
    else:
        pack = gzip.compress if ending == ".mrc.gz" else bz2.compress
        content = mutate_packed(write_mrc(rng), pack, rng)
    return f"input{ending}", content


def mutate(content: bytes, rng: np.random.Generator, mutations: list[Mutation]) -> bytes:
    """Apply one mutation, or now and then several; one input in fifty stays as it is."""
    if rng.random() < 0.02:
        return content
    for _ in range(1 + rng.geometric(0.6) if rng.random() < 0.3 else 1):
        content = mutations[rng.integers(len(mutations))](content, rng)
    return content


def picture(rng: np.random.Generator, dtype: str) -> NDArray[np.generic]:
    """(61, 93) noise with a dark disc in one corner."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = rng.normal(60, 8, SHAPE) - 20 * (np.hypot(y - 15, x - 20) < 9)
    return pixels.astype(dtype)


def write_mrc(rng: np.random.Generator) -> bytes:
    """A whole MRC file."""
    dtype = str(rng.choice(["<i1", "<i2", "<f4", "<u2", "<f2", ">i2", ">f4"]))
    with tempfile.TemporaryDirectory() as folder:
        with mrcfile.new(Path(folder, "whole.mrc")) as mrc:
            mrc.set_data(picture(rng, dtype))
            mrc.voxel_size = PIXEL_SIZE_ANGSTROM
            if rng.random() < 0.3:
                mrc.set_extended_header(np.frombuffer(rng.bytes(int(rng.choice([80, 768, 1024]))), "V1"))
        return Path(folder, "whole.mrc").read_bytes()


def write_tiff(rng: np.random.Generator) -> bytes:
    """A whole TIFF file, as tifffile or the libtiff in OpenCV writes it."""
    dtype = str(rng.choice(["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4"]))
    if rng.random() < 0.2:
        options = [cv2.IMWRITE_TIFF_COMPRESSION, int(rng.choice([1, 5, 8, 32773]))]
        return cv2.imencode(".tif", picture(rng, str(rng.choice(["u1", "u2", "f4"]))), options)[1].tobytes()
    compression = rng.choice([None, "lzw", "zlib", "packbits"])
    layout: dict[str, object] = {}
    if rng.random() < 0.7:
        layout |= {"resolution": [2.54e8 / PIXEL_SIZE_ANGSTROM] * 2, "resolutionunit": "INCH"}
    if rng.random() < 0.4:
        layout["tile"] = (16, 32)
    elif rng.random() < 0.7:
        layout["rowsperstrip"] = int(rng.integers(1, 40))
    file = io.BytesIO()
    pages = 3 if rng.random() < 0.1 else 1
    with tifffile.TiffWriter(
        file, bigtiff=bool(rng.random() < 0.4), byteorder="<" if rng.random() < 0.5 else ">"
    ) as tiff:
        for _ in range(pages):
            tiff.write(
                picture(rng, dtype),
                photometric="minisblack",
                compression=compression,
                predictor=bool(compression in ("lzw", "zlib") and rng.random() < 0.5),
                metadata=None,
                **layout,
            )
    return file.getvalue()


# --- mutations --------------------------------------------------------------------------------------------------


def cut_short(content: bytes, rng: np.random.Generator) -> bytes:
    """End at any byte."""
    return content[: rng.integers(len(content) + 1)]


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content)
    for at in rng.integers(len(content), size=rng.integers(1, 9)) if content else ():
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    """Write zeros or noise over some bytes."""
    at, count = int(rng.integers(len(content) + 1)), int(rng.integers(1, 2000))
    filling = bytes(count) if rng.random() < 0.5 else rng.bytes(count)
    return content[:at] + filling[: len(content) - at] + content[at + count :]


def cut_out(content: bytes, rng: np.random.Generator) -> bytes:
    """Leave some bytes out."""
    at, count = int(rng.integers(len(content) + 1)), int(rng.integers(1, 500))
    return content[:at] + content[at + count :]


def lengthen(content: bytes, rng: np.random.Generator) -> bytes:
    """Add zeros or noise at the end."""
    count = int(rng.choice([1, 100, 20_000]))
    return content + (bytes(count) if rng.random() < 0.5 else rng.bytes(count))


BYTE_MUTATIONS: list[Mutation] = [cut_short, flip_bits, overwrite, cut_out, lengthen]


def mutate_mrc(content: bytes, rng: np.random.Generator) -> bytes:
    """Set a word of the header to an extreme; the words that matter more often."""
    word = int(rng.choice([0, 1, 2, 3, 7, 10, 19, 20, 22, 23, 38, 39, 53])) if rng.random() < 0.8 else rng.integers(256)
    value = int(rng.choice(EXTREMES)) if rng.random() < 0.8 else int(rng.integers(2**32))
    order = "<>"[int(rng.random() < 0.3)]
    at = 4 * int(word)
    return content[:at] + struct.pack(order + "I", value) + content[at + 4 :]


def mutate_floats(content: bytes, rng: np.random.Generator) -> bytes:
    """Set the cell, a grid, or another number of the header to an extreme."""
    word = int(rng.choice([7, 8, 9, 10, 10, 11, 11, 12, 19, 20, 21, 49, 50, 51, 54]))
    value = float(rng.choice(EXTREME_FLOATS)) if rng.random() < 0.8 else float(np.exp(rng.normal(0, 20)))
    at = 4 * word
    return content[:at] + np.float32(value).astype("<>"[int(rng.random() < 0.2)] + "f4").tobytes() + content[at + 4 :]


def mutate_resolution(content: bytes, rng: np.random.Generator) -> bytes:
    """Set a resolution to a fraction of extremes."""
    try:
        order, big, at, count = locate_directory(content)
        for i in range(count):
            entry = at + (8 + 20 * i if big else 2 + 12 * i)
            (tag,) = struct.unpack_from(order + "H", content, entry)
            if tag in (282, 283) and (tag == 282 or rng.random() < 0.5):
                place = entry + 12 if big else struct.unpack_from(order + "I", content, entry + 8)[0]
                fraction = struct.pack(order + "2I", *(int(n) for n in rng.choice(EXTREMES, 2)))
                content = content[:place] + fraction + content[place + 8 :]
    except (struct.error, IndexError):
        return content
    return content


def mutate_tiff(content: bytes, rng: np.random.Generator) -> bytes:
    """Set a field of the header or of an entry of the directory to an extreme, or to that of another entry."""
    try:
        order, big, at, count = locate_directory(content)
    except (struct.error, IndexError):
        return flip_bits(content, rng)
    entry, number = (20, order + "Q") if big else (12, order + "I")
    size = struct.calcsize(number)
    values = EXTREMES_64 if big else EXTREMES
    value = int(values[rng.integers(len(values))]) if rng.random() < 0.7 else int(rng.integers(len(content) + 1))
    changed = bytearray(content)
    start = at + (8 if big else 2)
    where = start + entry * int(rng.integers(max(1, count)))
    match int(rng.integers(6)):
        case 0:
            field = struct.pack(order + "H", int(rng.integers(250, 350))), where
        case 1:
            field = struct.pack(order + "H", int(rng.integers(20))), where + 2
        case 2:
            field = struct.pack(number, value), where + 4
        case 3 | 4:
            field = struct.pack(number, value), where + 4 + size
        case _:
            other = start + entry * int(rng.integers(max(1, count)))
            field = bytes(content[other + 4 : other + 4 + 2 * size]), where + 4
    changed[field[1] : field[1] + len(field[0])] = field[0]
    return bytes(changed)


def loop_tiff(content: bytes, rng: np.random.Generator) -> bytes:
    """Make the pointer to the next directory point at the first one, into the data, or beyond the end."""
    try:
        order, big, at, count = locate_directory(content)
    except (struct.error, IndexError):
        return content
    pointer = at + (8 + 20 * count if big else 2 + 12 * count)
    target = int(rng.choice([at, 8, len(content) // 2, len(content) + 100]))
    field = struct.pack(order + ("Q" if big else "I"), target)
    return content[:pointer] + field + content[pointer + len(field) :]


def locate_directory(content: bytes) -> tuple[str, bool, int, int]:
    """Byte order, whether it is BigTIFF, where the first directory is, and its entries."""
    order = ">" if content[:2] == b"MM" else "<"
    big = struct.unpack_from(order + "H", content, 2)[0] == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), content, at)[0]
    return order, big, at, min(count, 100)


def mutate_packed(content: bytes, pack: Callable[[bytes], bytes], rng: np.random.Generator) -> bytes:
    """Mutate before packing, after it, or make a bomb."""
    match int(rng.integers(5)):
        case 0 | 1:
            return pack(mutate(content, rng, [*BYTE_MUTATIONS, *[mutate_mrc] * 6, *[mutate_floats] * 3]))
        case 2 | 3:
            return mutate(pack(content), rng, BYTE_MUTATIONS)
        case _:
            parts = int(rng.integers(1, 4))
            bomb = content + bytes(int(rng.choice([1, 10_000, CAP_BYTES + SLACK_BYTES], p=[0.45, 0.45, 0.1])))
            if rng.random() < 0.5:
                side = int(rng.choice([3000, 8000, 65_536]))
                bomb = struct.pack("<4I", side, side, 1, 2) + bomb[16:]
            step = -(-len(bomb) // parts)
            return b"".join(pack(bomb[i : i + step]) for i in range(0, len(bomb), step))


# --- reading them -----------------------------------------------------------------------------------------------


def work(connection: Connection, folder: str, seed: int, indices: range) -> None:
    """Read and pick some inputs under the limit of memory, and send what became of each."""
    warnings.simplefilter("ignore")
    logging.disable()
    picker = make_picker()
    memory = Path("/proc/self/statm").read_text().split()
    limit = int(memory[0]) * resource.getpagesize() + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warm_up(Path(folder), picker)
    connection.send("ready")
    for index in indices:
        name, content = make_input(index, seed)
        path = Path(folder, name)
        path.write_bytes(content)
        del content
        connection.send(judge(path, picker))


def warm_up(folder: Path, picker: Picker) -> None:
    """Load what is loaded once, so that it counts for no input."""
    for index in range(6):
        name, content = make_input(index, 0)
        (folder / name).write_bytes(content)
        judge(folder / name, picker)


def make_picker() -> Picker:
    """A picker with the default model, as ``frazil pick`` makes it."""
    return Picker(load_model(default_model_path(), "cpu", 1), PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM))


def judge(path: Path, picker: Picker) -> Outcome:
    """Read one input, compare, and pick it."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory_bytes("VmRSS"), time.perf_counter()
    pixels, detail = None, ""
    try:
        check_complete(path)
        pixels = read_micrograph(path, largest_bytes=CAP_BYTES).pixels
        kind = "read"
    except MicrographError as error:
        kind = error.reason
    except MemoryError:
        kind = "memory above the cap"
    except Exception as error:  # noqa: BLE001 - that is what this looks for
        kind, detail = "untyped error", repr(error)
    seconds = time.perf_counter() - started
    grown = memory_bytes("VmHWM") - before
    if kind not in FAILURES and grown > CAP_BYTES + SLACK_BYTES:
        kind = "memory above the cap"
    if pixels is not None and kind == "read":
        kind, detail = compare(path, pixels)
    picking = ""
    if kind.startswith("read ("):
        picking = pick(path, picker)
        if picking.startswith("untyped error"):
            kind, detail = "untyped error", picking
    return Outcome(kind=kind, seconds=seconds, grown_bytes=max(0, grown), detail=detail, picking=picking)


def pick(path: Path, picker: Picker) -> str:
    """Pick one input as the daemon does: what came of it."""
    try:
        micrograph = read_micrograph(
            path, as_stored=True, memory=PixelMemory(), largest_bytes=CAP_BYTES, rescaling=picker.rescaling
        )
        picker.pick(micrograph)
    except MicrographError as error:
        return error.reason
    except Exception as error:  # noqa: BLE001 - that is what this looks for
        # The limit of memory is one of reading: pictures may be enlarged beyond it.
        return "memory" if is_out_of_memory(error) else f"untyped error when picking: {error!r}"
    return "picked"


def memory_bytes(field: str) -> int:
    """A figure that the kernel keeps about this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def compare(path: Path, pixels: NDArray[np.float32]) -> tuple[str, str]:
    """Whether the reference reader sees the same picture."""
    try:
        if path.suffix == ".tif":
            # A damaged strip is zeros to tifffile and an error to us, so this never hides a difference.
            expected = tifffile.imread(path)[::-1]
        else:
            with mrcfile.open(path, permissive=True) as mrc:
                expected = np.empty(0) if mrc.data is None else mrc.data
            if expected.ndim > 2 and expected.size == pixels.size:
                expected = expected[(0,) * (expected.ndim - 2)]  # a volume of one section
    except Exception:  # noqa: BLE001 - it may refuse, or fail, in any way
        return "read (the reference refuses)", ""
    if expected.dtype == np.int8 and pixels.max() > 127:
        expected = expected.view(np.uint8)  # mrcfile knows nothing of IMOD's flag
    if expected.shape == pixels.shape and np.array_equal(expected.astype(np.float32), pixels, equal_nan=True):
        return "read (as the reference)", ""
    return "read wrongly", f"reference {expected.shape} {expected.dtype}, read {pixels.shape}"


def judge_all(folder: str, seed: int, count: int) -> Iterator[Outcome]:
    """What becomes of each input, in their order. A process that dies or hangs is replaced by another."""
    context = multiprocessing.get_context("spawn")
    done = 0
    while done < count:
        connection, other = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(other, folder, seed, range(done, count)), daemon=True)
        process.start()
        other.close()
        connection.recv()
        failure = ""
        while done < count and not failure:
            try:
                if connection.poll(HANG_SECONDS):
                    yield connection.recv()
                else:
                    failure = "hang"
            except (EOFError, ConnectionResetError):
                failure = "crash"
            if failure:
                process.kill()
                process.join()
                yield Outcome(kind=failure, detail=f"exit status {process.exitcode}")
            done += 1
        process.join()


# --- the report -------------------------------------------------------------------------------------------------


def main() -> int:
    """Read the inputs and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--only", type=int, metavar="INDEX", help="read this one input, and keep it in the folder")
    args = parser.parse_args()
    if args.only is not None:
        name, content = make_input(args.only, args.seed)
        Path(name).write_bytes(content)
        print(f"wrote {name}: {judge(Path(name), make_picker())}")
        return 0
    outcomes: dict[str, list[Outcome]] = collections.defaultdict(list)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for index, outcome in enumerate(judge_all(folder, args.seed, args.count)):
            outcomes[format_of(index)].append(outcome)
            if outcome.kind in FAILURES:
                failures.append(f"input {index} ({format_of(index)}): {outcome.kind} {outcome.detail}")
    print_table(outcomes, args.count, args.seed)
    print("\n".join(failures))
    return 1 if failures else 0


def format_of(index: int) -> str:
    """The format of an input."""
    return ("MRC", "TIFF", "MRC, gzip", "TIFF", "MRC", "MRC, bzip2")[index % 6]


def print_table(outcomes: dict[str, list[Outcome]], count: int, seed: int) -> None:
    """A table in Markdown: a row for each outcome, a column for each format."""
    formats = sorted(outcomes)
    kinds = sorted({outcome.kind for found in outcomes.values() for outcome in found} - set(FAILURES))
    print(f"{count} inputs, seed {seed}\n")
    print("| outcome |", " | ".join(formats), "|")
    print("| --- |", " | ".join("---:" for _ in formats), "|")
    for kind in [*kinds, *FAILURES]:
        counts = (sum(outcome.kind == kind for outcome in outcomes[name]) for name in formats)
        print(f"| {kind} |", " | ".join(str(n) for n in counts), "|")
    for picking in sorted({outcome.picking for found in outcomes.values() for outcome in found} - {""}):
        counts = (sum(outcome.picking == picking for outcome in outcomes[name]) for name in formats)
        says = "picked" if picking == "picked" else f"not picked: {picking}"
        print(f"| then {says} |", " | ".join(str(n) for n in counts), "|")
    slowest = (max(outcome.seconds for outcome in outcomes[name]) for name in formats)
    print("| slowest, s |", " | ".join(f"{seconds:.2f}" for seconds in slowest), "|")
    most = (max(outcome.grown_bytes for outcome in outcomes[name]) for name in formats)
    print(f"| most memory, MiB (cap {CAP_BYTES >> 20}) |", " | ".join(f"{n / 2**20:.0f}" for n in most), "|")


if __name__ == "__main__":
    sys.exit(main())
