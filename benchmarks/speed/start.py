"""Section `start`: how soon frazil is there, as a package, as a command and as a daemon."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.daemon_process import FRAZIL
from benchmarks.speed.bench import MODELS, Bench
from benchmarks.speed.daemon import Daemon
from benchmarks.speed.spread import Rounds, Spread, spread

__all__ = ["Start", "measure"]

_COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import frazil": [sys.executable, "-c", "import frazil"],
    "frazil --help": [str(FRAZIL), "--help"],
}


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from starting a process, by what is started."""

    seconds: dict[str, Spread]
    """To the end of ``python -c pass``, ``python -c 'import frazil'`` and ``frazil --help``; of daemons, to ready."""
    import_alone: Spread
    """``import frazil`` without Python's own start: the difference, made within each round."""


def measure(bench: Bench) -> Start:
    """Processes of each kind in turns."""
    rounds = Rounds()
    for number in range(bench.scale.starts):
        bench.say(f"processes, round {number + 1} of {bench.scale.starts}")
        for name, command in _COMMANDS.items():
            rounds.time(name, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))  # noqa: B023
        for model in MODELS:
            with Daemon(bench, model, "start") as daemon:
                rounds.add(f"daemon with {model}", daemon.ready_seconds)
    differences = zip(rounds.seconds["import frazil"], rounds.seconds["python"], strict=True)
    return Start(seconds=rounds.spreads(), import_alone=spread([a - b for a, b in differences]))
