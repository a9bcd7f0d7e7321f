"""The page as a workbench, in a real browser: a session is gone through, looked at closely, corrected and judged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from frazil.page.gate import TOKEN_NAME
from frazil.picking import Picks, read_star

if TYPE_CHECKING:
    from conftest import Looker
    from playwright.sync_api import Page

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
AXE = Path(__file__).parent.parent / "axe" / "axe.min.js"
SHAPE = (800, 1120)
COUNTS = (6, 14, 9, 1, 12)
"""Particles of the micrographs 0.mrc to 4.mrc; one has few."""


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


@dataclass
class Session:
    """A daemon that picked `COUNTS`, and a file that is none."""

    url: str
    out: Path
    watched: Path

    @property
    def token(self) -> str:
        return (self.out / TOKEN_NAME).read_text().strip()

    def star(self, name: str) -> Picks:
        return read_star(self.out / f"{name}_picks.star")


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory,
    blob_model: Path,
    dark_model: Path,
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
) -> Iterator[Session]:
    """One daemon for all tests here; each leaves its micrographs as it found them, or has its own."""
    folder = tmp_path_factory.mktemp("workbench")
    watched, out = folder / "watched", folder / "out"
    watched.mkdir()
    for k, count in enumerate(COUNTS):
        write_mrc(watched / f"{k}.mrc", make_scene(SHAPE, count=count, seed=k).pixels, 2.0)
    (watched / "broken.mrc").write_bytes(b"no micrograph" * 100)
    command = [BIN / "frazil", "serve", "--watch", watched, "--out", out, "--device", "cpu", "--model", blob_model]
    command += ["--diameter", "48", "--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--no-choose-threshold"]
    command += ["--no-assess", "--junk-model", dark_model]
    log = folder / "log"
    with log.open("w") as written:
        process = subprocess.Popen([str(part) for part in command], stderr=written)
    try:
        until(lambda: "failed (" in log.read_text() and log.read_text().count("picked ") == len(COUNTS), log.read_text)
        found = re.search(r"page on (\S+)", log.read_text())
        assert found is not None
        yield Session(url=found[1].rstrip("/"), out=out, watched=watched)
    finally:
        process.terminate()
        process.wait()


def open_micrograph(look: Looker, session: Session, query: str, **more: Any) -> Page:
    page = look.open(f"{session.url}/micrograph?{query}", **more)
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    page.locator("#strip a[aria-current]").wait_for()
    return page


def sign_in(page: Page, session: Session, name: str = "") -> None:
    page.get_by_role("button", name="Sign in").click()
    page.locator("dialog [name=token]").fill(session.token)
    page.locator("dialog [name=name]").fill(name)
    page.locator("dialog [name=token]").press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


def wait_saved(page: Page) -> None:
    page.locator("#saved", has_text="All changes are saved.").wait_for()


def place(page: Page, y: float, x: float) -> tuple[float, float]:
    """Where a pixel of a micrograph lies on the page, while all of it is shown."""
    box = page.locator("#viewer svg.canvas").bounding_box()
    assert box is not None
    scale = box["width"] / SHAPE[1]
    return box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale


def view_box(page: Page) -> list[float]:
    """What part of the micrograph is shown: x, y, width and height."""
    return [float(part) for part in (page.locator("#viewer svg.canvas").get_attribute("viewBox") or "").split()]


# --- through the session ----------------------------------------------------------------------------------------


def test_a_session_is_gone_through_by_keys_in_the_order_of_the_list(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=3.mrc&sort=picks&order=up&states=picked")
    page.evaluate("window.sameDocument = true")
    for key, expected in (("j", 0), ("ArrowRight", 2), ("j", 4), ("k", 2), ("ArrowLeft", 0), ("j", 2)):
        page.keyboard.press(key)
        page.locator("h1", has_text=f"{expected}.mrc").wait_for()
        page.locator(f"#strip a[aria-current][data-path='{expected}.mrc']").wait_for()
    page.locator(".place", has_text="3 of 5").wait_for()
    assert page.evaluate("window.sameDocument")
    page.reload()
    page.locator("h1", has_text="2.mrc").wait_for()
    page.locator(".place", has_text="3 of 5").wait_for()
    page.go_back()
    page.locator("h1", has_text="0.mrc").wait_for()
    page.goto(f"{session.url}/micrograph?path=4.mrc")
    page.locator(".place", has_text="2 of 6").wait_for()
    page.keyboard.press("n")
    page.locator("h1", has_text="3.mrc").wait_for()  # it has few picks
    page.keyboard.press("N")
    page.locator("#trouble", has_text="broken.mrc").wait_for()  # it failed
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    look.keep(page, "help")
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="Keys").wait_for(state="hidden")


def test_the_list_is_sorted_filtered_and_chosen_from(session: Session, look: Looker) -> None:
    page = look.open(f"{session.url}/micrographs")
    page.locator("#rows tr").first.wait_for()
    page.get_by_label("Sorted by").select_option("Picks, fewest first")
    until(lambda: page.evaluate("document.querySelector('#rows tr th').textContent === '3.mrc'"))
    assert "sort=picks&order=up" in page.url
    boxes = page.locator("#rows input")
    boxes.nth(0).click()
    boxes.nth(3).click(modifiers=["Shift"])
    page.get_by_text("4 chosen").wait_for()
    page.get_by_label("Shown as").select_option("pictures")
    page.locator("#pictures li svg image").nth(4).wait_for(state="attached")
    assert page.locator("#pictures input:checked").count() == 4
    sign_in(page, session)
    page.get_by_role("button", name="Mark bad").click()
    page.get_by_text("4 micrographs marked bad. All changes are saved.").wait_for()
    page.get_by_label("Marked").select_option("bad")
    page.get_by_text("1 to 4 of 4 micrographs").wait_for()
    until(lambda: len(session.star("4").y) == 0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download chosen").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert sorted(bundle.namelist()) == [f"{k}_picks.star" for k in (0, 2, 3, 4)]
    assert page.get_by_text("4 micrographs marked bad.").is_visible()  # it stays until it is closed
    page.get_by_label("Close this message").click()
    page.locator(".confirmation").wait_for(state="hidden")
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("No micrograph").wait_for()
    page.locator(".confirmation", has_text="Undone. All changes are saved.").wait_for()
    until(lambda: len(session.star("4").y) > 5)
    page.get_by_role("button", name="Choose none").click()
    page.get_by_label("Marked").select_option("")
    page.get_by_label("Name holds").fill("1.")
    page.get_by_label("Name holds").press("Enter")
    page.get_by_text("1 to 1 of one micrograph").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert bundle.namelist() == ["1_picks.star"]


def test_more_are_downloaded_than_an_address_can_name(
    open_page: Callable[..., Any], open_rig: Callable[..., Any], look: Looker
) -> None:
    page = open_page()
    rig = open_rig(page.ledger)
    for k in range(100):
        rig.pick(f"{'long' * 40}/{k:03}.mrc")
    looked = look.open(f"{page.url}/micrographs")
    looked.get_by_label("Choose all on this page").check()
    with looked.expect_download() as download:
        looked.get_by_role("button", name="Download chosen").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert len(bundle.namelist()) == 100
    looked.locator(".confirmation", has_text="The picks of 100 micrographs were downloaded.").wait_for()


def test_fifty_thousand_are_sorted_by_picks(open_page: Callable[..., Any], look: Looker, tmp_path: Path) -> None:
    from frazil.session.outbox.ledger.layout import connect, transaction

    database = connect(tmp_path / "ledger.sqlite")
    with transaction(database):
        for k in range(50_000):
            name, picks = f"grid_{k // 5000}/{k:06}.mrc", k * 7919 % 50_021
            few = {"y": [], "x": [], "score": [0.5] * (picks % 7)}
            database.execute(
                "INSERT INTO micrographs (path, state, size, mtime_ns, attempts, seen_at, picked_at, seq) "
                "VALUES (?, 'picked', 1, 1, 1, ?, ?, ?)",
                (name, k, k + 0.5, k + 1),
            )
            database.execute(
                "INSERT INTO documents (seq, topic, path, body, committed_at) VALUES (?, 'picks', ?, ?, ?)",
                (k + 1, name, json.dumps({"shape": [9, 9], "picks": few}), k + 0.5),
            )
    database.close()
    page = look.open(f"{open_page().url}/micrographs?sort=picks")
    until(lambda: page.evaluate("!document.getElementById('count').textContent.includes('being read')"))
    until(lambda: page.evaluate("document.querySelectorAll('#rows tr').length === 100"))
    assert {row.split("\t")[3] for row in page.locator("#rows tr").all_inner_texts()} == {"6"}
    # Once the numbers are known, another order of all fifty thousand takes a moment.
    took = page.evaluate(
        "async () => { const began = performance.now(); const found = await (await fetch("
        "'/api/micrographs?sort=score&order=up')).json(); return [performance.now() - began, found.count]; }"
    )
    assert took[1] == 50_000
    assert took[0] < 5000


# --- the picture ------------------------------------------------------------------------------------------------


def test_one_to_one_shows_the_files_pixels_and_tells_their_values(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=1.mrc")
    page.get_by_label("Picks", exact=True).uncheck()
    page.locator("[name=lowpass]").fill("0")
    page.get_by_label("One to one").click()
    until(
        lambda: page.evaluate(
            "document.querySelector('#viewer .tiles image[href*=\"/0/0/0\"], #viewer .tiles .sharp image')"
        )
    )
    until(lambda: page.evaluate("new URL(location.href).searchParams.has('view')"))
    x, y, width, _ = (
        float(part) for part in (page.locator("#viewer svg.canvas").get_attribute("viewBox") or "").split()
    )
    box = page.locator("#viewer svg.canvas").bounding_box()
    assert box is not None
    assert width == pytest.approx(box["width"], abs=0.6)  # a pixel of the screen for each of the file
    page.evaluate("Promise.all([...document.querySelectorAll('#viewer .tiles image')].map(i => fetch(i.href.baseVal)))")
    from frazil.picking import read_micrograph

    pixels = read_micrograph(session.watched / "1.mrc").pixels
    for down, right in ((100, 120), (200, 250), (301, 77)):
        row, column = round(y + down), round(x + right)
        page.mouse.move(box["x"] + right, box["y"] + down)
        page.locator(".reading", has_text=f"y {row}, x {column}: value").wait_for()
        said = float((page.locator(".reading").text_content() or "").rsplit(" ", 1)[1])
        assert said == pytest.approx(float(pixels[row, column]), rel=1e-5)
    page.mouse.move(0, 0)
    shown = cv2.imdecode(
        np.frombuffer(page.locator("#viewer svg.canvas").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE
    ).astype(float)
    top, left = round(y + 0.5), round(x + 0.5)
    part = shown[150:350, 60:260]
    likeness = {
        (dy, dx): np.corrcoef(
            part.ravel(), pixels[top + 150 + dy : top + 350 + dy, left + 60 + dx : left + 260 + dx].ravel()
        )[0, 1]
        for dy in (-2, -1, 0, 1, 2)
        for dx in (-2, -1, 0, 1, 2)
    }
    best = max(likeness, key=lambda at: likeness[at])
    assert max(abs(best[0]), abs(best[1])) <= 1  # the element's own edge may lie between two pixels of the screen
    assert likeness[best] > 0.97
    page.reload()  # the address keeps what is looked at
    page.locator("#viewer .tiles image").first.wait_for(state="attached")
    assert view_box(page)[:3] == pytest.approx([x, y, width], abs=0.2)
    page.get_by_label("Fit all of it").click()
    assert page.locator("#viewer svg.canvas").get_attribute("viewBox") == "-0.5 -0.5 1120 800"
    assert page.locator(".scale-bar").inner_text().endswith(" nm")


def test_a_cold_page_shows_the_newest_first_and_from_what_was_made_when_it_was_picked(
    session: Session, look: Looker
) -> None:
    page = look.open(f"{session.url}/sessions")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/picture/" in request.url else None)
    page.goto(session.url)
    until(lambda: page.evaluate("document.querySelector('#viewer image.preview, #viewer image.photograph')"))
    page.locator("#latest li").nth(3).wait_for()
    newest = re.search(r"/api/picture/(\d+)", asked[0])
    assert newest is not None
    first = {re.search(r"/api/picture/(\d+)\?size=(\w+)", url).groups() for url in asked[:2]}  # type: ignore[union-attr]
    assert first == {(newest[1], "small"), (newest[1], "large")}
    assert (session.out / "frazil-thumbnails.sqlite").exists()
    assert page.evaluate("document.documentElement.scrollHeight") <= 1000


# --- corrections ------------------------------------------------------------------------------------------------


def test_picks_are_corrected_in_one_browser_and_seen_in_another(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=1.mrc")
    other = open_micrograph(look, session, "path=1.mrc")
    before = session.star("1")
    sign_in(page, session, "Ada")
    page.keyboard.press("e")
    page.mouse.click(*place(page, before.y[0], before.x[0]))
    page.mouse.click(*place(page, 30, 30))
    wait_saved(page)
    other.locator("#changes", has_text="1 added, 1 taken away, by Ada.").wait_for()
    until(lambda: min(np.hypot(session.star("1").y - 30, session.star("1").x - 30)) < 2)
    after = session.star("1")
    assert len(after.y) == len(before.y)
    assert min(np.hypot(after.y - before.y[0], after.x - before.x[0])) > 10
    look.keep(page, "corrected")
    page.keyboard.press("x")
    x, y = place(page, 5, 5)
    far_x, far_y = place(page, 500, 1000)
    page.mouse.move(x, y)
    page.mouse.down()
    for corner in ((far_x, y), (far_x, far_y), (x, far_y)):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    wait_saved(page)
    other.locator("#changes", has_text="1 region of junk").wait_for()
    until(lambda: not ((session.star("1").y < 490) & (session.star("1").x < 990)).any())
    page.keyboard.press("b")
    other.locator("#badge", has_text="bad").wait_for()
    until(lambda: len(session.star("1").y) == 0)
    page.reload()
    page.locator("#badge", has_text="bad").wait_for()
    with page.expect_download() as download:
        page.locator("#correct").get_by_text("CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    for says in ("1 region of junk", "1 added, 1 taken away, by", "picks: 1 taken away", "Nothing was corrected here."):
        page.keyboard.press("z")
        page.locator("#changes", has_text=says).wait_for()
        wait_saved(page)
    until(lambda: len(session.star("1").y) == len(before.y))
    assert sorted(session.star("1").y) == pytest.approx(sorted(before.y), abs=0.1)


def test_picks_are_added_and_deleted_by_keys_alone(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=4.mrc")
    sign_in(page, session)
    before = session.star("4")
    page.keyboard.press("e")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")  # from the middle, by a quarter of 48 Å, in pixels of 2 Å
    page.keyboard.press("Enter")
    page.locator("#changes", has_text=re.compile("1 added|1 taken away")).wait_for()
    wait_saved(page)
    until(lambda: len(session.star("4").y) != len(before.y))
    page.keyboard.press("Enter")  # what was added is taken away, or the other way round
    until(lambda: len(session.star("4").y) == len(before.y))
    page.keyboard.press("j")
    page.locator("h1", has_text="3.mrc").wait_for()
    page.keyboard.press("k")
    page.locator("h1", has_text="4.mrc").wait_for()
    for _ in range(2):
        page.keyboard.press("z")
        wait_saved(page)
    until(lambda: len(session.star("4").y) == len(before.y))


def test_who_does_not_sign_in_changes_nothing(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=2.mrc")
    look.expected.append("401")  # a browser itself reports it
    page.keyboard.press("g")
    page.locator("dialog", has_text=f"cat {session.out / TOKEN_NAME}").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#saved", has_text="changes need the token of this daemon").wait_for()
    assert page.locator("#badge").is_hidden()
    assert page.context.cookies() == []


def test_a_confirmation_stays_and_the_line_follows_the_slider(session: Session, look: Looker) -> None:
    page = open_micrograph(look, session, "path=0.mrc")
    line = page.locator("#scores .limit")
    before = line.get_attribute("x1")
    page.locator("#tune input[type=range]").first.fill("0.9")
    until(lambda: page.evaluate(f"document.querySelector('#scores .limit').getAttribute('x1') !== '{before}'"))
    page.locator("#tune").get_by_role("button", name="Reset").click()
    assert line.get_attribute("x1") == before
    page.get_by_text("Apply to all, and to what follows").click()
    page.locator(".confirmation", has_text="Nothing differs from what is set.").wait_for()
    page.get_by_label("Close this message").click()
    page.locator(".confirmation").wait_for(state="hidden")


# --- for everybody ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(session: Session, look: Looker, scheme: str) -> None:
    source = AXE.read_text("utf-8")
    page = look.open(session.url, scheme=scheme)
    for path, ready in (
        ("/", "#latest li svg"),
        ("/micrographs", "#rows tr"),
        ("/micrographs?view=pictures", "#pictures li"),
        ("/micrograph?path=1.mrc", "#changes"),
        ("/sessions", "#list li"),
    ):
        page.goto(session.url + path)
        page.locator(ready).first.wait_for()
        page.locator("#link.live-link").wait_for()
        page.evaluate(source)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        serious = [
            (fault["id"], [node["html"][:160] for node in fault["nodes"][:3]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert serious == [], path
        look.keep(page, f"{scheme}-{path.strip('/').partition('?')[0] or 'overview'}")


# --- the whole --------------------------------------------------------------------------------------------------


def test_a_real_session_is_corrected_by_keys_exported_and_brought_into_a_fresh_ledger(
    serve: Callable[..., Any], real_micrographs: Path, look: Looker, tmp_path: Path, is_long: bool
) -> None:
    """Twelve micrographs with ``--long``, else skipped: reloaded, seen by two, the daemon killed in between."""
    if not is_long:
        pytest.skip("takes minutes: --long")
    files = sorted((real_micrographs / "beta-galactosidase").glob("*.mrc"))[:12]
    watched, out = tmp_path / "watched", tmp_path / "out"
    watched.mkdir()
    for file in files:
        shutil.copyfile(file, watched / file.name)
    daemon = serve("--diameter", "191", watched=watched, out=out)
    for file in files:
        daemon.wait_log(rf"picked {re.escape(file.name)}:")
    here = Session(url=daemon.page.rstrip("/"), out=out, watched=watched)
    page = look.open(f"{here.url}/micrographs?sort=picks&order=up")
    sign_in(page, here, "Ada")
    page.locator("#rows tr").nth(len(files) - 1).wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    seen = []
    for k in range(len(files)):
        page.locator(".place", has_text=f"{k + 1} of {len(files)}").wait_for()
        seen.append(page.locator("h1").inner_text())
        page.locator("#changes").wait_for()
        if k == 0:
            page.keyboard.press("b")
        elif k <= 3:
            page.keyboard.press("e")
            for key in ("ArrowRight", "Enter", *["ArrowDown"] * 5, "Enter"):
                page.keyboard.press(key)
        if k <= 3:
            wait_saved(page)
            page.locator("#changes", has_text="Nothing was corrected").wait_for(state="detached")
            here_now = page.url
        page.keyboard.press("j")
    assert sorted(seen) == sorted(file.name for file in files)
    corrected = [Path(name).stem for name in seen[:4]]
    until(lambda: len(here.star(corrected[0]).y) == 0)
    look.expected.append("net::ERR_")  # a browser itself reports that it cannot connect
    daemon.process.kill()
    daemon.process.wait()
    again = serve("--diameter", "191", "--http", daemon.page.split("/")[2], watched=watched, out=out)
    page.get_by_text("● live").wait_for()
    other = look.open(here_now)
    other.locator("#changes", has_text="by Ada").wait_for()
    frazil = Path(sys.executable).parent / "frazil"
    subprocess.run([frazil, "labels", "export", "--ledger", out, "--out", tmp_path / "labels"], check=True, timeout=170)
    picked = {file.stem: here.star(file.stem) for file in files}
    again.stop()
    fresh = serve("--diameter", "191", watched=watched, out=tmp_path / "fresh")
    for file in files:
        fresh.wait_log(rf"picked {re.escape(file.name)}:")
    subprocess.run([frazil, "labels", "import", "--ledger", fresh.out, tmp_path / "labels"], check=True, timeout=170)
    there = Session(url=fresh.page.rstrip("/"), out=fresh.out, watched=watched)

    def places(picks: Picks) -> list[tuple[float, float]]:
        return sorted(zip(np.round(picks.y, 1), np.round(picks.x, 1), strict=True))

    for stem, picks in picked.items():
        # Their number may be the same before the edits are granted: one added, one taken away.
        until(lambda stem=stem, picks=picks: places(there.star(stem)) == places(picks), lambda stem=stem: stem)  # type: ignore[misc]
