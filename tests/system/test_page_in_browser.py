"""The page in a real browser, over real daemons: what an operator sees and does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from frazil.documents import MicrographDocument, decode_document, encode_document
from frazil.page.gate import TOKEN_NAME
from frazil.picking import read_star
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.outbox.ledger.layout import connect, transaction

if TYPE_CHECKING:
    from conftest import Looker
    from playwright.sync_api import Locator

pytestmark = pytest.mark.system

PATIENCE_MS = 240_000
Serve = Callable[..., Any]
Write = Callable[..., Path]


def pixels_of(shown: Locator) -> NDArray[np.int64]:
    """A screenshot, (h, w, 3)."""
    return np.asarray(cv2.imdecode(np.frombuffer(shown.screenshot(), np.uint8), cv2.IMREAD_COLOR), np.int64)


def newest_result(out: Path, path: str) -> MicrographDocument:
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        document = decode_document(reader.history(path)[-1][1])
    assert isinstance(document, MicrographDocument)
    return document


@pytest.fixture
def blob_daemon(serve: Serve, blob_model: Path) -> Any:
    """A daemon that finds dark discs of 48 Å."""
    return serve("--diameter", "48", "--model", blob_model)


# --- live -------------------------------------------------------------------------------------------------------


def test_real_micrographs_come_up_with_their_picks_without_a_reload(
    serve: Serve, real_micrographs: Path, look: Looker
) -> None:
    daemon = serve("--diameter", "191")
    page = look.open(daemon.page)
    page.get_by_text("The first micrograph’s picture comes here.").wait_for()
    page.locator("#verdict", has_text="Yes").wait_for()  # it goes on of the disk, where that is nearly full
    page.evaluate("window.sameDocument = true")
    for k, file in enumerate(sorted((real_micrographs / "beta-galactosidase").glob("*.mrc"))[:2]):
        with page.expect_response(lambda answer: "/api/picture/" in answer.url and "large" in answer.url) as answer:
            shutil.copyfile(file, daemon.watched / file.name)
        assert answer.value.status == 200
        page.locator("#newest", has_text=file.name).wait_for()
        picks = len(newest_result(daemon.out, file.name).picks.score)
        assert picks > 100
        page.locator("#newest", has_text=f"{picks} picks").wait_for()
        page.locator("#viewer .picks .pick").first.wait_for(state="attached")
        assert page.locator("#latest li").count() == k
        assert page.get_by_text("The latest micrographs").is_visible() == (k > 0)
    page.locator("#picks svg[aria-label*='2 points']").wait_for()
    (daemon.watched / "broken.mrc").write_bytes(b"no micrograph" * 100)
    page.locator("#failures", has_text="expected an MRC file, found no valid MRC header").wait_for()
    assert page.locator("#facts", has_text="fcn/").count() == 1
    assert page.locator("#facts", has_text="on the CPU").count() == 1
    assert page.evaluate("window.sameDocument")
    look.keep(page, "overview")


def test_a_daemon_that_is_gone_is_said_plainly_and_its_return_is_noticed(
    serve: Serve, blob_model: Path, look: Looker, tmp_path: Path
) -> None:
    options = ("--diameter", "48", "--model", blob_model)
    daemon = serve(*options)
    page = look.open(daemon.page)
    page.get_by_text("● live").wait_for()
    look.expected.append("net::ERR_")  # a browser itself reports that it cannot connect
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    page.get_by_text("The daemon does not answer").wait_for()
    assert page.locator("body.is-lost").count() == 1
    look.keep(page, "lost")
    host = urlsplit(daemon.page).netloc
    again = serve(*options, "--http", host)
    page.get_by_text("● live").wait_for()
    assert page.locator("#lost").is_hidden()
    again.stop()
    page.get_by_text("The daemon has been stopped.").wait_for()


# --- the picture ------------------------------------------------------------------------------------------------


def test_circles_lie_on_the_particles_of_a_micrograph_that_is_not_square(
    blob_daemon: Any, make_scene: Callable[..., Any], write_mrc: Write, look: Looker
) -> None:
    scene = make_scene((320, 512), count=5, seed=4)
    write_mrc(blob_daemon.watched / "odd.mrc", scene.pixels)
    page = look.open(f"{blob_daemon.page}micrograph?path=odd.mrc")
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    page.wait_for_function("fetch(document.querySelector('.photograph').href.baseVal).then(r => r.ok)")
    page.wait_for_timeout(300)  # the browser still decodes the picture
    shown = pixels_of(page.locator("#viewer svg.canvas"))
    h, w, _ = shown.shape
    scale = w / 512
    assert h == pytest.approx(320 * scale, abs=1.5)
    picks = newest_result(blob_daemon.out, "odd.mrc").picks
    assert len(picks.y) == 5
    coloured = shown.max(axis=2) - shown.min(axis=2) > 60
    brightness = shown.sum(axis=2)
    rows, columns = np.mgrid[:h, :w]
    lain_on = np.zeros_like(coloured)
    for y, x in zip(scene.truth.y, scene.truth.x, strict=True):
        # In the picture the middle of pixel 0 is half a pixel from its edge.
        distance = np.hypot(rows + 0.5 - (y + 0.5) * scale, columns + 0.5 - (x + 0.5) * scale)
        radius = scene.diameter_px / 2 * scale
        around = coloured & (distance < 1.5 * radius)
        lain_on |= distance < 1.5 * radius
        assert around.sum() > radius  # a circle is there, around the disc
        assert distance[around].mean() == pytest.approx(radius, rel=0.12)
        off = np.hypot(rows[around].mean() + 0.5 - (y + 0.5) * scale, columns[around].mean() + 0.5 - (x + 0.5) * scale)
        assert off < 2 * scale
        inside, outside = distance < 0.7 * radius, (distance > 1.15 * radius) & (distance < 1.5 * radius)
        assert brightness[inside].mean() + 60 < brightness[outside].mean()  # and the disc under it
    assert not (coloured & ~lain_on).any()
    look.keep(page, "not-square")


def test_below_the_threshold_and_score_map_can_be_shown_and_zoomed(
    blob_daemon: Any, make_scene: Callable[..., Any], write_mrc: Write, look: Looker
) -> None:
    write_mrc(blob_daemon.watched / "a.mrc", make_scene((320, 448), count=6).pixels)
    page = look.open(f"{blob_daemon.page}micrograph?path=a.mrc")
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    assert page.locator("#viewer .missed").count() == 1  # in the legend alone
    page.get_by_role("checkbox", name="Below the threshold").check()
    assert page.locator("#viewer .hidden .missed").count() == 1
    with page.expect_response(lambda answer: "/api/score-map/" in answer.url) as answer:
        page.get_by_role("checkbox", name="Score map").check()
    assert answer.value.status == 200
    page.get_by_role("checkbox", name="Picks").uncheck()
    assert page.locator("#viewer .picks").count() == 0
    canvas = page.locator("#viewer svg.canvas")
    whole = canvas.get_attribute("viewBox")
    page.get_by_label("Zoom in").click()
    canvas.focus()
    canvas.press("ArrowRight")
    assert float((canvas.get_attribute("viewBox") or "").split()[2]) < 448
    canvas.press("0")
    assert canvas.get_attribute("viewBox") == whole
    (blob_daemon.watched / "a.mrc").rename(blob_daemon.out / "elsewhere.mrc")


def test_a_circle_drawn_over_a_particle_gives_its_diameter(
    blob_daemon: Any, write_mrc: Write, make_scene: Callable[..., Any], look: Looker
) -> None:
    scene = make_scene()
    write_mrc(blob_daemon.watched / "a.mrc", scene.pixels, 2.0)
    blob_daemon.wait_log("picked a.mrc")
    page = look.open(f"{blob_daemon.page}micrograph?path=a.mrc")
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    shown = page.locator("#viewer svg.canvas")
    page.get_by_label("Measure a particle").check()
    box = shown.bounding_box()
    assert box is not None
    scale = box["width"] / scene.pixels.shape[1]
    y, x, radius = scene.truth.y[0], scene.truth.x[0], scene.diameter_px / 2
    left, right, row = (x - radius + 0.5) * scale, (x + radius + 0.5) * scale, (y + 0.5) * scale
    page.mouse.move(box["x"] + left, box["y"] + row)
    page.mouse.down()
    page.mouse.move(box["x"] + right, box["y"] + row, steps=4)
    page.mouse.up()
    said = page.locator("#viewer .reading").inner_text()
    assert float(said.split(" Å")[0]) == pytest.approx(2.0 * scene.diameter_px, abs=3)
    assert page.locator("circle.measured").count() == 1
    look.keep(page, "measured")
    page.get_by_label("Look").check()
    assert page.locator("circle.measured").count() == 0


def test_limits_are_tried_counted_and_applied_with_the_token(
    blob_daemon: Any, make_scene: Callable[..., Any], write_mrc: Write, look: Looker
) -> None:
    for k in range(3):
        write_mrc(blob_daemon.watched / f"m{k}.mrc", make_scene((320, 448), count=8, seed=k).pixels)
    page = look.open(f"{blob_daemon.page}micrograph?path=m1.mrc")
    before = len(newest_result_when_there(blob_daemon.out, "m1.mrc").picks.y)
    newest_result_when_there(blob_daemon.out, "m2.mrc")
    page.get_by_text("Tune by eye").wait_for()
    page.locator("[name=edge_margin_angstrom]").fill("90")
    page.locator("#tune output", has_text=f"picks instead of {before}").wait_for()
    shown = int((page.locator("#tune output").first.text_content() or "").split()[0])
    assert 0 < shown < before
    page.get_by_text("Count all micrographs").click()
    page.get_by_text("All 3 micrographs.").wait_for()
    look.keep(page, "tune")
    look.expected.append("401")  # a browser itself reports it
    page.get_by_text("Apply to all, and to what follows").click()
    page.locator("dialog [name=token]").fill("not the token, but as long as it")
    page.locator("dialog [name=token]").press("Enter")
    page.get_by_text("Not signed in: that is not the token").wait_for()
    page.locator("dialog [name=token]").fill((blob_daemon.out / TOKEN_NAME).read_text())
    page.locator("dialog [name=token]").press("Enter")
    page.get_by_text("Asked for:").wait_for()
    page.locator("#facts", has_text=f"{shown}, mean score").wait_for()  # the revised result, without a reload
    assert "Revised" in (page.locator("#facts").text_content() or "")
    assert "after the file was complete" not in (page.locator("#facts").text_content() or "")
    assert newest_result(blob_daemon.out, "m1.mrc").edge_margin_angstrom == 90
    for k in range(3):
        document = newest_result_when_there(blob_daemon.out, f"m{k}.mrc", lambda d: d.supersedes > 0)
        assert document.edge_margin_angstrom == 90
        deadline = time.monotonic() + PATIENCE_MS / 1000
        star = blob_daemon.out / f"m{k}_picks.star"
        while len(read_star(star)) != len(document.picks.y):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def newest_result_when_there(
    out: Path, path: str, fits: Callable[[MicrographDocument], bool] = lambda _: True
) -> MicrographDocument:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while True:
        with LedgerReader(out / "frazil-ledger.sqlite") as reader:
            history = reader.history(path)
        if history and fits(document := decode_document(history[-1][1])):  # type: ignore[arg-type]
            assert isinstance(document, MicrographDocument)
            return document
        assert time.monotonic() < deadline, f"no result of {path}"
        time.sleep(0.05)


# --- many, and odd ----------------------------------------------------------------------------------------------


def fill(file: Path, count: int, document: MicrographDocument) -> None:
    """A session's ledger with so many picked micrographs."""
    names = [f"grid_{k // 5000}/FoilHole_{k:06}_fractions.mrc" for k in range(count)]
    database = connect(file)
    with transaction(database):
        database.executemany(
            "INSERT INTO micrographs (path, state, size, mtime_ns, attempts, seen_at, complete_at, picked_at, seq) "
            "VALUES (?, 'picked', 1, 1, 1, ?, ?, ?, ?)",
            [(name, k, k, k + 0.5, k + 1) for k, name in enumerate(names)],
        )
        database.executemany(
            "INSERT INTO documents (seq, topic, path, body, committed_at) VALUES (?, 'picks', ?, ?, ?)",
            [
                (k + 1, name, encode_document(msgspec.structs.replace(document, seq=k + 1)), k + 0.5)
                for k, name in enumerate(names)
            ],
        )
    database.close()


def test_fifty_thousand_micrographs_are_listed_at_once(
    open_page: Callable[..., Any], make_document: Callable[..., MicrographDocument], look: Looker, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for folder, count in ((few, 100), (tmp_path, 50_000)):
        fill(folder / "ledger.sqlite", count, make_document("/data/gone.mrc"))
    look.expected.append("404")  # pictures of files that are gone
    opened_few, opened = open_page(few), open_page()
    # Fifty thousand cost little more than a hundred do, on the same machine, whatever else that does.
    listed: dict[str, list[float]] = {opened_few.url: [], opened.url: []}
    for _ in range(2):
        for url, milliseconds in listed.items():
            page = look.open(f"{url}/micrographs")
            page.locator("#rows tr:nth-child(100)").wait_for()
            milliseconds.append(float(page.evaluate("performance.now()")))
    assert min(listed[opened.url]) < 2 * min(listed[opened_few.url]) + 500, listed
    page.get_by_text("1 to 100 of 50\u202f000 micrographs").wait_for()
    page.get_by_text("Last »").click()
    page.locator("#rows", has_text="FoilHole_000000").wait_for()
    page.get_by_label("Name holds").fill("hole_04999")
    page.get_by_label("Name holds").press("Enter")
    page.get_by_text("1 to 10 of 10 micrographs").wait_for()
    assert page.url.endswith("search=hole_04999")
    page.go_back()
    page.locator("#rows", has_text="FoilHole_000000").wait_for()
    look.keep(page, "list")
    overview = look.open(opened.url)
    overview.locator("#picks svg[aria-label*='240 points']").wait_for()


def test_names_are_shown_as_they_are_and_never_run(
    open_page: Callable[..., Any], make_document: Callable[..., MicrographDocument], look: Looker, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(1)>&amp;\"'`${1}.mrc"
    look.expected += ["404", "Content Security Policy"]  # a picture of a file that is gone, and what is tried below
    fill(tmp_path / "ledger.sqlite", 1, make_document("/data/gone.mrc"))
    database = connect(tmp_path / "ledger.sqlite")
    for table in ("micrographs", "documents"):
        database.execute(f"UPDATE {table} SET path = ?", (name,))
    database.close()
    opened = open_page()
    page = look.open(f"{opened.url}/micrographs")
    page.get_by_text(name).click()
    page.locator("h1", has_text=name).wait_for()
    page.get_by_text("No picture: gone.mrc: the file is gone").wait_for()
    assert page.locator("#viewer .picks .pick").count() == 1
    page.goto(f"{opened.url}/?{quote(name)}")
    page.locator("#newest", has_text=name).wait_for()
    # What a page could be made to load or run, the policy forbids.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in text for text in look.complaints) == 1


def test_a_phone_in_a_dark_room_shows_all_of_it(
    blob_daemon: Any, make_scene: Callable[..., Any], write_mrc: Write, look: Looker
) -> None:
    write_mrc(blob_daemon.watched / f"{'a_long_name_' * 8}.mrc", make_scene((320, 448), count=6).pixels)
    page = look.open(blob_daemon.page, size=(390, 844), scheme="dark")
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    for path, ready in (("", "#newest a"), ("micrographs", "#rows tr"), ("micrograph?seq=1", "#tune input")):
        page.goto(blob_daemon.page + path)
        page.locator(ready).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(int(part) for part in dark.removeprefix("rgb(").rstrip(")").split(",")) < 150
        nameless = "[...document.querySelectorAll('button, input, a')].filter(e => !({})).length"
        assert page.evaluate(nameless.format("e.textContent.trim() || e.ariaLabel || e.labels?.length")) == 0, path
        look.keep(page, f"phone-{path.partition('?')[0] or 'overview'}")


def test_what_is_wrong_and_what_is_passed_over_is_on_the_page_as_frazil_status_says_it(
    blob_daemon: Any, make_scene: Callable[..., Any], write_mrc: Write, look: Looker
) -> None:
    watched = blob_daemon.watched
    (watched / "movie.tif").touch()
    wide = look.open(blob_daemon.page)
    phone = look.open(blob_daemon.page, size=(390, 844))
    for page in (wide, phone):
        page.locator("#verdict", has_text="Yes, but: ").wait_for()
        page.locator("#troubles", has_text="Nothing in the watched directory is taken").wait_for()
        page.locator("#troubles", has_text="give --include '*.tif'").wait_for()
    many, none = make_scene((320, 448), count=14).pixels, make_scene((320, 448), count=0).pixels
    for k in range(13):
        write_mrc(watched / f"{k}.mrc", many if k < 3 else none)
        blob_daemon.wait_log(rf"picked {k}\.mrc")
    for name in ("bad.mrc", "worse.mrc", "x_PS.mrc"):
        (watched / name).write_bytes(b"no micrograph" * 100)
    for page in (wide, phone):
        page.locator("#troubles", has_text="2 of 15 micrographs could not be picked").wait_for()
        page.locator("#troubles", has_text="Hardly any picks: median 0 in the last 10 micrographs").wait_for()
        page.locator("#troubles", has_text="Nothing in the watched").wait_for(state="detached")
        page.get_by_text("2 files and folders are passed over").click()
        page.locator(
            "#passed-over", has_text="1 written beside micrographs by other programs (such as x_PS.mrc)"
        ).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    look.keep(wide, "troubles")
    look.keep(phone, "troubles-phone")
    status = subprocess.run(
        [Path(sys.executable).parent / "frazil", "status", "--ledger", blob_daemon.out],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = [text.removeprefix("! ") for text in wide.locator("#troubles li").all_inner_texts()]
    assert [line.removeprefix("look: ") for line in status.splitlines() if line.startswith("look: ")] == told
    assert "passed over: 1 not named by the setting include (such as movie.tif), 1 written beside" in status
    assert "nothing needs you" not in status
