"""The grid on the page, in a real browser: from an EPU tree that a real daemon watches, and with forty squares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.epu_tree import exposure_path, write_exposure
from benchmarks.squares import expose, plant, visits
from frazil.client import PickStream
from frazil.documents import Place, QualityDocument, SquareDocument

if TYPE_CHECKING:
    from conftest import Looker

pytestmark = pytest.mark.system


@pytest.fixture
def gridded(open_page: Callable[..., Any], open_rig: Callable[..., Any]) -> Any:
    """A page over the first tenth of a session of forty squares."""
    page = open_page()
    page.rig = open_rig(page.ledger)
    rng = np.random.default_rng(5)
    page.planted = plant(rng)
    order = visits(page.planted, "screened", rng)
    order = order[: len(order) // 10]
    for number, index in enumerate(order):
        exposure, name = expose(page.planted[index], number, rng), f"{number:04}.mrc"
        page.rig.outbox.commit(
            QualityDocument(
                epoch="",
                seq=0,
                micrograph=name,
                path=f"/data/{name}",
                of=page.rig.pick(name),
                grade=exposure.grade,
                picks=exposure.picks,
                usable_fraction=0.9,
                pixel_size_angstrom=1.0,
                relative_ice_thickness=exposure.relative_ice_thickness,
                place=Place(
                    square=exposure.square,
                    hole=exposure.hole,
                    stage_x_um=exposure.stage_x_um,
                    stage_y_um=exposure.stage_y_um,
                ),
            ),
            key=name,
        )
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forty_squares_are_drawn_where_they_lie_and_ranked(gridded: Any, look: Looker, scheme: str) -> None:
    page = look.open(f"{gridded.url}/squares", scheme=scheme)
    page.locator("#map .square").nth(39).wait_for()
    assert page.locator("#map .square").count() == 40
    assert page.locator("#ranking tr").count() == 40
    # A square that lies farther right on the stage is drawn farther right, one that lies higher, higher.
    first, last = (page.locator(f'#map [data-square$="{gridded.planted[k].name}"]').bounding_box() for k in (0, 39))
    assert first is not None
    assert last is not None
    assert first["x"] < last["x"]
    assert first["y"] > last["y"]
    best = page.locator("#ranking tr").first.get_by_role("link").inner_text()
    assert best in page.locator("#verdict").inner_text()
    truly_best = sorted(gridded.planted, key=lambda one: -one.yield_of_exposure)[:10]
    assert best in [one.name for one in truly_best]
    look.check(page, f"squares-{scheme}")

    page.get_by_label("Coloured by").select_option("ice, relative thickness")
    page.locator("#scale", has_text="ice").wait_for()
    square = page.locator(f'#map [data-square$="{best}"]')
    square.focus()
    page.keyboard.press("Enter")
    page.locator("#chosen", has_text=f"Square {best}").wait_for()
    # Its holes, the best first, each where it lies.
    page.locator("#holes tbody tr").nth(3).wait_for()
    holes = page.locator("#holes tbody tr").count()
    assert holes == page.locator("#holes .hole").count()
    given = [int(text.split("×")[0]) for text in page.locator("#holes tbody td:nth-child(2)").all_inner_texts()]
    assert given == sorted(given, reverse=True)
    assert len(given) == holes
    look.check(page, f"squares-{scheme}-chosen")
    page.locator("#chosen").get_by_role("link", name="Its micrographs").click()
    page.locator("#rows tr").nth(3).wait_for()
    assert page.locator("#rows tr").count() in (4, 5, 6)
    assert page.locator("[name=square]").input_value() == best


def test_a_daemon_that_watches_an_epu_tree_shows_and_publishes_its_squares(
    serve: Callable[..., Any],
    blob_model: Path,
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    look: Looker,
    tmp_path: Path,
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model, "--scan", "0.5", "--assess")
    expected: dict[str, int] = {}
    for number in range(6):
        square = f"{7000001 + number % 3}"
        base = exposure_path(daemon.watched, square, 100 + number, number)
        write_exposure(base, stage_um=(100.0 * (number % 3), 50.0))
        aside = write_mrc(tmp_path / "aside.mrc", make_scene((400, 560), count=3 + number, seed=number).pixels)
        shutil.move(aside, base.with_name(f"{base.name}.mrc"))
        expected[square] = expected.get(square, 0) + 1

    told: dict[str, SquareDocument] = {}
    with PickStream(daemon.stream, topics=["square"], since=1, timeout_seconds=240) as stream:
        for document in stream:
            assert isinstance(document, SquareDocument)
            told[document.square] = document
            if {square: one.micrographs for square, one in told.items()} == expected:
                break
    assert {square: (one.stage_x_um, one.stage_y_um) for square, one in told.items()} == {
        f"{7000001 + k}": (100.0 * k, 50.0) for k in range(3)
    }
    page = look.open(f"{daemon.page}squares")
    page.locator("#map .square").nth(2).wait_for()
    page.get_by_text("3 squares so far").wait_for()
