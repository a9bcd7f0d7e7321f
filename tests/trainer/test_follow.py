"""A session learns: what was corrected is gathered, learnt from, compared and offered, and nothing else is touched."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest
from rich.console import Console

from benchmarks.browser_corrections import correct_by_clicks, differences, open_browser, sign_in
from frazil.client import PickStream
from frazil.documents import Corrections, MicrographDocument
from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.health.metrics import Metrics
from frazil.model import (
    ServingRecord,
    kept_out_of,
    learned_folder,
    load_model,
    post_serving_record,
    read_card,
    read_following,
    read_trainings,
)
from frazil.picking import HitCount, Picker, PickingSettings, Picks, read_micrograph, read_star
from frazil.record import record_picks
from frazil.session.correct import AddPick, DeletePick, Edit, MarkMicrograph
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, leave_edits
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.granter import Granter
from frazil.session.retune import Reviser
from frazil_trainer.adapt.adaptation import AdaptationSettings
from frazil_trainer.follow.corrected import CorrectedSet
from frazil_trainer.follow.follower import Follower, FollowSettings
from frazil_trainer.follow.lesson import plan_lesson
from frazil_trainer.simulate import density_model

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(600)]

DIAMETER_ANGSTROM = density_model("galactosidase").diameter_angstrom
SETTINGS = PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM)
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
QUICK = AdaptationSettings(minutes=0.2, device="cpu", threads=1, replay_micrographs=2)
NAMES = tuple(f"simulated_000{number}.mrc" for number in (1, 2, 3))
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Session:
    """A session as a subscriber sees it: a stream and a ledger, where micrographs are picked and corrected."""

    def __init__(self, model: Path, watched: Path, folder: Path) -> None:
        self.model, self.watched, self.out = model, watched, folder / "out"
        self.out.mkdir()
        self.own = learned_folder(self.out)
        self.ledger = Ledger(folder / "ledger")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=metrics)
        channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)
        self.outbox = Outbox(self.ledger, channel, metrics, watched, self.out, threading.Event())
        self.reviser = Reviser(self.ledger, self.outbox, SETTINGS)

    def pick(self) -> None:
        picker = Picker(load_model(self.model, "cpu"), SETTINGS)
        for name in NAMES:
            micrograph = read_micrograph(self.watched / name, as_stored=True)
            record = record_picks(picker, micrograph, read_seconds=0, since=0)
            self.outbox.commit(record.document, key=name, handled=HANDLED)

    def correct(self, *names: str) -> None:
        """Delete what has no label, and add what was missed."""
        self.edit([edit for name in names for edit in edits_of(self.ledger.file, name, self.watched / name)])

    def edit(self, edits: list[Edit]) -> None:
        assert leave_edits(self.ledger.file, edits).refused == []
        granter = Granter(self.ledger, self.outbox, self.reviser)
        while self.ledger.next_to_correct() is not None:
            granter._next_look = 0.0
            granter.grant_next()

    def follower(self, **settings: Any) -> Follower:
        chosen = FollowSettings(**{"quiet_seconds": 0.0, "once": True} | settings)
        return Follower(self.model, self.out, Console(quiet=True), settings=chosen, adaptation=QUICK)

    def close(self) -> None:
        self.reviser.close()
        self.stream.close()
        self.ledger.close()


def newest(ledger: Path, name: str) -> MicrographDocument:
    with LedgerReader(ledger) as reader:
        kept = reader.result(name)
    assert kept is not None
    return msgspec.json.decode(kept.body, type=MicrographDocument)


def picks_of(document: MicrographDocument) -> Picks:
    y, x, score = document.picks.arrays()
    return Picks(y=y, x=x, score=score)


def edits_of(ledger: Path, name: str, micrograph: Path) -> list[Edit]:
    document, truth = newest(ledger, name), read_star(micrograph.with_suffix(".star"))
    false_picks, missed = differences(picks_of(document), truth, document.diameter_px)
    stem = Path(name).stem.replace("_", "-")
    return [
        MarkMicrograph(id=f"mark-{stem}", path=name, mark="good"),
        *(DeletePick(id=f"delete-{stem}-{i}", path=name, y=y, x=x) for i, (x, y, _) in enumerate(false_picks.rows())),
        *(AddPick(id=f"add-{stem}-{i}", path=name, y=y, x=x) for i, (x, y, _) in enumerate(missed.rows())),
    ]


@pytest.fixture
def session(fcn_parent: Path, simulated_data: Path, tmp_path: Path) -> Iterator[Session]:
    """Three micrographs are picked by a model that knows another particle."""
    made = Session(fcn_parent, simulated_data / "small", tmp_path)
    made.pick()
    yield made
    made.close()


# --- what is gathered ---------------------------------------------------------------------------------------------


def document(name: str = "a.mrc", at: str = "1", mark: str = "", epoch: str = "e", picks: int = 1) -> Any:
    columns = {"y": [1.0] * picks, "x": [1.0] * picks, "score": [1.0] * picks}
    corrections = {"at": at, "by": [], "mark": mark, "added": [], "deleted": 0, "junk": []} if at else msgspec.UNSET
    plain = {
        "type": "micrograph",
        "epoch": epoch,
        "seq": 1,
        "micrograph": name,
        "path": f"/data/{name}",
        "shape": (10, 10),
        "pixel_size_angstrom": 1.0,
        "diameter_px": 5.0,
        "model": {"name": "m", "version": 1, "sha256": "0"},
        "threshold": 0.5,
        "picks": columns,
        "seconds": dict.fromkeys(("read", "prepare", "infer", "peaks", "total"), 0.0),
    }
    made = msgspec.convert(plain, MicrographDocument)
    if not at:
        return made
    return msgspec.structs.replace(made, corrections=msgspec.convert(corrections, Corrections))


def test_every_third_micrograph_is_kept_out_and_stays_so(tmp_path: Path) -> None:
    gathered = CorrectedSet(tmp_path)
    for name in "abcdef":
        assert gathered.take(document(name))
    assert [one.path for one in gathered.all if one.is_kept_out] == ["c", "f"]
    assert gathered.take(document("a", at=""))  # all was undone
    assert gathered.take(document("b", at="2", mark="bad"))
    again = CorrectedSet(tmp_path)
    assert [one.path for one in again.all] == ["c", "d", "e", "f"]
    assert [one.path for one in again.all if one.is_kept_out] == ["c", "f"]


def test_what_is_picked_anew_under_the_same_corrections_changes_nothing(tmp_path: Path) -> None:
    gathered = CorrectedSet(tmp_path)
    gathered.take(document(at="1", picks=3))
    assert not gathered.take(document(at="1", picks=1))
    assert len(gathered.all[0].picks) == 3
    assert gathered.take(document(at="2", picks=2))
    assert len(CorrectedSet(tmp_path).all[0].picks) == 2
    assert not gathered.take(document("b", at=""))


def test_another_ledger_begins_anew(tmp_path: Path) -> None:
    gathered = CorrectedSet(tmp_path)
    gathered.take(document("a"))
    gathered.take(document("b", epoch="other"))
    assert [one.path for one in CorrectedSet(tmp_path).all] == ["b"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "000001.json").write_text("{")
    with pytest.raises(FrazilError, match=r"000001\.json: expected a corrected micrograph"):
        CorrectedSet(tmp_path)


def test_what_cannot_be_learnt_from_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gathered = CorrectedSet(tmp_path / "gathered")
    for name, picks in (("empty.mrc", 0), ("packed.mrc.bz2", 1), ("gone.mrc", 1)):
        gathered.take(document(name, picks=picks))
    with pytest.raises(FrazilError, match="expected corrected micrographs to learn from, found none of 3 usable"):
        plan_lesson(gathered.all, Console())
    said = capsys.readouterr().out
    for line in ("no particle is left in it", "only files that end in", "the file is not there"):
        assert line in said


def test_of_very_many_the_last_ones_are_taken(tmp_path: Path) -> None:
    gathered = CorrectedSet(tmp_path / "gathered")
    for number in range(1, 181):
        (tmp_path / f"{number:03}.mrc").touch()
        name = f"{number:03}.mrc"
        gathered.take(msgspec.structs.replace(document(name), path=str(tmp_path / name)))
    lesson = plan_lesson(gathered.all, Console(quiet=True))
    assert (len(lesson.learnt_from), lesson.learnt_from[-1].number) == (100, 179)
    assert (len(lesson.kept_out), lesson.kept_out[-1].number) == (20, 180)


# --- one follower -------------------------------------------------------------------------------------------------


def follow_command(session: Session, *options: object) -> list[str]:
    command = [BIN / "frazil-train", "follow", session.stream.address, "--from", session.model, "--out", session.out]
    command += ["--once", "--quiet", 0, "--minutes", 0.2, "--device", "cpu", "--threads", 1, *options]
    return [str(part) for part in command]


def test_a_killed_trainer_leaves_all_as_it_was_and_the_next_one_offers_what_is_better(session: Session) -> None:
    session.correct(*NAMES)
    killed = subprocess.Popen(follow_command(session, "--minutes", 5), stderr=subprocess.DEVNULL)
    try:
        until(lambda: any(one.state == "training" for one in read_trainings(session.own)))
    finally:
        killed.kill()
        killed.wait()
    assert not (session.own / "CURRENT").exists()

    assert session.follower().run(session.stream.address, None)
    interrupted, offered = read_trainings(session.own)
    assert (interrupted.state, interrupted.reason) == ("failed", "the trainer ended meanwhile")
    assert (offered.state, offered.version, offered.learnt_from, offered.kept_out) == (
        "offered",
        1,
        NAMES[:2],
        NAMES[2:],
    )
    assert offered.loss
    assert offered.f1 is not None
    assert offered.f1.after > offered.f1.before
    assert not (session.own / "CURRENT").exists()
    card = read_card(session.own / "1" / "card.json")
    assert card.run["micrographs"] == list(NAMES[:2])
    kept_out = kept_out_of(card.run)
    assert [(one.path, one.region is None) for one in kept_out] == [
        (NAMES[2], True),
        (NAMES[0], False),
        (NAMES[1], False),
    ]
    # It is better on the micrograph that was kept out, as the labels have it.
    scores = []
    for version in (session.model, session.own / "1"):
        count, picker = HitCount(), Picker(load_model(version, "cpu"), SETTINGS)
        micrograph = read_micrograph(session.watched / NAMES[2], as_stored=True)
        truth = read_star(session.watched / NAMES[2].replace(".mrc", ".star"))
        count.add(picker.pick(micrograph), truth, DIAMETER_ANGSTROM / 3.5)
        scores.append(count.f1)
    assert scores[1] > scores[0]


def test_a_follower_that_waits_says_for_how_many_and_that_it_has_ended(session: Session) -> None:
    command = follow_command(session, "--after", 3)
    waiting = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: read_following(session.own) is not None)
        session.edit([MarkMicrograph(id="mark-0001", path=NAMES[0], mark="good")])
        until(lambda: (following := read_following(session.own)) is not None and following.waiting == 1)
        following = read_following(session.own)
        assert following is not None
        assert (following.after, following.promotes) == (3, False)
        assert time.time() - following.updated_at < PATIENCE_SECONDS
    finally:
        waiting.send_signal(signal.SIGINT)
        waiting.wait()
    assert read_following(session.own) is None
    assert read_trainings(session.own) == []


def test_a_model_that_is_worse_than_the_serving_one_is_not_offered(session: Session, is_long: bool) -> None:
    """What serves is confirmed as it is, so that nothing can be better. The daemon refuses such a one, too."""
    if not is_long:
        pytest.skip("needs --long: a network is trained")
    session.edit([MarkMicrograph(id=f"mark-000{i}", path=name, mark="good") for i, name in enumerate(NAMES)])
    assert not session.follower(promote=True).run(session.stream.address, None)
    (training,) = read_trainings(session.own)
    assert training.state == "failed"
    assert re.search("expected to pick|expected at least|lie off|seem", training.reason), training.reason
    assert not (session.own / "CURRENT").exists()


def test_a_full_disk_ends_the_trainer_with_a_line_and_touches_nothing(session: Session) -> None:
    session.correct(*NAMES)
    limit = 2**14

    def let_files_be_small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        follow_command(session, "--promote"),
        preexec_fn=let_files_be_small,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "frazil-train: error:" in done.stderr, done.stderr
    assert "found it cut short" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (session.own / ".follow" / "learnt.json").exists()  # with room again, it is taken up again
    assert not (session.own / "CURRENT").exists()
    assert not [one for one in session.own.iterdir() if one.name.isdecimal()]


def test_a_second_follower_of_a_session_is_refused(session: Session) -> None:
    first = session.follower()
    with (
        PickStream(session.stream.address, resume=first.folder / ".follow" / "cursor"),
        pytest.raises(OutputError, match="expected no other follower of this session, found one"),
    ):
        session.follower().run(session.stream.address, None)


def test_a_follower_wants_the_output_directory_and_the_model_of_a_session(session: Session, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected the output directory of a session"):
        Follower(session.model, tmp_path / "none", Console(), settings=FollowSettings(), adaptation=QUICK)
    with pytest.raises(FrazilError, match="expected a model's folder"):
        Follower(tmp_path / "none", session.out, Console(), settings=FollowSettings(), adaptation=QUICK)


def test_documents_of_several_sessions_ask_for_a_name(session: Session) -> None:
    follower = session.follower()
    follower._take(msgspec.structs.replace(document("a"), session="one"))
    with pytest.raises(SettingsError, match="--session: expected the name of one"):
        follower._take(msgspec.structs.replace(document("b"), session="two"))


def test_the_serving_model_is_that_of_the_settings_unless_the_daemon_says_otherwise(session: Session) -> None:
    follower = session.follower()
    assert follower._serving() == session.model
    record = ServingRecord(folder=str(session.own), host="", watch="", version=0, sha256="", since="")
    post_serving_record(session.own, "daemon", record)
    assert follower._serving() == session.model
    post_serving_record(session.own, "daemon", msgspec.structs.replace(record, version=2))
    assert follower._serving() == session.own / "2"


# --- the loop, whole ----------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_session_learns_while_it_collects_and_another_one_stays_as_it_was(
    serve: Callable[..., Any], fcn_parent: Path, simulated_data: Path, tmp_path: Path, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("needs --long: a network is trained beside two daemons that pick")
    shared = fcn_parent.parent
    options = ("--model", fcn_parent, "--diameter", str(DIAMETER_ANGSTROM), "--threads", "1")
    options += ("--repick-after-promotion",)
    one, other = (
        serve(*options, watched=tmp_path / f"watched-{name}", out=tmp_path / f"out-{name}") for name in ("one", "other")
    )
    for daemon in (one, other):
        for name in NAMES:
            shutil.copy(simulated_data / "small" / name, daemon.watched / f".{name}")
            (daemon.watched / f".{name}").rename(daemon.watched / name)
        for name in NAMES:
            daemon.wait_log(rf"picked {name}")
    ledger = one.out / "frazil-ledger.sqlite"
    with open_browser() as page:
        page.goto(one.page)
        sign_in(page, (one.out / "frazil-page-token").read_text().strip(), "labels")
        for name in NAMES:
            document, truth = newest(ledger, name), read_star((simulated_data / "small" / name).with_suffix(".star"))
            correct_by_clicks(page, one.page, name, picks_of(document), truth, document.diameter_px)
    until(lambda: all(newest(ledger, name).corrections for name in NAMES))
    command = [BIN / "frazil-train", "follow", one.stream, "--from", fcn_parent, "--out", one.out]
    command += ["--once", "--quiet", "0", "--minutes", "0.2", "--device", "cpu", "--threads", "1", "--promote"]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    one.wait_log(r"model learned/1 .* on what was corrected: F1")
    one.wait_log(r"model learned/1 .* serves from here on")
    for daemon in (one, other):
        shutil.copy(simulated_data / "small" / NAMES[0], daemon.watched / ".late")
        (daemon.watched / ".late").rename(daemon.watched / "late.mrc")
        daemon.wait_log(r"picked late\.mrc")
    late = [newest(daemon.out / "frazil-ledger.sqlite", "late.mrc").model.name for daemon in (one, other)]
    assert late == ["learned", shared.name]
    with urllib.request.urlopen(f"{one.page}api/learning", timeout=PATIENCE_SECONDS) as answer:
        learning = json.load(answer)
    assert (learning["corrected"], learning["promoted"]) == (3, 1)
    assert learning["trainings"][0]["outcome"] == "serves"
    until(lambda: all(newest(ledger, name).model.name == "learned" for name in NAMES))  # picked again
    documents = [newest(ledger, name) for name in NAMES]
    assert [one.micrograph for one in documents] == list(NAMES)
    assert all(one.corrections for one in documents)
    assert not learned_folder(other.out).exists()
