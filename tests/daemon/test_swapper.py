"""The swapper: what is promoted is offered, refused or put off, and a start goes on where the last run ended."""

from __future__ import annotations

import contextlib
import errno
import logging
import platform
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest

from frazil.errors import ModelError
from frazil.health.metrics import Metrics
from frazil.model import (
    ModelFolder,
    Refusal,
    ServingRecord,
    current_token,
    learned_folder,
    load_model,
    read_serving_records,
)
from frazil.picking import Micrograph, Picker, PickingSettings
from frazil.record import MicrographReader
from frazil.session.models import Models
from frazil.session.outbox.ledger import Ledger
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.comparison import Comparison
from frazil.session.pick.model_changes import Announcer, ModelChange
from frazil.session.pick.promoted import Promoted
from frazil.session.pick.serving import Offer, Serving
from frazil.session.pick.shadow import CanaryBounds
from frazil.session.pick.swapper import Swapper
from frazil.session.retune import Chooser

LONG_AGO = "2020-01-01T00:00:00.000+00:00"


class EndOfLook(threading.Event):
    """What the swapper waits for between two looks: told to stop there, it looks once."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def wait(self, timeout: float | None = None) -> bool:
        self._stop.set()
        return True


class Rig:
    """One start of a daemon, as far as its swapper goes."""

    def __init__(self, folder: Path, tmp_path: Path) -> None:
        self.folder = folder
        self.out = tmp_path / "out"
        self.out.mkdir(exist_ok=True)
        self.ledger = Ledger(tmp_path / "ledger")
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=self.metrics)
        channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)
        self.stop = threading.Event()
        outbox = Outbox(self.ledger, channel, self.metrics, tmp_path, self.out, self.stop)
        self.promoted = Promoted(folder, learned_folder(self.out))
        self.announcer = Announcer(self.ledger, outbox, self.metrics, self.promoted.folder_of)
        self.loaded: list[tuple[Path, str]] = []
        self.swapper = Swapper(
            self.promoted,
            models=Models(self.load),
            make_picker=lambda model: Picker(model, PickingSettings(diameter_angstrom=48)),
            announcer=self.announcer,
            metrics=self.metrics,
            watch=tmp_path / "watch",
            out=self.out,
            name="daemon",
            precision="float32",
            check_seconds=60.0,
            threads=1,
            bounds=CanaryBounds(micrographs=0, agreement=0.5, picks_ratio=3.0),
            comparison=Comparison(self.ledger.file, MicrographReader(largest_bytes=2**30, timeout_seconds=60.0)),
            stop=self.stop,
        )
        self.swapper._wake = EndOfLook(self.stop)

    def load(self, path: Path, precision: str) -> Any:
        self.loaded.append((path, precision))
        return load_model(path, "cpu")

    def start(self) -> Serving:
        picker = Picker(self.swapper.load_first(), PickingSettings(diameter_angstrom=48))
        return Serving(picker, probation_micrographs=0, faults_allowed=0)

    def look(self, serving: Serving) -> list[ModelChange]:
        """Look once, as it does each second; what was reported."""
        reported: list[ModelChange] = []
        self.stop.clear()
        self.swapper.run(serving, reported.append)
        return reported

    def look_again(self, serving: Serving, on_decided: Callable[[], None] = lambda: None) -> list[ModelChange]:
        """Look on a reload."""
        self.swapper.reload(on_decided)
        return self.look(serving)

    @property
    def standing(self) -> ServingRecord:
        assert self.announcer.standing is not None
        return self.announcer.standing

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


@pytest.fixture
def folder(tmp_path: Path, make_blob_model: Callable[..., Path]) -> Path:
    """A model's folder with two versions, the first of them promoted."""
    made = make_blob_model(tmp_path / "blob")
    return make_blob_model(made, 2, threshold=0.6)


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Callable[[], Rig]]:
    """The daemon is started; a second time after the first run has ended."""
    made: list[Rig] = []

    def begin() -> Rig:
        for rig in made:
            rig.close()
        made[:] = [Rig(folder, tmp_path)]
        return made[0]

    yield begin
    for rig in made:
        rig.close()


def refusal(folder: Path, version: int = 2, **changes: str) -> Refusal:
    fields = {
        "sha256": load_model(folder / str(version), "cpu").identity.sha256,
        "reason": "hash",
        "message": "it is another",
        "at": LONG_AGO,
        "current": current_token(folder),
    }
    return Refusal(version=version, **(fields | changes))


def offered(serving: Serving) -> int | None:
    """The version that is offered."""
    coming = serving.coming
    return None if coming is serving.picker else coming.model.identity.version


@contextlib.contextmanager
def keep_picking(serving: Serving, pixels: Any) -> Iterator[None]:
    """The same micrograph is picked again and again meanwhile."""
    micrograph = Micrograph(path=Path("a.mrc"), pixels=pixels, pixel_size_angstrom=2.0)
    ended = threading.Event()

    def pick() -> None:
        while not ended.is_set():
            serving.pick(micrograph, read_seconds=0, since=0)

    picking = threading.Thread(target=pick)
    picking.start()
    try:
        yield
    finally:
        ended.set()
        picking.join()


def test_the_first_start_loads_what_is_promoted_and_notes_where_it_stands(
    start: Callable[[], Rig], folder: Path, tmp_path: Path
) -> None:
    rig = start()
    serving = rig.start()
    assert serving.picker.model.identity.version == 1
    assert rig.loaded == [(folder, "float32")]
    standing = rig.standing
    assert (standing.folder, standing.watch) == (str(folder), str(tmp_path / "watch"))
    assert standing.host == platform.node()
    assert (standing.version, standing.sha256) == (1, serving.picker.model.identity.sha256)
    assert (standing.refusals, standing.trying) == ((), None)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(standing.since)) < timedelta(minutes=5)
    assert rig.look(serving) == []
    assert offered(serving) is None
    assert read_serving_records(folder) == read_serving_records(rig.out) == []  # it says no more than CURRENT does


def test_a_start_goes_on_with_what_served_and_takes_what_was_promoted_since_by_a_swap(
    start: Callable[[], Rig], folder: Path
) -> None:
    start().start()
    ModelFolder(folder).promote(2)
    rig = start()
    serving = rig.start()
    assert serving.picker.model.identity.version == 1
    assert rig.loaded == [(folder / "1", "float32")]
    assert rig.look(serving) == []
    assert offered(serving) == 2
    assert serving.coming.model.batch_shape(serving.coming.size_of((400, 500), 2.0))
    assert rig.metrics.registry.get_sample_value("frazil_model_batch_seconds") > 0
    assert rig.standing.trying is None


def test_what_served_of_another_folder_says_nothing(start: Callable[[], Rig], folder: Path) -> None:
    first = start()
    first.start()
    first.announcer.begin(msgspec.structs.replace(first.standing, folder="/elsewhere", refusals=(refusal(folder),)))
    ModelFolder(folder).promote(2)
    rig = start()
    assert rig.start().picker.model.identity.version == 2
    assert rig.standing.refusals == ()


def test_where_what_served_cannot_serve_again_what_is_promoted_is_loaded_and_said(
    start: Callable[[], Rig], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start().start()
    ModelFolder(folder).promote(2)
    (folder / "1" / "model.onnx").unlink()
    serving = start().start()
    assert serving.picker.model.identity.version == 2
    assert "the model that served last cannot serve again, the promoted one is loaded: " in caplog.text


def test_what_was_refused_is_not_tried_again_by_itself_and_is_on_a_reload(
    start: Callable[[], Rig], folder: Path
) -> None:
    first = start()
    first.start()
    ModelFolder(folder).promote(2)
    first.announcer.begin(msgspec.structs.replace(first.standing, refusals=(refusal(folder),)))
    rig = start()
    serving = rig.start()
    assert rig.standing.refusals == (msgspec.structs.replace(refusal(folder), folder=str(folder)),)
    assert rig.look(serving) == []
    assert offered(serving) is None
    assert [one.version for one in read_serving_records(folder)] == [1]  # not what is promoted
    rig.look_again(serving)
    assert offered(serving) == 2


def test_a_version_whose_trial_the_last_run_did_not_live_to_end_is_refused(
    start: Callable[[], Rig], folder: Path
) -> None:
    first = start()
    first.start()
    ModelFolder(folder).promote(2)
    trying = refusal(folder, reason="interrupted", message="killed")
    first.announcer.note_check(trying)
    rig = start()
    serving = rig.start()
    (refused,) = rig.look(serving)
    assert refused.event == "refused"
    assert (refused.model.name, refused.model.version, refused.model.sha256) == ("blob", 2, trying.sha256)
    assert (refused.reason, refused.message, refused.current) == ("interrupted", "killed", trying.current)
    assert offered(serving) is None


def test_a_model_that_is_not_fit_is_refused_with_the_reason(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    (folder / "2" / "model.onnx").write_bytes(b"no model")
    ModelFolder(folder).promote(2)
    (refused,) = rig.look(serving)
    assert (refused.event, refused.model.version, refused.current) == ("refused", 2, current_token(folder))
    assert refused.reason
    assert str(folder / "2") in refused.message
    assert offered(serving) is None


def test_a_note_says_what_is_tried_while_it_is_tried(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    noted: list[Refusal | None] = []
    load = rig.load

    def load_and_look(path: Path, precision: str) -> Any:
        noted.append(rig.standing.trying)
        return load(path, precision)

    monkeypatch.setattr(rig.swapper._models, "_load", load_and_look)
    rig.look(serving)
    (note,) = noted
    assert note is not None
    assert (note.version, note.reason, note.current) == (2, "interrupted", current_token(folder))
    assert note.sha256 == load_model(folder / "2", "cpu").identity.sha256
    assert note.message.startswith(f"{folder / '2'}: expected the daemon to survive the check of this model")
    assert rig.standing.trying is None


def test_a_model_that_changes_between_its_trial_and_its_loading_is_refused(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    monkeypatch.setattr(rig.swapper, "_models", Models(lambda path, precision: load_model(folder / "1", "cpu")))
    (refused,) = rig.look(serving)
    assert refused.reason == "hash"
    assert "as in its check" in refused.message


def test_a_ledger_that_cannot_be_written_puts_a_model_off_and_says_so_once(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "remember", full)
        assert rig.look(serving) == []
        assert rig.standing.trying is None  # as in the ledger
        assert rig.look(serving) == []
    said = f"{folder}: the promoted model waits, and the old one goes on: the ledger cannot be written: database"
    assert caplog.text.count(said) == 1
    assert rig.look(serving) == []
    assert offered(serving) == 2


@pytest.mark.parametrize("fault", ["passing", "unfit", "superseded", "stopping"])
def test_a_trial_that_this_process_outlives_leaves_no_note(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)

    def fail(*_: object) -> Any:
        assert rig.standing.trying is not None
        if fault == "superseded":
            ModelFolder(folder).promote(1)
        if fault == "stopping":
            rig.stop.set()
        if fault == "passing":
            raise ModelError("no space") from OSError(errno.ENOSPC, "No space left on device")
        raise ModelError("it is not fit")

    monkeypatch.setattr(rig.swapper._models, "_load", fail)
    refused = [change.model.version for change in rig.look(serving)]
    assert refused == ([2] if fault == "unfit" else [])
    assert rig.standing.trying is None
    assert offered(serving) is None
    monkeypatch.setattr(rig.swapper._models, "_load", rig.load)
    again = start()
    serving = again.start()
    assert again.look(serving) == []  # a start in between refuses nothing
    assert offered(serving) == (None if fault == "superseded" else 2)


def test_an_unforeseen_fault_ends_one_look_and_not_the_others(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    monkeypatch.setattr(rig.swapper._models, "_load", lambda *_: 1 / 0)
    assert rig.look(serving) == []
    assert "the swap failed unexpectedly; the old model goes on" in caplog.text
    assert rig.standing.trying is None
    monkeypatch.setattr(rig.swapper._models, "_load", rig.load)
    rig.look_again(serving)
    assert offered(serving) == 2


def test_a_reload_is_told_when_the_offer_is_there(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    at_end: list[int | None] = []
    rig.look_again(serving, lambda: at_end.append(offered(serving)))
    assert at_end == [2]


def test_a_promotion_that_is_taken_back_takes_the_offer_back(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    serving.offer(Offer(picker=serving.picker, current="c"))
    ModelFolder(folder).promote(1)
    rig.look(serving)
    assert offered(serving) is None
    assert rig.loaded == [(folder, "float32")]  # what serves is not loaded again


def test_the_standing_is_posted_beside_the_results_where_the_models_folder_cannot_be_written(
    start: Callable[[], Rig], folder: Path
) -> None:
    first = start()
    first.start()
    first.announcer.begin(msgspec.structs.replace(first.standing, refusals=(refusal(folder, current="c"),)))
    rig = start()
    rig.look(rig.start())
    assert read_serving_records(folder) == [rig.standing]
    (posted,) = (file.parent for file in folder.rglob("daemon.json"))
    shutil.rmtree(posted)
    posted.write_text("a file where the folder should be")
    rig = start()
    rig.look(rig.start())
    assert read_serving_records(folder) == []
    assert read_serving_records(rig.out) == [rig.standing]


def test_no_model_at_all_is_refused_at_the_start(start: Callable[[], Rig], folder: Path) -> None:
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx"):
        start().start()


def test_a_model_that_is_superseded_while_it_runs_in_shadow_is_not_refused(
    start: Callable[[], Rig], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig = start()
    serving = rig.start()
    rig.swapper._bounds = CanaryBounds(micrographs=2, agreement=0.5, picks_ratio=3.0)
    ModelFolder(folder).promote(2)
    assert rig.look_again(serving, lambda: ModelFolder(folder).promote(1)) == []
    said = [record.message for record in caplog.records]
    candidate = load_model(folder / "2", "cpu").identity
    assert f"model {candidate} runs in shadow for 2 micrographs" in said
    assert offered(serving) is None
    assert serving.shadow is None


def test_a_model_that_picks_as_the_serving_one_does_is_offered_after_its_run_in_shadow(
    start: Callable[[], Rig], folder: Path, make_scene: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig = start()
    serving = rig.start()
    rig.swapper._bounds = CanaryBounds(micrographs=2, agreement=0.5, picks_ratio=3.0)
    ModelFolder(folder).promote(2)
    with keep_picking(serving, make_scene().pixels):
        assert rig.look(serving) == []
    assert offered(serving) == 2
    assert serving.shadow is None
    assert "in shadow: over 2 micrographs" in caplog.text
    assert rig.metrics.registry.get_sample_value("frazil_canary_picks_total", {"model": "candidate"}) != 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_picks_otherwise_in_shadow_or_fails_there_is_refused_by_its_name(
    start: Callable[[], Rig],
    folder: Path,
    make_scene: Callable[..., Any],
    make_blob_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    make_blob_model(folder, 3, bias=-60.0)  # finds nothing
    rig = start()
    serving = rig.start()
    rig.swapper._bounds = CanaryBounds(micrographs=2, agreement=0.5, picks_ratio=3.0)
    ModelFolder(folder).promote(3)
    if fails:

        class Failing(Picker):
            def pick(self, *_: Any, **__: Any) -> Any:
                raise RuntimeError("out of luck")

        monkeypatch.setattr(
            rig.swapper, "_make_picker", lambda model: Failing(model, PickingSettings(diameter_angstrom=48))
        )
    with keep_picking(serving, make_scene().pixels):
        (refused,) = rig.look(serving)
    assert (refused.event, refused.reason, refused.model.version) == ("refused", "canary", 3)
    found = (
        "expected to pick a.mrc, found: out of luck" if fails else "expected at most 3 times as many or as few picks"
    )
    assert refused.message.startswith(f"{refused.model}: {found}")
    assert offered(serving) is None
    assert serving.shadow is None
    assert rig.standing.trying is None


def test_a_model_that_is_no_longer_promoted_when_it_is_ready_is_not_offered(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)

    def load(path: Path, precision: str) -> Any:
        ModelFolder(folder).promote(1)
        return rig.load(path, precision)

    monkeypatch.setattr(rig.swapper._models, "_load", load)
    assert rig.look(serving) == []
    assert rig.loaded[-1][0] == folder / "2"
    assert offered(serving) is None


def test_a_current_that_names_no_version_is_refused(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    (folder / "CURRENT").write_text("the best one\n")
    (refused,) = rig.look(serving)
    assert (refused.event, refused.current) == ("refused", current_token(folder))
    assert (refused.model.name, refused.model.version, refused.model.sha256) == ("blob", 0, "")
    assert str(folder / "CURRENT") in refused.message
    assert rig.look(serving) == []


def test_each_fault_of_the_machine_is_said_once(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    faults = ["no space", "no space", "too many open files"]

    def fail(*_: object) -> Any:
        raise ModelError(faults.pop(0)) from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rig.swapper._models, "_load", fail)
    while faults:
        assert rig.look(serving) == []
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["no space", "too many open files"]


def test_a_model_that_takes_far_more_memory_than_in_its_trial_is_refused(
    start: Callable[[], Rig], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    serving = rig.start()
    ModelFolder(folder).promote(2)
    held = iter([2**30, 2**30 + 5 * 2**40])
    monkeypatch.setattr("frazil.session.pick.admission.held_bytes", lambda _: next(held))
    (refused,) = rig.look(serving)
    assert refused.reason == "memory"
    assert refused.message.startswith(f"{folder / '2'}: expected to take ")
    assert refused.message.endswith(f" MiB of memory, as in its check, found that it takes {5 * 2**20} MiB")
    assert offered(serving) is None


@pytest.mark.parametrize("twin", ["none", "bad"])
def test_where_the_int8_twin_is_bad_the_model_serves_in_float32(
    start: Callable[[], Rig], folder: Path, make_twin: Callable[..., Path], caplog: pytest.LogCaptureFixture, twin: str
) -> None:
    if twin == "bad":
        (make_twin(folder / "2") / "model.int8.onnx").write_bytes(b"no model")
    rig = start()
    serving = rig.start()
    rig.swapper._precision = "int8"
    ModelFolder(folder).promote(2)
    assert rig.look(serving) == []
    assert rig.loaded[-1] == (folder / "2", "float32" if twin == "bad" else "int8")
    said = f"{folder / '2'} serves in float32 although int8 is set: "
    assert caplog.text.count(said) == (twin == "bad")
    assert offered(serving) == 2


def test_a_reload_while_a_model_runs_in_shadow_is_told_at_once(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    rig.swapper._bounds = CanaryBounds(micrographs=2, agreement=0.5, picks_ratio=3.0)
    ModelFolder(folder).promote(2)
    told: list[str] = []

    def begun() -> None:
        told.append("begun")
        rig.swapper.reload(again)

    def again() -> None:
        told.append("again")
        assert serving.shadow is not None
        rig.stop.set()

    assert rig.look_again(serving, begun) == []
    assert told == ["begun", "again"]
    assert serving.shadow is None
    assert offered(serving) is None


class NotedModels(Models):
    """Notes how models are checked."""

    def __init__(self, load: Any) -> None:
        super().__init__(load)
        self.checks: list[dict[str, Any]] = []

    def check(self, path: Path, *, stop: threading.Event, **how: Any) -> Any:
        self.checks.append({"path": path, "stop": stop, **how})
        return super().check(path, stop=stop, **how)


def test_a_model_is_checked_with_the_limits_and_the_micrographs_of_the_session(
    start: Callable[[], Rig], folder: Path, make_scene: Callable[..., Any]
) -> None:
    rig = start()
    rig.swapper._models = models = NotedModels(rig.load)
    serving = rig.start()
    micrograph = Micrograph(path=Path("a.mrc"), pixels=make_scene().pixels, pixel_size_angstrom=2.0)
    serving.pick(micrograph, read_seconds=0, since=0)
    ModelFolder(folder).promote(2)
    assert rig.look(serving) == []
    size = serving.picker.size_of(micrograph.pixels.shape, 2.0)
    (check,) = models.checks
    expected = {"path": folder / "2", "stop": rig.stop, "seconds": 60.0, "threads": 1, "micrograph": size}
    assert {name: check[name] for name in expected} == expected
    (taken,) = serving.advance()
    assert isinstance(taken, ModelChange)
    assert (taken.event, taken.current) == ("loaded", current_token(folder))


def test_it_looks_in_a_thread_of_its_own_until_it_is_told_to_stop(start: Callable[[], Rig], folder: Path) -> None:
    rig = start()
    serving = rig.start()
    rig.swapper._wake = threading.Event()
    ModelFolder(folder).promote(2)
    reported: list[ModelChange] = []
    before = set(threading.enumerate())
    rig.swapper.start(serving, reported.append)
    (thread,) = set(threading.enumerate()) - before
    try:
        assert (thread.name, thread.daemon) == ("frazil-swap", True)
        deadline = threading.Event()
        for _ in range(6000):
            if offered(serving) == 2:
                break
            deadline.wait(0.01)
        assert offered(serving) == 2
        assert reported == []
    finally:
        rig.stop.set()
        rig.swapper._wake.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_model_in_shadow_picks_with_a_threshold_of_its_own_choice(
    start: Callable[[], Rig], folder: Path, make_scene: Callable[..., Any], make_blob_model: Callable[..., Path]
) -> None:
    make_blob_model(folder, 3, bias=-14.0, threshold=1.0)  # it scores lower, and says that nothing is good enough
    rig = start()
    picker = Picker(rig.swapper.load_first(), PickingSettings(diameter_angstrom=48))
    serving = Serving(picker, chooser=Chooser(), probation_micrographs=0, faults_allowed=0)
    rig.swapper._bounds = CanaryBounds(micrographs=2, agreement=0.9, picks_ratio=1.2)
    ModelFolder(folder).promote(3)
    with keep_picking(serving, make_scene().pixels):
        assert rig.look(serving) == []
    assert offered(serving) == 3
