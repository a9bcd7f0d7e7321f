#!/usr/bin/env python3
"""Record what must not change for those who use frazil, for tests/system/test_golden.py to compare with.

What was recorded stays until something is meant to change: then record that part again, and look at the difference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import scenario, surface
from golden.scenario import HERE, LEDGER, NEUTRAL, WITNESS

REPOSITORY = HERE.parents[1]
HOST, PID = "microscope", 4242


def record_session(out: Path) -> None:
    """The documents, the metrics and the ledger of a session."""
    if NEUTRAL.exists():
        sys.exit(f"{NEUTRAL}: expected nothing there, found something: a session is recorded there")
    try:
        scenario.lay_out(NEUTRAL)
        with scenario.serve(NEUTRAL) as session:
            scenario.play(session)
            metrics = scenario.describe_metrics(session.metrics(scenario.PICKED))
            addresses = session.addresses()
            _, bodies = session.replay()
            live = [body for _, body in session.published()]
            topics = [topic for topic, _ in session.published()]
            if (status := session.stop()) != 0:
                sys.exit(f"expected the daemon to end with status 0, found {status}:\n{session.log()}")
        write_lines(out / "documents.jsonl", bodies)
        write_lines(out / "published.jsonl", live)
        write_lines(out / "topics.txt", topics)
        write_json(out / "metrics.json", metrics)
        write_json(out / "addresses.json", addresses)
        write_lines(out / "star-files.txt", (name.encode() for name in scenario.star_files(NEUTRAL / "out")))
        ledger = out / "ledger"
        ledger.mkdir(exist_ok=True)
        shutil.copy(NEUTRAL / "out" / LEDGER, ledger)
        shutil.copy(NEUTRAL / "out" / WITNESS, ledger)
    finally:
        shutil.rmtree(NEUTRAL, ignore_errors=True)
    anonymise(ledger)
    for name, options in (("records.jsonl", ()), ("exported.jsonl", ("--documents",))):
        (out / name).write_text(scenario.frazil("ledger", "export", "--ledger", ledger, *options), "utf-8")
    if (out / "exported.jsonl").read_bytes() != (out / "documents.jsonl").read_bytes():
        sys.exit("expected the ledger to hold the documents that were sent on request, found others")
    (out / "exported.jsonl").unlink()
    record_readings(out)


def record_readings(out: Path) -> None:
    """What the commands read out of the recorded ledger."""
    write_json(out / "status.json", surface.read_status(out / "ledger"))
    write_json(out / "preview.json", surface.preview(out / "ledger"))
    for left in (out / "ledger").glob(f"{LEDGER}-*"):
        left.unlink()


def anonymise(folder: Path) -> None:
    """Take this machine's name and the process out of a ledger and its witness, and make the file small."""
    with closing(sqlite3.connect(folder / LEDGER, isolation_level=None)) as database:
        for key, text in database.execute("SELECT key, value FROM meta").fetchall():
            if text.startswith("{"):
                said = json.loads(text)
                changed = {name: {"host": HOST, "pid": PID}.get(name, value) for name, value in said.items()}
                if changed != said:
                    text = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
                    database.execute("UPDATE meta SET value = ? WHERE key = ?", (text, key))
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    place, owner = (folder / WITNESS).read_bytes().splitlines()
    said = json.loads(owner) | {"host": HOST, "pid": PID}
    (folder / WITNESS).write_bytes(place + b"\n" + json.dumps(said, separators=(",", ":")).encode() + b"\n")


def record_commands(out: Path) -> None:
    """The commands and their options."""
    write_json(out / "commands.json", surface.describe_commands())


def record_statuses(out: Path) -> None:
    """The exit statuses of commands that go well or wrong."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(out / "statuses.json", surface.exit_statuses(Path(folder), scenario.MODELS / "disc"))


def record_names(out: Path) -> None:
    """What Python programs import, and the JSON Schema of the documents, without its texts."""
    write_json(out / "names.json", surface.describe_names(REPOSITORY))
    schema = json.loads(surface.run("frazil", "schema")[1])
    write_json(out / "schema.json", surface.schema_without_texts(schema))


def record_settings(_: Path) -> None:
    """Nothing: settings.json is written by hand. Says which settings it lacks or has too many."""
    told = set(json.loads((HERE / "recorded" / "settings.json").read_text("utf-8")))
    options = surface.describe_commands()["frazil serve"]["options"]
    named = {name[2:].replace("-", "_") for name in options if name.startswith("--") and not name.startswith("--no-")}
    named -= {"help", "config"}
    if told != named:
        sys.exit(f"settings.json: lacks {sorted(named - told)}, and has {sorted(told - named)}, which are no settings")


def record_models(_: Path) -> None:
    """The models that serve in a session: the test suite's own, which find dark discs."""
    script = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
sys.modules["conftest"] = tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
folder = Path(sys.argv[2])
tests.write_version(folder, 1, tests.blob_onnx(tests.blob_contract()))
tests.write_version(folder, 2, tests.blob_onnx(tests.blob_contract(threshold=0.6), bias=-5.5))
tests.write_version(folder, 4, tests.blob_onnx(tests.blob_contract(), bias=-60.0))
"""
    folder = scenario.MODELS / "disc"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-c", script, REPOSITORY / "tests" / "conftest.py", folder], check=True)
    (folder / "CURRENT").write_text("1\n")


def write_lines(file: Path, lines: Iterable[bytes]) -> None:
    file.write_bytes(b"".join(line + b"\n" for line in lines))


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


PARTS: dict[str, Callable[[Path], None]] = {
    "session": record_session,
    "readings": record_readings,
    "commands": record_commands,
    "statuses": record_statuses,
    "names": record_names,
    "settings": record_settings,
}


def main() -> None:
    described = "\n".join(f"  {name:<10} {part.__doc__}" for name, part in {**PARTS, "models": record_models}.items())
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=f"parts:\n{described}"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to record; all but the models if not given")
    parser.add_argument("--out", type=Path, default=HERE / "recorded", help="where to (%(default)s)")
    given = parser.parse_args()
    for name in given.parts:
        if name not in {*PARTS, "models"}:
            parser.error(f"expected one of the parts below, found {name!r}; see --help")
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.parts or PARTS:
        {**PARTS, "models": record_models}[name](given.out)


if __name__ == "__main__":
    main()
