"""The quality of micrographs in a real browser: in the list, of one, and of the session."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from frazil.documents import CtfFit, QualityDocument
from frazil.session.correct import MarkMicrograph

if TYPE_CHECKING:
    from conftest import Looker
    from playwright.sync_api import Page

pytestmark = pytest.mark.system

PATIENCE_SECONDS = 240.0


def quality(path: str, of: int, **found: Any) -> QualityDocument:
    plain: dict[str, Any] = {
        "epoch": "",
        "seq": 0,
        "micrograph": path,
        "path": f"/data/{path}",
        "of": of,
        "grade": "good",
        "picks": 4,
        "usable_fraction": 0.9,
        "pixel_size_angstrom": 1.0,
        "assessed_at": "2026-11-28T12:00:00+00:00",
    }
    return QualityDocument(**(plain | found))


def ctf(defocus_angstrom: float, resolution_angstrom: float, **more: Any) -> CtfFit:
    return CtfFit(
        defocus_u_angstrom=defocus_angstrom + 200,
        defocus_v_angstrom=defocus_angstrom - 200,
        defocus_angle_deg=30,
        resolution_angstrom=resolution_angstrom,
        correlation=0.9,
        voltage_kv=300,
        cs_mm=2.7,
        amplitude_contrast=0.1,
        **more,
    )


@pytest.fixture
def assessed(open_page: Callable[..., Any], open_rig: Callable[..., Any]) -> Any:
    """A page over five micrographs: two good, one doubtful, one bad, and one that waits to be assessed."""
    page = open_page()
    rig = open_rig(page.ledger)
    found: dict[str, dict[str, Any]] = {
        "a.mrc": {"ctf": ctf(10_000, 4.0), "relative_ice_thickness": 0.1, "estimated_precision": 0.9},
        "b.mrc": {
            "grade": "bad",
            "category": "crystalline ice",
            "reasons": ["ring of ice at 3.7 Å, 2.1 times as strong as beside it"],
            "ctf": ctf(22_000, 9.0),
            "relative_ice_thickness": 0.7,
            "junk_fraction": 0.4,
            "estimated_precision": 0.3,
        },
        "c.mrc": {"ctf": ctf(15_000, 5.0), "relative_ice_thickness": 0.2, "estimated_precision": 0.8},
        "d.mrc": {
            "grade": "doubtful",
            "reasons": ["30 % of it is junk, 20 % are allowed"],
            "ctf": ctf(50_000, 30.0, is_reliable=False, doubt="no rings where the fit has them"),
            "junk_fraction": 0.3,
        },
    }
    for path, values in found.items():
        rig.outbox.commit(quality(path, rig.pick(path), **values), key=path, fingerprint="f")
    rig.pick("e.mrc")
    page.rig = rig
    return page


def names(page: Page) -> list[str]:
    return page.locator("#rows tr th").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_is_sorted_and_filtered_by_quality(assessed: Any, look: Looker, scheme: str) -> None:
    page = look.open(f"{assessed.url}/micrographs?sort=grade&order=up", scheme=scheme)
    page.locator("#rows tr").nth(4).wait_for()
    assert names(page) == ["b.mrc", "d.mrc", "a.mrc", "c.mrc", "e.mrc"]
    assert page.locator("#rows tr").first.inner_text().split("\t")[3:9] == [
        "✕ bad: crystalline ice", "4", "0.50", "0.30", "2.20", "9.0",
    ]  # fmt: skip
    look.check(page, f"quality-list-{scheme}")
    for sort, expected in (
        ("Estimated precision, lowest first", ["b.mrc", "c.mrc", "a.mrc"]),
        ("Defocus, highest first", ["b.mrc", "c.mrc", "a.mrc"]),
        ("CTF fit, best first", ["a.mrc", "c.mrc", "b.mrc"]),
        ("Ice, thinnest first", ["a.mrc", "c.mrc", "b.mrc"]),
        ("Junk, most first", ["b.mrc", "d.mrc"]),
    ):
        page.get_by_label("Sorted by").select_option(sort)
        page.wait_for_function(
            "wanted => [...document.querySelectorAll('#rows tr th')].map(e => e.textContent).join().startsWith(wanted)",
            arg=",".join(expected),
        )
    page.get_by_label("What is wrong").select_option("crystalline ice")
    page.get_by_text("1 to 1 of one micrograph").wait_for()
    page.get_by_label("What is wrong").select_option("")
    page.get_by_label("Worth").select_option("only good")
    page.get_by_text("1 to 2 of 2 micrographs").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert sorted(bundle.namelist()) == ["a_picks.star", "c_picks.star"]
    page.get_by_label("Format of the download").select_option("micrographs.star")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    assert download.value.suggested_filename == "micrographs_good.star"
    table = download.value.path().read_text()
    assert [line.split()[0].rpartition("/")[2] for line in table.splitlines() if ".mrc" in line] == ["a.mrc", "c.mrc"]
    page.get_by_label("Worth").select_option("all but bad")
    page.get_by_text("1 to 3 of 3 micrographs").wait_for()
    page.get_by_label("Worth").select_option("only good")
    page.get_by_text("1 to 2 of 2 micrographs").wait_for()
    # A person's mark decides before the grade.
    for k, (path, mark) in enumerate((("a.mrc", "bad"), ("d.mrc", "good"))):
        assessed.rig.leave((MarkMicrograph, {"mark": mark}), key=path, first=k)
    assessed.rig.grant()
    page.reload()
    page.locator("#rows th", has_text="d.mrc").wait_for()
    assert sorted(names(page)) == ["c.mrc", "d.mrc"]


def test_what_is_to_be_looked_at_is_gone_through_by_a_key_and_has_its_reasons(assessed: Any, look: Looker) -> None:
    page = look.open(f"{assessed.url}/micrograph?path=a.mrc&sort=name&order=up")
    page.locator("#assessed dt", has_text="Defocus").wait_for()
    page.locator("#measured", has_text="1.00 µm").wait_for()
    page.locator("#measured", has_text="4.0 Å").wait_for()
    look.expected.append("404")  # there is no file to make a picture of
    for key, name in (("n", "b.mrc"), ("n", "d.mrc"), ("N", "b.mrc")):
        page.keyboard.press(key)
        page.locator("h1", has_text=name).wait_for()
        page.locator("#strip a[aria-current]", has_text="4 ·").wait_for()
    page.locator("#grade", has_text="bad: crystalline ice").wait_for()
    page.locator("#reasons", has_text="ring of ice at 3.7 Å, 2.1 times as strong as beside it").wait_for()
    look.check(page, "quality-one")
    page.goto(f"{assessed.url}/micrograph?path=e.mrc")
    page.locator("#facts dt", has_text="Picks").wait_for()
    assert page.locator("#assessed").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_session_is_seen_in_grades_histograms_and_by_number(assessed: Any, look: Looker, scheme: str) -> None:
    page = look.open(f"{assessed.url}/quality", scheme=scheme)
    page.locator("#verdict", has_text="2 of 4 assessed micrographs are good. 1 waits to be assessed.").wait_for()
    page.locator("#plot-defocus_um svg[aria-label*='3 points']").wait_for()
    page.locator("#bars-defocus_um svg[aria-label='Defocus, µm of 3 micrographs, 1.00 to 2.20']").wait_for()
    assert page.locator("#bars-ice .bar").count() == 30
    look.check(page, f"quality-session-{scheme}")
    assessed.rig.outbox.commit(quality("e.mrc", 9), key="e.mrc", fingerprint="f")
    page.locator("#verdict", has_text="3 of 5 assessed micrographs are good.").wait_for()  # without a reload
    page.locator("#categories a", has_text="crystalline ice").click()
    page.get_by_text("1 to 1 of one micrograph").wait_for()
    assert names(page) == ["b.mrc"]


def test_a_session_that_is_not_assessed_has_no_columns_of_nothing(
    open_page: Callable[..., Any], open_rig: Callable[..., Any], look: Looker
) -> None:
    page = open_page()
    open_rig(page.ledger).pick("a.mrc")
    looked = look.open(f"{page.url}/micrographs")
    looked.locator("#rows tr").wait_for()
    assert not looked.get_by_label("Worth").is_visible()
    assert looked.locator("#rows .quality").first.is_hidden()


def test_a_daemons_assessments_come_up_without_a_reload(
    serve: Callable[..., Any],
    blob_model: Path,
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    look: Looker,
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--assess")
    page = look.open(f"{daemon.page}quality")
    page.get_by_text("Nothing is assessed as yet.").wait_for()
    for k in range(3):
        write_mrc(daemon.watched / f"{k}.mrc", make_scene((800, 1120), count=6, seed=k).pixels)
    page.locator("#verdict", has_text="of 3 assessed micrographs").wait_for()
    with urllib.request.urlopen(f"{daemon.page}api/quality?path=0.mrc", timeout=PATIENCE_SECONDS) as answer:
        found = json.load(answer)["quality"]
    assert (found["micrograph"], found["type"]) == ("0.mrc", "quality")
    page.goto(f"{daemon.page}micrograph?path=0.mrc")
    page.locator("#grade", has_text=found["grade"]).wait_for()
    # What is seen is the spectrum of its own file: a square, zero frequency in its middle.
    picture = page.locator("#spectrum img")
    page.locator("#spectrum").wait_for()
    wide, high = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert wide == high > 100
    with urllib.request.urlopen(f"{daemon.page}api/spectrum/{found['seq']}", timeout=PATIENCE_SECONDS) as answer:
        drawn = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (high, wide, 3)
    assert drawn[:, : wide // 2].std() > 10
    for number, why in ((1, "expected the number of an assessment"), (10**9, "expected the number of an assessment")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{daemon.page}api/spectrum/{number}", timeout=PATIENCE_SECONDS)
        assert why in refused.value.read().decode()
