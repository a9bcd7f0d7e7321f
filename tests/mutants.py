"""Mutation testing of the modules that carry the promises: which planted faults do the tests not see?

    python tests/mutants.py              # every group, into docs/reference/mutants.md
    python tests/mutants.py picking      # one of them, to look at its survivors

mutmut plants one fault at a time and runs the tests that reach the changed function. It wants the code in ``src``:
each group is laid out that way below ``--work``, where a run that was stopped goes on. In memory (the default where
there is ``/dev/shm``) it is several times as fast, since the tests wait for the disk. A survivor that changes nothing
anybody relies on stands in ``tests/harmless_mutants.toml`` with the reason; the case of SQL alone is no fault either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MEMORY = Path("/dev/shm")
WORK = (MEMORY / "frazil-mutants") if MEMORY.is_dir() else (REPOSITORY / "build" / "mutants")
HARMLESS = REPOSITORY / "tests" / "harmless_mutants.toml"
PAGE = REPOSITORY / "docs" / "reference" / "mutants.md"
LEAST_KILLED = 0.85
COPIED = ("tests", "exported_models", "deploy", "docs", "benchmarks")

SURVIVED, NO_TESTS = 0, 33
UNTRIED = (None, SURVIVED, NO_TESTS)
"""Verdicts of mutmut that a new test may change."""


@dataclass(frozen=True)
class Group:
    """Modules whose faults the same test files are to see."""

    modules: tuple[str, ...]
    """Patterns below ``daemon/frazil``."""
    tests: tuple[str, ...]
    """Files below ``tests``."""


GROUPS = {
    "picking": Group(
        ("picking/picks.py", "model/tiling.py", "picking/rescale.py"),
        ("daemon/test_picks.py", "daemon/test_tiling.py", "daemon/test_rescale.py", "daemon/test_picker.py"),
    ),
    "formats": Group(
        ("picking/formats/*.py",),
        tuple(f"daemon/test_{name}.py" for name in ("mrc", "tiff", "compressed", "formats", "micrograph")),
    ),
    "coordinates": Group(
        ("picking/coordinates/*.py",),
        (
            "daemon/test_coordinates.py",
            "daemon/test_cryosparc_files.py",
            "daemon/test_pick_files.py",
            "trainer/test_labelled.py",
        ),
    ),
    "completion": Group(
        ("session/intake/completeness.py", "session/outbox/file_stamp.py", "faults.py"),
        ("daemon/test_completion.py", "daemon/test_failure.py"),
    ),
    "intake": Group(("session/intake/intake.py",), ("daemon/test_intake_steps.py", "daemon/test_intake.py")),
    "ledger": Group(
        ("session/outbox/ledger/*.py", "session/outbox/outbox.py"),
        (
            "daemon/test_ledger.py",
            "daemon/test_ledger_identity.py",
            "daemon/test_ledger_damage.py",
            "daemon/test_ledger_rebuild.py",
            "daemon/test_ledger_reader.py",
            "daemon/test_ledger_salvage.py",
            "daemon/test_outbox.py",
        ),
    ),
    "stream": Group(
        (
            "client/follower.py",
            *(f"session/outbox/stream/{name}.py" for name in ("replayer", "pages", "allowance", "messages", "reports")),
        ),
        # In this process: mutmut does not see what runs in that of the sockets, which daemon/test_stream.py starts.
        tuple(
            f"daemon/test_{name}.py"
            for name in ("follower", "history", "pages", "replayer", "allowance", "stream_messages", "reports")
        ),
    ),
    "swap": Group(
        tuple(f"session/pick/{name}.py" for name in ("model_changes", "shadow", "serving", "swapper")),
        ("daemon/test_swap.py", "daemon/test_announcer.py", "daemon/test_swapper.py"),
    ),
}


@dataclass
class Score:
    """What became of the mutants of one module."""

    killed: int = 0
    harmless: int = 0
    untried: int = 0
    survivors: list[str] = field(default_factory=list)
    """Their differences, as mutmut shows them."""

    @property
    def harmful(self) -> int:
        """Mutants that a test should see."""
        return self.killed + len(self.survivors)

    @property
    def fraction(self) -> float:
        """Of the harmful ones, those that a test does see."""
        return self.killed / self.harmful if self.harmful else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that try mutants at the same time")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the laid out groups; default: %(default)s")
    parser.add_argument("--report-only", action="store_true", help="of what was tried before")
    arguments = parser.parse_args()
    names = arguments.groups or list(GROUPS)
    if unknown := set(names) - set(GROUPS):
        parser.error(f"expected groups of {', '.join(GROUPS)}, found {', '.join(sorted(unknown))}")
    scores: dict[str, Score] = {}
    for name in names:
        folder = arguments.work / name
        if not arguments.report_only:
            lay_out(folder, GROUPS[name])
            print(f"{name}: trying mutants; {folder / 'mutmut.log'} shows how far it is", flush=True)
            try_mutants(folder, arguments.processes)
        scores |= judge(folder)
    for module, score in scores.items():
        for survivor in score.survivors:
            print(survivor, change_of(survivor), "", sep="\n")
        print(f"{module}: {score.killed} of {score.harmful} killed ({score.fraction:.0%}), {score.harmless} harmless")
    if not arguments.groups:
        PAGE.write_text(page(scores))
    weak = [module for module, score in scores.items() if score.fraction < LEAST_KILLED]
    sys.exit(f"expected {LEAST_KILLED:.0%} killed in every module, found less in {', '.join(weak)}" if weak else 0)


def lay_out(folder: Path, group: Group) -> None:
    """Copy the repository as mutmut wants it. Verdicts on functions that did not change since the last run are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    refresh(REPOSITORY / "daemon" / "frazil", folder / "src" / "frazil")
    for name in COPIED:
        refresh(REPOSITORY / name, folder / name)
    # What mutmut copied, and did not change, it would not copy again.
    for file in (folder / "mutants").rglob("*.py"):
        if not file.with_name(f"{file.name}.meta").exists():
            file.unlink()
    for meta in (folder / "mutants").rglob("*.py.meta"):
        verdicts = json.loads(meta.read_text())
        of = verdicts["exit_code_by_key"]
        verdicts["exit_code_by_key"] = {key: None if code in UNTRIED else code for key, code in of.items()}
        meta.write_text(json.dumps(verdicts))
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    settings = {
        "source_paths": ["src/frazil"],
        "only_mutate": [f"src/frazil/{pattern}" for pattern in group.modules],
        "also_copy": [name for name in COPIED if name != "tests"],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in group.tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        # ONNX Runtime's and OpenCV's threads do not outlive a fork.
        "process_isolation": "forkserver",
        # With the default, on a machine that is busy with other things, slow tests would pass for an endless loop, and
        # the fault for one that they see.
        "timeout_constant": 8.0,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = (REPOSITORY / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text("\n".join((project, "[tool.mutmut]", *lines, "")))


def refresh(source: Path, target: Path) -> None:
    """Copy a tree; files that are as they were keep their times, by which mutmut knows them."""
    wanted = {p.relative_to(source) for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    for file in [p for p in target.rglob("*") if p.is_file()]:
        if file.relative_to(target) not in wanted:
            file.unlink()
    for name in wanted:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not (target / name).exists() or (target / name).read_bytes() != (source / name).read_bytes():
            shutil.copyfile(source / name, target / name)


def try_mutants(folder: Path, processes: int) -> None:
    """Run mutmut; what it says goes to a log."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CI": "",
        "HYPOTHESIS_PROFILE": "frazil-mutants",
        "TMPDIR": str(temporary),
    }
    with (folder / "mutmut.log").open("w") as log:
        done = subprocess.run(
            [Path(sys.executable).with_name("mutmut"), "run", "--max-children", str(processes)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode:
        sys.exit(f"mutmut ended with {done.returncode}; see {folder / 'mutmut.log'}")


def judge(folder: Path) -> dict[str, Score]:
    """Scores by module."""
    harmless = {(entry["function"], change.strip()) for entry in read_harmless() for change in entry["changes"]}
    scores = {}
    for meta in sorted((folder / "mutants").rglob("*.py.meta")):
        module = str(meta.relative_to(folder / "mutants" / "src" / "frazil")).removesuffix(".meta")
        score = scores[module] = Score()
        for mutant, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            if code is None:
                score.untried += 1
                continue
            if code not in UNTRIED:
                score.killed += 1
                continue
            shown = show(folder, mutant)
            change = change_of(shown)
            if (function_of(mutant), change) in harmless or is_case_of_sql(change):
                score.harmless += 1
            else:
                score.survivors.append(shown)
    return scores


def is_case_of_sql(change: str) -> bool:
    """Whether nothing but the case of SQL changes, which has none: what it quotes stays as it was."""
    taken, _, put = change.partition("\n+ ")
    quoted = re.compile("'[^']*'")
    return (
        bool(re.search(r'"[^"]*\b(SELECT|FROM|WHERE|AND|JOIN|ORDER BY|INSERT|UPDATE|DELETE|PRAGMA|ASC|DESC)\b', taken))
        and taken.removeprefix("- ").casefold() == put.casefold()
        and quoted.findall(taken) == quoted.findall(put)
    )


def read_harmless() -> list[dict[str, Any]]:
    """Survivors that change nothing anybody relies on: ``function``, ``changes`` and ``why``."""
    found: list[dict[str, Any]] = tomllib.loads(HARMLESS.read_text())["harmless"] if HARMLESS.exists() else []
    return found


def function_of(mutant: str) -> str:
    """``frazil.picking.picks.x_find_peaks__mutmut_3`` → ``frazil.picking.picks.find_peaks``."""
    module, _, name = mutant.partition("__mutmut_")[0].rpartition(".")
    return f"{module}.{name.removeprefix('x_').removeprefix('xǁ').replace('ǁ', '.')}"


def show(folder: Path, mutant: str) -> str:
    """A mutant as the difference that it makes."""
    command = [Path(sys.executable).with_name("mutmut"), "show", mutant]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def change_of(shown: str) -> str:
    """The lines that a mutant takes away and puts in their place."""

    def lines() -> Iterator[str]:
        for line in shown.splitlines():
            if line[:1] in "-+" and line[:3] not in ("---", "+++"):
                yield f"{line[0]} {line[1:].strip()}"

    return "\n".join(lines())


def page(scores: dict[str, Score]) -> str:
    """The record, as a page of the documentation."""
    rows = [
        f"| `{module}` | {score.killed} | {score.harmless} | {len(score.survivors)} | {score.untried} | "
        f"{score.fraction:.0%} |"
        for module, score in scores.items()
    ]
    whole = Score(*(sum(getattr(s, name) for s in scores.values()) for name in ("killed", "harmless", "untried")))
    whole.survivors = [survivor for score in scores.values() for survivor in score.survivors]
    return "\n".join(
        (
            "# Which planted faults the tests see",
            "",
            "`make mutants` plants one small fault at a time in each module that carries a promise (another operator,",
            "another constant, an argument left out), with [mutmut](https://mutmut.readthedocs.io), and runs the tests",
            f"that reach it. At least {LEAST_KILLED:.0%} of the faults that matter must fail a test, in each module.",
            "Those that change nothing anybody relies on are listed with reasons in `tests/harmless_mutants.toml`.",
            "A run can be stopped and goes on later: what was not reached is counted as untried, and not as seen.",
            "",
            "| module | seen by a test | harmless | not seen | untried | seen |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            (
                f"| all | {whole.killed} | {whole.harmless} | {len(whole.survivors)} | {whole.untried} | "
                f"{whole.fraction:.0%} |"
            ),
            "",
        )
    )


if __name__ == "__main__":
    main()
