"""How a session learns, in a real browser over a real daemon: what a follower writes is played, the rest is real."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from frazil.model import (
    F1,
    Following,
    Training,
    identify_model,
    learned_folder,
    read_card,
    write_card,
    write_following,
    write_trainings,
)
from frazil.page.gate import TOKEN_NAME

if TYPE_CHECKING:
    from conftest import Looker
    from playwright.sync_api import Page

pytestmark = pytest.mark.system

NAMES = tuple(f"{k}.mrc" for k in range(5))
BLIND = -60.0


@pytest.fixture
def daemon(
    serve: Callable[..., Any], blob_model: Path, make_scene: Callable[..., Any], write_mrc: Callable[..., Path]
) -> Any:
    """A daemon that has picked five micrographs."""
    started = serve("--diameter", "48", "--model", blob_model)
    for k, name in enumerate(NAMES):
        write_mrc(started.watched / f".{name}", make_scene((400, 560), count=4 + k, seed=k).pixels)
        (started.watched / f".{name}").rename(started.watched / name)
    for name in NAMES:
        started.wait_log(rf"picked {name}")
    return started


def make_version(make_blob_model: Callable[..., Path], out: Path, version: int, **changes: Any) -> Path:
    """A version of the session's own model, as a follower leaves it: nothing is promoted."""
    folder = learned_folder(out)
    current = folder / "CURRENT"
    kept = current.read_text() if current.exists() else ""
    aside = make_blob_model(out / "aside" / str(version), 1, **changes) / "1"
    write_card(
        aside / "card.json",
        msgspec.structs.replace(read_card(aside / "card.json"), run={"kept_out": [{"path": NAMES[0]}]}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    aside.rename(folder / str(version))
    assert (current.read_text() if current.exists() else "") == kept
    return folder / str(version)


def make_training(state: str, began: float, version: Path | None = None, after: float = 0.8, **more: Any) -> Training:
    made = identify_model(version) if version else None
    return Training(
        state=state,  # type: ignore[arg-type]
        started_at=began,
        updated_at=time.time(),
        session="",
        parent=more.pop("parent"),
        learnt_from=NAMES[1:3],
        kept_out=NAMES[:1],
        minutes=2.5,
        loss=(0.31, 0.22, 0.17, 0.16, 0.151),
        version=made.version if made else 0,
        sha256=made.sha256 if made else "",
        f1=F1(before=0.7, after=after, micrographs=1, particles=4) if made else None,
        **more,
    )


def promote(page: Page, version: int) -> None:
    page.get_by_role("button", name=f"Promote version {version}").click()
    page.locator("dialog", has_text=f"Promote version {version}?").get_by_role("button", name="Promote").click()


def sign_in_where_asked(page: Page, token: str) -> None:
    page.locator("dialog [name=token]").fill(token)
    page.locator("dialog [name=token]").press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


def test_a_session_is_seen_to_learn_and_what_it_learnt_is_promoted_refused_and_withdrawn(
    daemon: Any, blob_model: Path, make_blob_model: Callable[..., Path], look: Looker
) -> None:
    token = (daemon.out / TOKEN_NAME).read_text().strip()
    folder = learned_folder(daemon.out)
    folder.mkdir(parents=True)
    parent = identify_model(blob_model)
    dark = look.open(f"{daemon.page}learning", scheme="dark")
    page = look.open(f"{daemon.page}learning")
    look.expected.append("401")  # who is not signed in is asked, and a browser itself reports it

    # Nobody follows; what to type is said.
    page.get_by_text("no follower of this session runs").wait_for()
    command = page.locator("#follower code").inner_text()
    assert command.startswith(f"frazil-train follow {daemon.stream} --from ")
    assert command.endswith(f" --out {daemon.out}")
    page.get_by_text("Nothing is corrected as yet").wait_for()
    page.locator("#proposals li svg .pick").nth(2).wait_for(state="attached")
    assert page.locator("#proposals li").count() == 3

    # A proposal leads to the workbench, and what is done there is seen here.
    proposed = page.locator("#proposals a .name").first.inner_text()
    page.locator("#proposals a").first.click()
    page.locator("h1", has_text=proposed).wait_for()
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    page.keyboard.press("g")
    sign_in_where_asked(page, token)
    page.locator("#saved", has_text="All changes are saved.").wait_for()
    page.goto(f"{daemon.page}micrograph?path={NAMES[0]}")
    page.locator("#viewer .picks .pick").first.wait_for(state="attached")
    if proposed != NAMES[0]:
        page.keyboard.press("g")
        page.locator("#saved", has_text="All changes are saved.").wait_for()
    corrected = "1 micrograph" if proposed == NAMES[0] else "2 micrographs"
    dark.locator("#facts", has_text=corrected).wait_for()
    dark.locator("#verdict", has_text=f"F1 1.00: how well the picks of {parent.short} agree").wait_for()
    left = "name => ![...document.querySelectorAll('#proposals .name')].some(n => n.textContent === name)"
    dark.wait_for_function(left, arg=proposed)
    page.goto(f"{daemon.page}learning")
    page.evaluate("window.sameDocument = true")

    # A follower waits, trains, and offers.
    write_following(folder, Following(updated_at=time.time(), after=3, waiting=2, promotes=False))
    page.get_by_text("Correct 1 more micrograph, and a training begins.").wait_for()
    began = time.time() - 40
    write_trainings(folder, [make_training("training", began, parent=parent)])
    page.get_by_text("5 epochs, loss 0.151").wait_for()
    page.locator("#trainings progress").wait_for()
    page.locator("#trainings figure svg .line").wait_for()
    look.check(page, "learning-trains")
    version = make_version(make_blob_model, daemon.out, 1, threshold=0.55)
    failed = make_training("failed", began - 900, parent=parent, reason="expected at least 8 particles, found 3")
    offered = make_training("offered", began, version, parent=parent)
    write_trainings(folder, [failed, offered])
    page.locator("#trainings li", has_text="Version 1").get_by_text("waits for you").wait_for()
    page.get_by_text("Expected at least 8 particles, found 3.").wait_for()
    promote(page, 1)
    page.locator("#trainings li", has_text="Version 1").get_by_text("serves now").wait_for()
    daemon.wait_log(r"model learned/1 .* serves from here on")
    page.locator("#facts", has_text="learned/1").wait_for()

    # One that is worse is refused by the daemon, and the reason is read here.
    blind = make_version(make_blob_model, daemon.out, 2, bias=BLIND)
    write_trainings(folder, [failed, offered, make_training("offered", began + 20, blind, parent=parent)])
    promote(page, 2)
    refused = page.locator("#trainings > li", has_text="Version 2")
    refused.get_by_text("refused by the daemon").wait_for()
    refused.get_by_text("found F1 0.000").wait_for()
    assert refused.get_by_role("button").count() == 0
    look.check(page, "learning-light")
    dark.get_by_text("refused by the daemon").wait_for()
    look.check(dark, "learning-dark")

    page.get_by_role("button", name="Withdraw the session").click()
    page.locator("dialog").get_by_role("button", name="Withdraw").click()
    page.locator("#trainings li", has_text="Version 1").get_by_text("served before").wait_for()
    page.locator("#facts", has_text=parent.short).wait_for()
    assert not (folder / "CURRENT").exists()
    assert page.evaluate("window.sameDocument")
