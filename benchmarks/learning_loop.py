"""The loop, whole: a daemon picks what its model never saw, a few micrographs are corrected, and it picks better.

    python -m benchmarks.learning_loop --data FOLDER --model VERSION --known VERSION --diameter 130

FOLDER holds micrographs with their labels (``.star``) beside them. Some are corrected as the labels say: by clicks in a
browser (Debian's chromium, through playwright of the extra ``dev``), or with ``--no-browser`` through the page's API.
``frazil-train follow`` learns from them and hands in what is better; the daemon compares, swaps, and picks the others
again. Another daemon that serves the same model must go on as it was. Printed are F1 on the others before and after,
that of the model that saw the protein, and the time from the first correction to the swap. ``--pages`` writes them into
the docs; ``--check`` only looks whether the page has what the figures give. With ``--picture FILE`` the page's
*Learning* is photographed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.browser_corrections import correct_by_clicks, differences, open_browser, sign_in
from benchmarks.daemon_process import FRAZIL, DaemonProcess
from benchmarks.figures import fill_tables
from frazil.documents import MicrographDocument
from frazil.page.gate import TOKEN_NAME
from frazil.picking import HitCount, Picks, read_star
from frazil.session.outbox.ledger import LedgerReader

LEDGER_NAME = "frazil-ledger.sqlite"
DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "reference" / "learning-loop.json"
PAGE = DOCS / "how-to" / "learn-while-collecting.md"


def main() -> None:
    """Run the loop once, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of micrographs, with labels beside them")
    parser.add_argument("--model", type=Path, help="the model that serves: it never saw the protein")
    parser.add_argument("--known", type=Path, help="the model that saw it")
    parser.add_argument("--diameter", type=float, help="of the particle, in Å")
    parser.add_argument("--corrected", type=int, default=3, help="how many micrographs are corrected (default: 3)")
    parser.add_argument("--minutes", type=float, default=2.5, help="how long a training may take (default: 2.5)")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="correct through the API")
    parser.add_argument("--pages", action="store_true", help="write the figures, and the table in the docs")
    parser.add_argument("--check", action="store_true", help="measure nothing; is the table what the figures give?")
    parser.add_argument("--picture", type=Path, help="JPEG to write of the page's part for learning")
    args = parser.parse_args()
    if args.check:
        page = PAGE.read_text("utf-8")
        sys.exit(None if fill_tables(page, {"learning-loop": table(read_figures())}) == page else f"{PAGE}: is stale")
    if args.data is None or args.model is None or args.diameter is None:
        parser.error("expected --data, --model and --diameter, or --check")
    micrographs = sorted(args.data.glob("*.mrc"))
    chosen = np.linspace(0, len(micrographs) - 1, args.corrected).round().astype(int).tolist()
    corrected = [micrographs[i] for i in chosen]
    others = [one for one in micrographs if one not in corrected]
    with tempfile.TemporaryDirectory() as folder:
        before, after, seconds = run_loop(Path(folder), args, corrected, others)
        print(f"{args.data.name}: {len(corrected)} corrected, {len(others)} others")
        print(f"F1 on the others: {before:.4f} before, {after:.4f} after; {seconds:.0f} s from corrections to the end")
        known = None
        if args.known:
            known = score_known(Path(folder) / "known", args, others)
            gained = (after - before) / (known - before) if known > before else float("nan")
            print(f"the model that saw it: {known:.4f}; {gained:.0%} of the distance was gained")
    if args.pages:
        figures = {"protein": args.data.name, "corrected": len(corrected), "others": len(others)}
        figures |= {"f1_before": round(before, 4), "f1_after": round(after, 4), "f1_known": known and round(known, 4)}
        figures |= {"seconds": round(seconds), "by_clicks": args.browser}
        kept = [one for one in read_figures() if one["protein"] != args.data.name]
        every = sorted([*kept, figures], key=lambda one: one["protein"])
        FIGURES.write_text(f"{json.dumps(every, indent=1)}\n", "utf-8")
        PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), {"learning-loop": table(every)}), "utf-8")


def read_figures() -> list[dict[str, Any]]:
    """The figures in the docs."""
    return list(json.loads(FIGURES.read_text("utf-8"))) if FIGURES.is_file() else []


def table(figures: Sequence[dict[str, Any]]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        "| | corrected | F1 on the others, before | after | of the model that saw it | gained | seconds |",
        "|" + " --- |" * 7,
    ]
    for one in figures:
        before, after, known = one["f1_before"], one["f1_after"], one["f1_known"]
        gained = f"{(after - before) / (known - before):.0%}" if known and known > before else ""
        name = f"{one['protein']}, {one['others']} others"
        if after == before:
            gained = "nothing: what was learnt was no better, and not offered"
        shown = [
            name,
            one["corrected"],
            f"{before:.3f}",
            f"{after:.3f}",
            f"{known:.3f}" if known else "",
            gained,
            one["seconds"],
        ]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    return "\n".join(lines)


def run_loop(
    folder: Path, args: argparse.Namespace, corrected: Sequence[Path], others: Sequence[Path]
) -> tuple[float, float, float]:
    """F1 on the others before and after, and the seconds from the first correction to the swap."""
    options = ("--model", args.model, "--diameter", args.diameter)
    daemon = DaemonProcess(folder / "watched", folder / "out", *options, "--repick-after-promotion")
    bystander = DaemonProcess(folder / "elsewhere", folder / "out-elsewhere", *options)
    with daemon, bystander:
        for one in (*corrected, *others):
            put(one, daemon.watched / one.name)
        daemon.wait_for(r" picked \S+\.mrc", len(corrected) + len(others))
        before = score(daemon.out, {one.name: one for one in others})
        started = time.monotonic()
        if args.browser:
            correct_in_browser(daemon, corrected)
        else:
            correct(daemon, corrected)
        command = [FRAZIL.with_name("frazil-train"), "follow", daemon.stream, "--from", args.model, "--out", daemon.out]
        command += ["--promote", "--once", "--after", len(corrected), "--quiet", 2, "--minutes", args.minutes]
        if subprocess.run([*map(str, command)], check=False).returncode:
            photograph(daemon, args.picture)
            print("nothing better was learnt: the serving model goes on")
            return before, before, time.monotonic() - started
        _, found = daemon.wait_for(r"model learned/\d+ .* on what was corrected: (.*)")
        print(f"the daemon's comparison: {found[1]}")
        at, _ = daemon.wait_for(r"model learned/\d+ .* serves from here on")
        photograph(daemon, args.picture)
        daemon.wait_for(r" picked \S+\.mrc", len(corrected) + len(others))
        after = score(daemon.out, {one.name: one for one in others})
        check_all_there(daemon.out, [*corrected, *others], "learned")
        put(others[0], bystander.watched / others[0].name)
        bystander.wait_for(r" picked \S+\.mrc")
        check_all_there(bystander.out, others[:1], args.model.parent.name)
    return before, after, at - started


def check_all_there(out: Path, micrographs: Sequence[Path], model: str) -> None:
    """Check that each micrograph has its own newest result, by this model, and a pick file with the same picks."""
    found = documents(out)
    names = [one.name for one in micrographs]
    if sorted(found) != sorted(names) or {document.model.name for document, _ in found.values()} != {model}:
        raise RuntimeError(f"{out}: expected results of {names} by {model}, found {sorted(found)}")
    for name, (document, _) in found.items():
        star, picks = read_star(out / f"{Path(name).stem}_picks.star"), picks_of(document)
        if not (np.allclose(star.y, picks.y, atol=0.1) and np.allclose(star.x, picks.x, atol=0.1)):
            raise RuntimeError(f"{out}: expected the picks of {name} in its pick file, found others")


def correct_in_browser(daemon: DaemonProcess, micrographs: Sequence[Path]) -> None:
    """Correct micrographs by clicks, one after the other; wait until that holds."""
    found, started, clicks = documents(daemon.out), time.monotonic(), 0
    with open_browser() as page:
        page.goto(daemon.page)
        sign_in(page, (daemon.out / TOKEN_NAME).read_text().strip(), "the labels")
        for micrograph in micrographs:
            document, _ = found[micrograph.name]
            truth = read_star(micrograph.with_suffix(".star"))
            picks = picks_of(document)
            clicks += correct_by_clicks(page, daemon.page, micrograph.name, picks, truth, document.diameter_px)
    print(f"{clicks} clicks and keys in {time.monotonic() - started:.0f} s")
    wait_until_corrected(daemon, micrographs)


def wait_until_corrected(daemon: DaemonProcess, micrographs: Sequence[Path]) -> None:
    """Wait until the newest result of each has corrections."""
    while not all(documents(daemon.out)[one.name][0].corrections for one in micrographs):
        time.sleep(0.2)


def photograph(daemon: DaemonProcess, picture: Path | None) -> None:
    """Write a picture of what the page says of learning."""
    if picture is None:
        return
    with open_browser() as page:
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.goto(f"{daemon.page}learning")
        page.locator("#trainings h3").first.wait_for()
        page.locator("#proposals .name, #proposals .none").first.wait_for()
        page.evaluate("Promise.all([...document.querySelectorAll('svg image')].map(i => fetch(i.href.baseVal)))")
        page.wait_for_timeout(1000)  # the browser still decodes the pictures
        page.screenshot(path=picture, type="jpeg", quality=78)


def score_known(folder: Path, args: argparse.Namespace, others: Sequence[Path]) -> float:
    """F1 of the model that saw the protein, in a daemon as well."""
    with DaemonProcess(
        folder / "watched", folder / "out", "--model", args.known, "--diameter", args.diameter
    ) as daemon:
        for one in others:
            put(one, daemon.watched / one.name)
        daemon.wait_for(r" picked \S+\.mrc", len(others))
        return score(daemon.out, {one.name: one for one in others})


def put(micrograph: Path, place: Path) -> None:
    """Write a micrograph as a microscope does: whole, by rename."""
    aside = place.with_name(f".{place.name}")
    shutil.copyfile(micrograph, aside)
    aside.rename(place)


def documents(out: Path) -> dict[str, tuple[MicrographDocument, int]]:
    """The newest result of each micrograph by name, with its number."""
    found = {}
    with LedgerReader(out / LEDGER_NAME) as reader:
        for stored in reader.documents():
            document = stored.decode()
            if isinstance(document, MicrographDocument):
                found[document.micrograph] = document, stored.seq
    return found


def score(out: Path, labelled: dict[str, Path]) -> float:
    """F1 of the newest results within half a diameter."""
    count, found = HitCount(), documents(out)
    for name, micrograph in labelled.items():
        document, _ = found[name]
        count.add(picks_of(document), read_star(micrograph.with_suffix(".star")), document.diameter_px)
    return count.f1


def picks_of(document: MicrographDocument) -> Picks:
    """The picks of a result."""
    y, x, score = document.picks.arrays()
    return Picks(y=y, x=x, score=score)


def correct(daemon: DaemonProcess, micrographs: Sequence[Path]) -> None:
    """Delete what has no label, and add what was missed, as somebody on the page does; wait until it holds."""
    found, edits = documents(daemon.out), []
    for micrograph in micrographs:
        document, seq = found[micrograph.name]
        truth = read_star(micrograph.with_suffix(".star"))
        false_picks, missed = differences(picks_of(document), truth, document.diameter_px)
        for kind, places in (("delete", false_picks), ("add", missed)):
            edits += [
                {"id": str(uuid4()), "path": micrograph.name, "seq": seq, "kind": kind, "y": y, "x": x}
                for x, y, _ in places.rows()
            ]
    body = json.dumps({"by": "the labels", "edits": edits}).encode()
    request = urllib.request.Request(f"{daemon.page}api/edits", body, {"content-type": "application/json"})
    request.add_header("authorization", f"Bearer {(daemon.out / TOKEN_NAME).read_text().strip()}")
    with urllib.request.urlopen(request) as answer:
        taken = json.load(answer)
    print(f"{len(edits)} edits: {taken['accepted']} taken, {len(taken['refused'])} refused")
    wait_until_corrected(daemon, micrographs)


if __name__ == "__main__":
    main()
