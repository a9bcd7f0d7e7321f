"""Train small networks and print the SHA-256 of what comes out, so that two versions of the code can be compared.

    python tests/golden/weights.py --record before.json     # with the old code
    python tests/golden/weights.py --compare before.json    # with the new code, on the same machine

The weights depend on the processor and on the versions of torch and numpy. A record is therefore valid only on the
machine that made it, and none is kept in the repository. Everything runs through ``frazil-train`` alone, on micrographs
that it simulates first.

Beside FILE the record keeps ``FILE.checkpoint.pt``, the checkpoint of a run that was killed. The comparison resumes
from it, and so shows that old checkpoints still work.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import torch

ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
FRAZIL_TRAIN = "from frazil_trainer.cli import main\nmain()\n"

DATA = """
[[data]]
folder = "round"
diameter_angstrom = 130
weight = 2
validation = ["simulated_0001"]
selection = ["simulated_0002"]

[[data]]
folder = "long"
diameter_angstrom = 180
validation = ["simulated_0001"]
selection = ["simulated_0002"]
incomplete = ["simulated_0003"]
"""

RECIPES = {
    "mlp": """
seed = 7
diameter_px = 9.6
epochs = 3
batch = 64
[network]
architecture = "mlp"
tile_px = 16
stride_px = 3.0
hidden = 16
[examples]
kind = "drawn"
per_epoch = 2048
[optimiser]
kind = "sgd"
learning_rate = 0.02
""",
    "mlp-centred": """
seed = 8
diameter_px = 9.6
epochs = 2
batch = 64
[network]
architecture = "mlp"
tile_px = 16
stride_px = 3.2
hidden = 16
[examples]
kind = "centred"
count = 600
[optimiser]
kind = "sgd"
learning_rate = 0.02
""",
    "cnn": """
seed = 9
diameter_px = 9.6
epochs = 2
batch = 32
[network]
architecture = "cnn"
tile_px = 12
stride_px = 4
channels = 4
convolutions = [2, 1]
hidden = 16
padding = false
[examples]
kind = "drawn"
per_epoch = 1024
[optimiser]
kind = "adamw"
learning_rate = 0.002
""",
    "cnn-jittered": """
seed = 10
diameter_px = 9.6
epochs = 2
batch = 32
mixed_precision = true
compare_threshold = 0.5
[network]
architecture = "cnn"
tile_px = 16
stride_px = 3.2
channels = 4
convolutions = [1, 1]
hidden = 16
[examples]
kind = "jittered"
count = 600
[optimiser]
kind = "adamw"
learning_rate = 0.002
""",
    "fcn": """
seed = 11
diameter_px = 16.0
epochs = 3
batch = 8
[network]
architecture = "fcn"
widths = [4, 6, 8]
dilations = [1, 2]
halo_cells = 6
tile_px = 128
[examples]
kind = "patches"
patch_px = 64
per_epoch = 160
[optimiser]
kind = "adamw"
learning_rate = 0.002
""",
}
KILLED = ("mlp", "fcn")
TWO_PROCESSES = ("mlp", "fcn")
WHOLE = {"fcn, resumed from the record": "fcn", "fcn, killed and resumed": "fcn", "mlp, killed and resumed": "mlp"}
"""Runs that must give the sums of another one."""
CHECKPOINT = "checkpoint.pt"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the sums, and a checkpoint beside them")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="exit with status 1 if a sum is another one")
    parser.add_argument("--only", action="append", metavar="NAME", help="only runs whose name begins so; repeatable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    expected = json.loads(arguments.compare.read_text("utf-8")) if arguments.compare else {}
    found: dict[str, dict[str, str]] = {}
    differ = []
    with tempfile.TemporaryDirectory(prefix="frazil-golden-") as folder:
        work = Work(Path(folder))
        for name, run in runs(work, arguments.record, arguments.compare).items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            found[name] = run()
            for part, digest in found[name].items():
                before = expected.get(WHOLE.get(name, name), {}).get(part)
                same = "" if before is None else "  same" if before == digest else f"  DIFFERS from {before[:16]}"
                differ += [f"{name} {part}"] if "DIFFERS" in same else []
                print(f"{name:28} {part:12} {digest[:16]}{same}", flush=True)
    if arguments.record:
        arguments.record.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    if differ:
        sys.exit(f"{len(differ)} sums differ: {', '.join(differ)}")


def runs(work: Work, record: Path | None, compare: Path | None) -> dict[str, Callable[[], dict[str, str]]]:
    """What is run, by name; each gives its sums."""
    every: dict[str, Callable[[], dict[str, str]]] = {}
    for name in RECIPES:
        every[name] = functools.partial(work.train, name)
    for name in KILLED:
        keep = beside(record) if name == "fcn" and record else None
        every[f"{name}, killed and resumed"] = functools.partial(work.kill_and_resume, name, keep)
    for name in TWO_PROCESSES:
        every[f"{name}, two processes"] = functools.partial(work.train_in_two, name)
    if compare and beside(compare).exists():
        every["fcn, resumed from the record"] = functools.partial(work.resume_old, beside(compare))
    return every


def beside(record: Path) -> Path:
    """Where the checkpoint of a record is."""
    return record.with_name(f"{record.name}.{CHECKPOINT}")


class Work:
    """A temporary folder with micrographs and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.script = folder / "frazil_train.py"
        self.script.write_text(FRAZIL_TRAIN)
        for name, particle, count, seed in (("round", "apoferritin", 4, 4), ("long", "galactosidase", 4, 5)):
            options = {
                "--out": self.data / name,
                "--particle": particle,
                "--count": count,
                "--seed": seed,
                "--size": 512,
                "--height": 384,
                "--pixel-size": 3.5,
                "--dose": 80,
            }
            self.call(["simulate", *(str(part) for pair in options.items() for part in pair)])

    def call(self, arguments: list[str], launcher: tuple[str, ...] = ()) -> None:
        """Run ``frazil-train`` to its end."""
        command = [sys.executable, *launcher, str(self.script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")

    def arguments(self, recipe: str, run: str, *more: str) -> list[str]:
        """The arguments of a training."""
        file = self.folder / f"{recipe}.toml"
        file.write_text(RECIPES[recipe] + DATA)
        options = {
            "--recipe": file,
            "--data": self.data,
            "--out": self.folder / run / "model",
            "--run-folder": self.folder / run / "run",
            "--threads": 1,
            "--device": "cpu",
        }
        return ["train", *(str(part) for pair in options.items() for part in pair), "--force", *more]

    def train(self, recipe: str) -> dict[str, str]:
        """Train in one process without a pause; the cnn gets an int8 twin too, the fcn a half precision copy."""
        self.call(self.arguments(recipe, recipe, *(["--int8"] if recipe == "cnn" else [])))
        found = self.sums(recipe)
        if recipe == "fcn":
            half = self.folder / recipe / "half"
            self.call(["half", str(self.folder / recipe / "model" / "1"), "--out", str(half)])
            found["half"] = sha256((half / "1" / "model.onnx").read_bytes())
        return found

    def train_in_two(self, recipe: str) -> dict[str, str]:
        """Train in two processes that share each batch."""
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        run = f"{recipe}-two"
        self.call(self.arguments(recipe, run), launcher)
        return self.sums(run)

    def kill_and_resume(self, recipe: str, keep: Path | None) -> dict[str, str]:
        """Kill a training after its first checkpoint, and resume it."""
        run = f"{recipe}-killed"
        arguments = self.arguments(recipe, run, "--checkpoint-minutes", "0", "--resume")
        checkpoint = self.folder / run / "run" / CHECKPOINT
        process = subprocess.Popen(
            [sys.executable, str(self.script), *arguments], stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        if keep is not None:
            shutil.copyfile(checkpoint, keep)
        self.call(arguments)
        return self.sums(run)

    def resume_old(self, checkpoint: Path) -> dict[str, str]:
        """Resume from a checkpoint that the recorded code wrote."""
        run = self.folder / "fcn-old" / "run"
        run.mkdir(parents=True)
        shutil.copyfile(checkpoint, run / CHECKPOINT)
        self.call(self.arguments("fcn", "fcn-old", "--resume"))
        return self.sums("fcn-old")

    def sums(self, run: str) -> dict[str, str]:
        """SHA-256 of the weights, the rest of the state, the ONNX file and its weights, the card and the figures."""
        state = torch.load(self.folder / run / "run" / CHECKPOINT, weights_only=True)["state"]
        version = self.folder / run / "model" / "1"
        model = onnx.load_model(version / "model.onnx")
        initializers = b"".join(onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer)
        card = json.loads((version / "card.json").read_text("utf-8"))
        result = json.loads((self.folder / run / "run" / "run.json").read_text("utf-8"))
        kept = {key: value for key, value in state.items() if key != "network"}
        del result["version"]  # its path
        return {
            "weights": sha256(tensors(state["network"])),
            "state": sha256(tensors(kept)),
            "onnx": sha256((version / "model.onnx").read_bytes()),
            "onnx weights": sha256(initializers),
            "card and run": sha256(json.dumps([card, result]).encode()),
        }


def tensors(value: object) -> bytes:
    """The bytes of all that a state holds, in order."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + tensors(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return b"".join(map(tensors, value))
    return repr(value).encode()


def sha256(content: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
