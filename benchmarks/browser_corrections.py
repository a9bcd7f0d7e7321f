"""A micrograph corrected in a real browser, as a person does it: picks are clicked away, and clicked in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from frazil.picking import Picks, match_picks

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["correct_by_clicks", "differences", "open_browser", "sign_in"]

_CHROMIUM = "/usr/bin/chromium"
_SIZE = {"width": 2000, "height": 1900}
"""Of the window: a pixel of the screen is a few of the micrograph."""
_PATIENCE_MS = 240_000


@contextmanager
def open_browser() -> Iterator[Page]:
    """A page in Debian's chromium; it needs playwright (the extra ``dev``)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--disable-gpu"])
        page = browser.new_page(viewport=_SIZE)
        page.set_default_timeout(_PATIENCE_MS)
        yield page
        browser.close()


def sign_in(page: Page, token: str, name: str) -> None:
    """Sign in with the daemon's token, under a name."""
    page.get_by_role("button", name="Sign in").click()
    page.locator("dialog [name=token]").fill(token)
    page.locator("dialog [name=name]").fill(name)
    page.locator("dialog [name=token]").press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


def differences(picks: Picks, truth: Picks, diameter_px: float) -> tuple[Picks, Picks]:
    """The picks that are no particle, and the particles that are missed, within half a diameter."""
    hit = match_picks(picks, truth, diameter_px / 2)
    return picks.select(hit < 0), truth.select(np.setdiff1d(np.arange(len(truth)), hit))


def correct_by_clicks(page: Page, url: str, path: str, picks: Picks, truth: Picks, diameter_px: float) -> int:
    """Correct a micrograph until it is saved: by clicks, and by keys where something lies over the picture.

    A particle that is missed within half a diameter of another pick is left out: a click there takes that pick away.

    Args:
        page: of a browser that is signed in.
        url: of the daemon's page, with a slash at its end.
        path: the ledger's name of the micrograph.
        picks: the model's.
        truth: the particles.
        diameter_px: of the particle.

    Returns:
        The number of clicks.
    """
    page.goto(f"{url}micrograph?path={path}")
    page.locator("#viewer svg.canvas").wait_for()
    page.locator("#changes").wait_for()
    page.keyboard.press("e")
    wrong, missed = differences(picks, truth, diameter_px)
    kept = picks.select(_nearest(picks, wrong) > 0) if len(wrong) else picks
    missed = missed.select(_nearest(missed, kept) > diameter_px / 2)
    for y, x in zip([*wrong.y, *missed.y], [*wrong.x, *missed.x], strict=True):
        _click(page, float(y), float(x), diameter_px)
    count = len(wrong) + len(missed)
    if not count:
        page.keyboard.press("g")
    page.locator("#saved", has_text="All changes are saved.").wait_for()
    return count


def _nearest(picks: Picks, others: Picks) -> NDArray[np.float64]:
    """(n,) distance of each pick to the nearest of others, in px; infinite without any."""
    if not len(others):
        return np.full(len(picks), np.inf)
    away = np.hypot(np.subtract.outer(picks.y, others.y), np.subtract.outer(picks.x, others.x))
    return np.asarray(away.min(axis=1), np.float64)


def _click(page: Page, y: float, x: float, diameter_px: float) -> None:
    across, down, is_free, middle_x, middle_y = page.evaluate(
        """([y, x]) => {
          const svg = document.querySelector('#viewer svg.canvas');
          const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
          const box = svg.viewBox.baseVal;
          const isFree = svg.contains(document.elementFromPoint(at.x, at.y));
          return [at.x, at.y, isFree, box.x + box.width / 2, box.y + box.height / 2];
        }""",
        [y, x],
    )
    if is_free:
        page.mouse.click(across, down)
        return
    page.keyboard.press("l")
    page.keyboard.press("e")  # the cross begins in the middle
    for by, (back, forth) in ((x - middle_x, ("ArrowLeft", "ArrowRight")), (y - middle_y, ("ArrowUp", "ArrowDown"))):
        for _ in range(round(abs(by) / (diameter_px / 4))):
            page.keyboard.press(forth if by > 0 else back)
    page.keyboard.press("Enter")
