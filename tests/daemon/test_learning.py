"""Learning on the page: what to correct, what the corrections say, each training, and the wish to promote."""

from __future__ import annotations

import http.client
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from benchmarks import learning_loop
from benchmarks.figures import fill_tables
from frazil.commands.cli import app
from frazil.documents import (
    Corrections,
    MicrographDocument,
    ModelDocument,
    PickColumns,
    encode_document,
    now_rfc3339,
)
from frazil.errors import ModelError
from frazil.model import (
    F1,
    Following,
    ModelIdentity,
    Training,
    identify_model,
    learned_folder,
    write_following,
    write_trainings,
)
from frazil.page.learning import LearningDesk
from frazil.page.session import Session
from frazil.page.worker import Worker
from frazil.session.correct import MarkMicrograph
from frazil.session.correct.proposals import agreement, propose
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import DAEMON_KEY, Handled, leave_edits

MakeDocument = Callable[..., MicrographDocument]
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
PATIENCE_SECONDS = 240.0


def columns(scores: Sequence[float]) -> PickColumns:
    places = [float(i) for i in range(len(scores))]
    return PickColumns(y=places, x=places, score=list(scores))


def corrected(document: MicrographDocument, added: int = 0, deleted: int = 0, mark: str = "") -> MicrographDocument:
    made = Corrections(at="1", by=[], mark=mark, added=list(range(added)), deleted=deleted, junk=[])  # type: ignore[arg-type]
    return msgspec.structs.replace(document, corrections=made)


@pytest.fixture
def picked(make_document: MakeDocument) -> Callable[..., MicrographDocument]:
    """A result with picks of these scores, at a threshold of 0.5."""

    def make(name: str, scores: Sequence[float]) -> MicrographDocument:
        return msgspec.structs.replace(make_document(f"/data/{name}"), threshold=0.5, picks=columns(scores))

    return make


# --- what to correct ----------------------------------------------------------------------------------------------


def test_the_uncertain_come_first_and_the_next_differs_from_it(picked: Callable[..., MicrographDocument]) -> None:
    sure = [picked(f"sure-{i}", [0.95] * 100) for i in range(6)]
    twins = [picked(f"twin-{i}", [0.55] * 90 + [0.9] * 10) for i in range(3)]
    other = picked("other", [0.6] * 150 + [0.9] * 150)
    found = propose([*sure, *twins, other], count=2)
    assert [one.micrograph for one in found] == ["twin-0", "other"]
    assert found[0].uncertain == 0.9
    assert found[0].why == "90% of its picks score within 0.15 of the threshold"


def test_few_picks_are_uncertain_though_they_score_well(picked: Callable[..., MicrographDocument]) -> None:
    usual = [picked(f"usual-{i}", [0.95] * 99 + [0.6]) for i in range(5)]
    (first,) = propose([*usual, picked("few", [0.95] * 4)], count=1)
    assert (first.micrograph, first.uncertain, first.why) == ("few", 1.0, "4 picks, where 100 are usual")


def test_a_proposal_without_an_uncertain_pick_says_that_it_is_unlike_the_others(
    picked: Callable[..., MicrographDocument],
) -> None:
    sure = [picked(f"sure{k}", [0.95] * 20) for k in range(3)]
    (first,) = propose([*sure, picked("many", [0.95] * 300)], count=1)
    assert first.why == "its picks are sure, and their number or scores differ from the others'"


def test_corrected_ones_are_not_proposed_nor_what_is_like_them(picked: Callable[..., MicrographDocument]) -> None:
    twins = [picked(f"twin-{i}", [0.55] * 50) for i in range(2)]
    other = picked("other", [0.6] * 30 + [0.9] * 10)
    (first,) = propose([corrected(twins[0]), twins[1], other], count=1)
    assert first.micrograph == "other"
    assert propose([corrected(twins[0])]) == []
    assert propose([]) == []


def test_there_are_no_more_proposals_than_micrographs_and_none_twice(picked: Callable[..., MicrographDocument]) -> None:
    same = [picked(f"{i}", [0.6]) for i in range(2)]
    assert sorted(one.micrograph for one in propose(same)) == ["0", "1"]


def test_agreement_is_f1_of_the_models_picks_with_what_people_made_of_them(
    picked: Callable[..., MicrographDocument],
) -> None:
    first = corrected(picked("a", [1.0] * 10), added=2, deleted=4)  # 12 of the model, of which 8 were left
    bad = corrected(picked("b", []), mark="bad", deleted=50)
    found = agreement([first, bad, picked("c", [0.9])])
    assert (found.micrographs, found.kept, found.added, found.deleted) == (1, 8, 2, 4)
    assert found.f1 == pytest.approx(2 * 8 / (12 + 10))
    assert agreement([]).f1 == 1.0


# --- on the page --------------------------------------------------------------------------------------------------


def request(page: Any, method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    with closing(http.client.HTTPConnection(*page.address, timeout=PATIENCE_SECONDS)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def commit(page: Any, document: MicrographDocument, key: str) -> int:
    seq, _ = page.ledger.commit_picked(
        key,
        HANDLED,
        lambda epoch, seq, older: encode_document(
            msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=older)
        ),
        score_map=None,
        complete_at_unix=time.time(),
    )
    return int(seq)


@pytest.fixture
def page(open_page: Callable[..., Any], tmp_path: Path) -> Any:
    """The page of a session whose results go to ``out``."""
    opened = open_page()
    info = DaemonInfo(
        pid=1,
        started_at=1.0,
        watch="/data",
        out=str(tmp_path / "out"),
        stream="",
        metrics="",
        model="fcn/1",
        provider="",
    )
    opened.ledger.remember(DAEMON_KEY, info.encode())
    return opened


def training(state: str, version: int = 0, sha256: str = "", updated_at: float | None = None) -> Training:
    return Training(
        state=state,  # type: ignore[arg-type]
        started_at=1.0,
        updated_at=time.time() if updated_at is None else updated_at,
        session="",
        parent=ModelIdentity(name="fcn", version=1, sha256="0"),
        learnt_from=("a.mrc", "b.mrc"),
        kept_out=("c.mrc",),
        minutes=2.5,
        version=version,
        sha256=sha256,
        f1=F1(before=0.7, after=0.8, micrographs=3, particles=100) if version else None,
    )


def say(page: Any, event: str, sha256: str, reason: str = "") -> None:
    model = ModelIdentity(name="learned", version=1, sha256=sha256)
    page.ledger.commit_document(
        "model",
        lambda epoch, seq: encode_document(
            ModelDocument(epoch=epoch, seq=seq, model=model, event=event, reason=reason, at=now_rfc3339())  # type: ignore[arg-type]
        ),
    )


def test_each_training_is_shown_with_what_became_of_it(page: Any, tmp_path: Path) -> None:
    folder = learned_folder(tmp_path / "out")
    folder.mkdir(parents=True)
    write_trainings(
        folder,
        [
            training("offered", 1, "a"),
            training("handed_in", 2, "b"),
            training("handed_in", 3, "c"),
            training("training", updated_at=time.time() - 1000),
        ],
    )
    say(page, "loaded", "a")
    say(page, "loaded", "b")
    say(page, "refused", "c", "expected to pick what was corrected at least as well")
    status, found = request(page, "GET", "/api/learning")
    assert status == 200
    assert [(one["training"]["version"], one["outcome"], one["is_silent"]) for one in found["trainings"]] == [
        (0, "", True),
        (3, "refused", False),
        (2, "serves", False),
        (1, "served", False),
    ]
    assert found["trainings"][1]["why"] == "expected to pick what was corrected at least as well"
    assert found["trainings"][2]["training"]["f1"] == {"before": 0.7, "after": 0.8, "micrographs": 3, "particles": 100}
    assert (found["serves"], found["promoted"], found["corrected"]) == ("fcn/1", 0, 0)


def test_a_torn_file_of_trainings_shows_none(page: Any, tmp_path: Path) -> None:
    folder = learned_folder(tmp_path / "out")
    folder.mkdir(parents=True)
    (folder / "trainings.json").write_text('[{"state": "trai')
    assert request(page, "GET", "/api/learning")[1]["trainings"] == []


def test_the_estimate_goes_with_the_corrections(page: Any, picked: Callable[..., MicrographDocument]) -> None:
    for name, added in (("a.mrc", 0), ("b.mrc", 5)):
        commit(page, corrected(picked(name, [1.0] * 10), added=added), name)
        mark = MarkMicrograph(id=f"mark-{name[0] * 4}", path=name, mark="good")
        assert leave_edits(page.ledger.file, [mark]).accepted == 1
    commit(page, picked("c.mrc", [0.9]), "c.mrc")
    found = request(page, "GET", "/api/learning")[1]
    assert (found["corrected"], found["kept"], found["added"]) == (2, 15, 5)
    assert found["estimate"] == [
        {"path": "a.mrc", "f1": 1.0},
        {"path": "b.mrc", "f1": pytest.approx(30 / 35, abs=1e-4)},
    ]


def test_each_model_is_judged_by_what_it_picked(page: Any, picked: Callable[..., MicrographDocument]) -> None:
    other = ModelIdentity(name="learned", version=1, sha256="other")
    for name, added, model in (("a.mrc", 10, None), ("b.mrc", 0, other), ("c.mrc", 5, other)):
        document = corrected(picked(name, [1.0] * 10), added=added)
        commit(page, msgspec.structs.replace(document, model=model or document.model), name)
        mark = MarkMicrograph(id=f"mark-{name[0] * 4}", path=name, mark="good")
        assert leave_edits(page.ledger.file, [mark]).accepted == 1
    found = request(page, "GET", "/api/learning")[1]["by_model"]
    assert [(one["model"]["name"], one["micrographs"], one["f1"]) for one in found] == [
        ("learned", 2, pytest.approx(30 / 35, abs=1e-4)),
        (picked("a.mrc", []).model.name, 1, 0.0),
    ]


def test_a_follower_is_there_while_it_says_so(page: Any, tmp_path: Path) -> None:
    folder = learned_folder(tmp_path / "out")
    folder.mkdir(parents=True)
    assert request(page, "GET", "/api/learning")[1]["following"] is None
    now = Following(updated_at=time.time(), after=3, waiting=2, promotes=True)
    write_following(folder, now)
    assert request(page, "GET", "/api/learning")[1]["following"] == msgspec.to_builtins(now)
    write_following(folder, msgspec.structs.replace(now, updated_at=time.time() - 1000))
    assert request(page, "GET", "/api/learning")[1]["following"] is None
    (folder / "following.json").write_text('{"upd')
    assert request(page, "GET", "/api/learning")[1]["following"] is None
    write_following(folder, None)
    write_following(folder, None)
    assert request(page, "GET", "/api/learning")[1]["following"] is None


@pytest.mark.parametrize("name", ["", "grid one"])
def test_what_to_type_names_the_session_of_a_microscope_alone(name: str, page: Any, tmp_path: Path) -> None:
    info = DaemonInfo.decode(page.ledger.recall(DAEMON_KEY))
    assert info is not None
    page.ledger.remember(DAEMON_KEY, msgspec.structs.replace(info, stream="tcp://titan1:5556", out="/a b").encode())
    session, worker = Session(page.ledger.file), Worker("frazil-test", 1)
    settings: dict[str, Any] = {"model": str(tmp_path / "fcn")}
    with closing(session), closing(worker):
        desk = LearningDesk(session, worker, name=lambda: name, settings=lambda: settings)
        typed = shlex.split(desk._learning().follow)
        expected = ["frazil-train", "follow", "tcp://titan1:5556", "--from", str(tmp_path / "fcn"), "--out", "/a b"]
        assert typed == [*expected, *(["--session", name] if name else [])]
        kept = DaemonInfo.decode(page.ledger.recall(DAEMON_KEY))
        assert kept is not None
        page.ledger.remember(DAEMON_KEY, msgspec.structs.replace(kept, server_key="/keys/titan1.key").encode())
        typed = shlex.split(desk._learning().follow)
        assert typed[7:11] == ["--key", "YOUR.key_secret", "--server-key", "/keys/titan1.key"]
        settings.clear()
        assert desk._learning().follow == ""


def test_three_micrographs_are_proposed(page: Any, picked: Callable[..., MicrographDocument]) -> None:
    for i in range(5):
        commit(page, picked(f"{i}.mrc", [0.55] * (i + 1)), f"{i}.mrc")
    status, found = request(page, "GET", "/api/proposals")
    assert status == 200
    assert len({one["micrograph"] for one in found["proposals"]}) == 3


def test_a_version_is_promoted_and_withdrawn_with_the_token_alone(
    page: Any, tmp_path: Path, make_blob_model: Callable[..., Path]
) -> None:
    folder = make_blob_model(learned_folder(tmp_path / "out"))
    make_blob_model(folder, 2)
    assert request(page, "POST", "/api/learning", {"promote": 2})[0] == 401
    assert identify_model(folder).version == 1
    assert request(page, "POST", "/api/learning", {"promote": 2}, page.token)[0] == 202
    assert identify_model(folder).version == 2
    status, said = request(page, "POST", "/api/learning", {"promote": 9}, page.token)
    assert (status, "expected a version among 1, 2; found 9" in said["error"]) == (404, True)
    for wrong in ({}, {"promote": 1, "withdraw": True}, {"version": 1}):
        assert request(page, "POST", "/api/learning", wrong, page.token)[0] == 400
    assert request(page, "POST", "/api/learning", {"withdraw": True}, page.token)[0] == 202
    assert not (folder / "CURRENT").exists()
    assert request(page, "GET", "/api/learning")[1]["promoted"] == 0


# --- in a terminal ------------------------------------------------------------------------------------------------


def test_the_terminal_proposes_the_same_and_says_how_it_stands(
    page: Any, picked: Callable[..., MicrographDocument]
) -> None:
    commit(page, picked("a.mrc", [0.55, 0.9]), "a.mrc")
    command = ["labels", "propose", "--ledger", str(page.ledger.file)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.output == ("a.mrc: 50% of its picks score within 0.15 of the threshold\nnothing is corrected as yet\n")
    commit(page, corrected(picked("b.mrc", [1.0] * 10), added=5), "b.mrc")
    assert leave_edits(page.ledger.file, [MarkMicrograph(id="mark-bbbb", path="b.mrc", mark="good")]).accepted == 1
    done = CliRunner().invoke(app, command)
    assert done.output.endswith(
        "F1 of the model's picks in 1 corrected micrographs: 0.667 (5 kept, 5 added, 0 deleted)\n"
    )


def test_a_sessions_own_model_alone_can_be_withdrawn(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    own, shared = make_blob_model(learned_folder(tmp_path)), make_blob_model(tmp_path / "models" / "blob")
    assert CliRunner().invoke(app, ["models", "withdraw", str(own)]).exit_code == 0
    assert not (own / "CURRENT").exists()
    with pytest.raises(ModelError, match="expected a session's own model, such as OUT/frazil-models/learned"):
        CliRunner().invoke(app, ["models", "withdraw", str(shared)], catch_exceptions=False)
    assert (shared / "CURRENT").exists()


def test_the_table_in_the_docs_is_what_the_figures_of_the_loop_give() -> None:
    page = learning_loop.PAGE.read_text("utf-8")
    assert fill_tables(page, {"learning-loop": learning_loop.table(learning_loop.read_figures())}) == page
