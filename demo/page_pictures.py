"""Makes the pictures of the page that stand in the docs, from a real daemon and a folder of micrographs.

``python demo/page_pictures.py --micrographs DIR --diameter 191 --out docs/images`` needs Debian's chromium and
playwright (the extra ``dev``).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PATIENCE_MS = 300_000
JPEG: Any = {"type": "jpeg", "quality": 78}


def main() -> None:
    """Pick the micrographs, and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=Path, required=True)
    parser.add_argument("--diameter", type=float, required=True, help="of the particle, in Å")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titan1-") as top:
        watched = Path(top) / "session42"
        watched.mkdir()
        command = [sys.executable, "-c", "from frazil.commands.cli import main; main()", "serve", "--device", "cpu"]
        command += ["--watch", str(watched), "--out", f"{top}/picks", "--diameter", str(given.diameter)]
        command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
        with (Path(top) / "log").open("w+") as log:
            daemon = subprocess.Popen(command, stderr=log)
            try:
                address = address_of(daemon, Path(log.name))
                token = Path(top, "picks", "frazil-page-token").read_text().strip()
                look(address, sorted(given.micrographs.glob("*.mrc")), watched, given.out, token)
            finally:
                daemon.terminate()
                daemon.wait()


def address_of(daemon: subprocess.Popen[bytes], log: Path) -> str:
    """The page's address, once the daemon is ready."""
    while daemon.poll() is None:
        if found := re.search(r"page on (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def outline(page: Any, corners: list[tuple[float, float]]) -> None:
    """Outline junk on the picture; corners are fractions of its width and height."""
    page.keyboard.press("x")
    box = page.locator("#viewer svg.canvas").bounding_box()
    for k, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if k == 0:
            page.mouse.down()
    page.mouse.up()


def look(address: str, micrographs: list[Path], watched: Path, out: Path, token: str) -> None:
    """Give the daemon micrographs, and take the pictures."""
    for k, file in enumerate(micrographs):
        aside = watched / ".copy.tmp"
        shutil.copyfile(file, aside)
        aside.rename(watched / file.name)
        while urllib.request.urlopen(f"{address}api/now").read().count(b'"picks":') <= min(k, 8):
            time.sleep(0.2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--disable-gpu"])
        desktop = browser.new_page(viewport={"width": 1400, "height": 1000})
        desktop.set_default_timeout(PATIENCE_MS)
        desktop.goto(address)
        desktop.locator("#viewer .picks .pick").first.wait_for(state="attached")
        desktop.wait_for_load_state("load")
        for picture in desktop.locator(".photograph").all():
            desktop.evaluate("address => fetch(address).then(answer => answer.blob())", picture.get_attribute("href"))
        desktop.wait_for_timeout(3000)
        desktop.screenshot(path=out / "page-overview.jpg", **JPEG)
        desktop.goto(f"{address}micrograph?seq={min(3, len(micrographs))}&sort=picks&order=up")
        desktop.locator("#strip a[aria-current]").wait_for()
        desktop.get_by_role("button", name="Sign in").click()
        desktop.locator("dialog [name=token]").fill(token)
        desktop.locator("dialog [name=token]").press("Enter")
        outline(desktop, [(0.66, 0.06), (0.97, 0.06), (0.97, 0.4), (0.75, 0.3)])
        desktop.get_by_text("All changes are saved.").wait_for()
        desktop.mouse.move(0, 0)
        desktop.wait_for_timeout(3000)
        desktop.screenshot(path=out / "page-workbench.jpg", **JPEG)
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
        phone.set_default_timeout(PATIENCE_MS)
        phone.goto(f"{address}micrograph?seq=1")
        phone.locator("#viewer .picks .pick").first.wait_for(state="attached")
        phone.get_by_role("checkbox", name="Below the threshold").check()
        phone.locator("[name=threshold]").fill("0.6")
        phone.get_by_text("picks instead of").wait_for()
        phone.evaluate("scrollTo(0, 0)")
        phone.wait_for_timeout(3000)
        phone.screenshot(path=out / "page-phone.jpg", **JPEG)
        browser.close()


if __name__ == "__main__":
    main()
