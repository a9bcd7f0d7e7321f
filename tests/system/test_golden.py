"""What was recorded of an earlier frazil still holds: documents, metrics, the ledger, and every name that others use.

What it is compared with lies in ``tests/golden/recorded``; ``tests/golden/record.py --help`` says how it came there.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from frazil.client import PickStream
from frazil.documents import decode_document, encode_document

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import scenario, surface

pytestmark = pytest.mark.system

RECORDED = scenario.HERE / "recorded"
RECORDED_LEDGER = RECORDED / "ledger"
Json = dict[str, Any]

NEAR_PX = 1.0
NEAR_SCORE = 1e-3
ODD_PICKS = 1
"""So many picks of a micrograph may have no counterpart: processors differ, and one may lie next to a limit."""


def lines(name: str) -> list[bytes]:
    return (RECORDED / name).read_bytes().splitlines()


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_bytes())


def assert_near(expected: Json, found: Json) -> None:
    """See that picks are the ones recorded, best first, as well as another processor computes them."""
    assert list(found) == list(expected)
    assert found["score"] == sorted(found["score"], reverse=True)
    left = list(zip(found["y"], found["x"], found["score"], strict=True))
    odd = 0
    for y, x, score in zip(expected["y"], expected["x"], expected["score"], strict=True):
        near = [p for p in left if abs(p[0] - y) <= NEAR_PX and abs(p[1] - x) <= NEAR_PX]
        near = [p for p in near if abs(p[2] - score) <= NEAR_SCORE]
        if near:
            left.remove(near[0])
        odd += not near
    assert max(odd, len(left)) <= ODD_PICKS, (expected, found)


def assert_same(expected: Json, found: Json, root: Path) -> None:
    """See that a document is the one recorded, but for what belongs to the time, the place and the processor."""
    expected, found = (scenario.comparable(document, root) for document in (expected, found))
    if expected["type"] == "micrograph":
        assert_near(expected["picks"], found["picks"])
        found["picks"] = expected["picks"]
    # As text, so that the order of the fields counts.
    assert json.dumps(found) == json.dumps(expected)


# --- a session of today ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Played:
    """What a session of today left behind."""

    root: Path
    published: list[tuple[bytes, bytes]]
    pages: list[Json]
    bodies: list[bytes]
    """Documents as they were sent on request."""
    received: list[bytes]
    """Documents as the client gave them out, encoded again."""
    of_directory: list[str]
    metrics: Json
    addresses: Json
    stars: list[str]


def play(root: Path) -> Played:
    scenario.lay_out(root)
    with scenario.serve(root) as session:
        scenario.play(session)
        metrics = scenario.describe_metrics(session.metrics(scenario.PICKED))
        addresses = session.addresses()
        pages, bodies = session.replay()
        options: Json = {"since": 1, "topics": ["picks", "failed", "model"], "resume": root / "cursor"}
        received = []
        with PickStream(session.daemon["stream"], timeout_seconds=60, **options) as stream:
            for document in stream:
                received.append(encode_document(document))
                if document.seq == len(bodies):
                    break
        with PickStream(session.daemon["stream"], since=1, directory="grid 1", timeout_seconds=60) as stream:
            of_directory = [next(stream).path, next(stream).path]
        published = session.published()
        assert session.stop() == 0, session.log()
    return Played(
        root=root,
        published=published,
        pages=pages,
        bodies=bodies,
        received=received,
        of_directory=of_directory,
        metrics=metrics,
        addresses=addresses,
        stars=scenario.star_files(root / "out"),
    )


# --- a recorded ledger that today's daemon goes on with -------------------------------------------------------------


@dataclass(kw_only=True)
class Continued:
    """What today's daemon made of a recorded ledger."""

    root: Path
    heartbeat: Json
    bodies: list[bytes]
    """Documents that were recorded, as they were sent on request."""
    common: int
    """Up to where a subscriber of the recorded session is told that all holds."""
    new: list[Json]
    stars: list[str]


def restore(root: Path) -> Path:
    """Lay out the recorded session's end somewhere else; its ledger."""
    scenario.lay_out(root)
    shutil.copytree(RECORDED_LEDGER, root / "out")
    with closing(sqlite3.connect(f"file:{root / 'out' / scenario.LEDGER}?mode=ro", uri=True)) as database:
        times = dict(database.execute("SELECT path, mtime_ns FROM micrographs").fetchall())
    for name, draw in {**scenario.FILES, **scenario.REWRITTEN}.items():
        file = root / "watched" / name
        file.write_bytes(draw())
        scenario.set_time(file, times[name])
    return root / "out" / scenario.LEDGER


def go_on(root: Path) -> Continued:
    scenario.frazil("ledger", "set-watch", root / "watched", "--ledger", restore(root))
    with scenario.serve(root) as session:
        heartbeat = json.loads(session.published()[0][1])
        _, bodies = session.replay()
        head = len(bodies)
        generation = json.loads(lines("published.jsonl")[0])["generation"]
        (page, *_), _ = session.replay(**{"from": head + 1}, generation=generation)
        session.put("f.mrc", scenario.draw(7))
        session.wait("micrograph", micrograph="f.mrc")
        session.put("e.mrc", scenario.draw(8))
        session.wait("micrograph", micrograph="e.mrc")
        new = [json.loads(body) for body in session.replay()[1][head:]]
        assert session.stop() == 0, session.log()
    return Continued(
        root=root,
        heartbeat=heartbeat,
        bodies=bodies,
        common=page["common"],
        new=new,
        stars=scenario.star_files(root / "out"),
    )


@pytest.fixture(scope="module", autouse=True)
def sessions(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Callable[[], Played], Callable[[], Continued]]]:
    """Both daemons, side by side and beside the other tests: they wait more than they compute."""
    with ThreadPoolExecutor(2) as pool:
        played = pool.submit(play, tmp_path_factory.mktemp("played") / "session")
        continued = pool.submit(go_on, tmp_path_factory.mktemp("continued") / "session")
        yield played.result, continued.result


@pytest.fixture
def played(sessions: tuple[Callable[[], Played], Callable[[], Continued]]) -> Played:
    return sessions[0]()


@pytest.fixture
def continued(sessions: tuple[Callable[[], Played], Callable[[], Continued]]) -> Continued:
    return sessions[1]()


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "described"), recorded("commands.json").items())
def test_every_recorded_option_of_a_command_is_accepted(command: str, described: Json) -> None:
    program, *words = command.split()
    given = []
    for option, takes_value in described["options"].items():
        if option not in ("--install-completion", "--show-completion", "--version"):  # they do it at once
            given += [option, "1"] if takes_value else [option]
    # Options are read before --help has its turn; values are looked at afterwards.
    status, printed = surface.run(program, *words, "--help", *given)
    assert status == 0, printed
    usage, _, arguments = next(line for line in printed.splitlines() if "Usage: " in line).partition(" [OPTIONS]")
    assert usage.endswith(" ".join(words))
    assert len(arguments.split()) == described["arguments"]


def test_every_recorded_setting_is_accepted_in_the_file(tmp_path: Path) -> None:
    settings = recorded("settings.json")
    file = surface.write_settings(tmp_path / "frazil.toml", settings)
    status, printed = surface.run("frazil", "check-settings", file)
    assert status == 0, printed
    accepted = set(recorded("commands.json")["frazil serve"]["options"])
    assert {f"--{name.replace('_', '-')}" for name in settings} <= accepted


def test_every_recorded_setting_means_something(tmp_path: Path) -> None:
    settings = recorded("settings.json")
    file = surface.write_settings(tmp_path / "frazil.toml", {name: [[]] for name in settings})
    status, printed = surface.run("frazil", "check-settings", file)
    assert status == 78
    faults = {int(number) for number in re.findall(r"frazil\.toml:(\d+): ", printed)}
    assert faults == set(range(1, len(settings) + 1)), printed
    assert "unknown" not in printed


def test_commands_end_with_the_recorded_statuses(tmp_path: Path) -> None:
    assert surface.exit_statuses(tmp_path, scenario.MODELS / "disc") == recorded("statuses.json")


def assert_holds(expected: Any, found: Any, where: str) -> None:
    """See that all that was recorded is there; there may be more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in found, f"{where}: {name} is gone"
            assert_holds(value, found[name], f"{where}: {name}")
    elif isinstance(expected, list):
        assert [one for one in expected if one not in found] == [], where
    else:
        assert found == expected, where


def test_every_recorded_name_can_still_be_imported_and_takes_what_it_took(repository: Path) -> None:
    names = recorded("names.json")
    assert_holds(names, surface.describe_names(repository), "names")
    for name in names["used in docs and examples"]:
        assert surface.resolve(name) is not None


def test_the_recorded_schema_of_the_documents_still_holds() -> None:
    status, printed = surface.run("frazil", "schema")
    assert status == 0
    assert surface.schema_without_texts(json.loads(printed)) == recorded("schema.json")


# --- the recorded ledger --------------------------------------------------------------------------------------------


def test_a_recorded_document_is_read_and_encoded_as_it_was() -> None:
    for line in lines("documents.jsonl"):
        assert encode_document(decode_document(line)) == line


def test_the_recorded_ledger_is_read_as_it_was(tmp_path: Path) -> None:
    shutil.copytree(RECORDED_LEDGER, tmp_path / "out")
    for options, name in ((["--documents"], "documents.jsonl"), ([], "records.jsonl")):
        status, printed = surface.run("frazil", "ledger", "export", "--ledger", tmp_path / "out", *options)
        assert status == 0, printed
        assert printed.encode() == (RECORDED / name).read_bytes()
    status, printed = surface.run("frazil", "ledger", "check", "--ledger", tmp_path / "out")
    assert status == 0, printed
    assert_holds(recorded("status.json"), surface.read_status(tmp_path / "out"), "status")


def test_picks_are_made_again_of_the_score_maps_in_the_recorded_ledger(tmp_path: Path) -> None:
    shutil.copytree(RECORDED_LEDGER, tmp_path / "out")
    expected, found = recorded("preview.json"), surface.preview(tmp_path / "out")
    assert_near(expected.pop("picks"), found.pop("picks"))
    assert found == expected


def test_the_recorded_ledger_replays_the_documents_byte_for_byte(continued: Continued) -> None:
    assert continued.bodies == lines("documents.jsonl")


def test_a_subscriber_of_the_recorded_session_goes_on_where_it_was(continued: Continued) -> None:
    before = json.loads(lines("published.jsonl")[0])
    head = len(lines("documents.jsonl"))
    assert (continued.heartbeat["epoch"], continued.heartbeat["seq"]) == (before["epoch"], head)
    assert continued.heartbeat["generation"] != before["generation"]
    assert continued.common == head


def test_the_recorded_ledger_goes_on_with_new_micrographs_alone(continued: Continued) -> None:
    head = len(lines("documents.jsonl"))
    assert [(d["seq"], d["micrograph"], d["supersedes"]) for d in continued.new] == [
        (head + 1, "f.mrc", 0),
        (head + 2, "e.mrc", head),
    ]
    # The limits that were asked for in the recorded session hold on.
    assert {(d["threshold"], d["min_distance_angstrom"]) for d in continued.new} == {(0.9, 60.0)}
    assert continued.stars == ["e_picks.star", "f_picks.star"]


# --- a session as the recorded one ----------------------------------------------------------------------------------


def test_the_same_session_gives_the_same_documents(played: Played) -> None:
    expected = [json.loads(line) for line in lines("documents.jsonl")]
    assert [json.loads(body)["seq"] for body in played.bodies] == [document["seq"] for document in expected]
    for document, body in zip(expected, played.bodies, strict=True):
        assert_same(document, json.loads(body), played.root)
    kinds = {(d["type"], d.get("event", "")) for d in expected}
    assert kinds >= {("micrograph", ""), ("failed", ""), *(("model", e) for e in ("loaded", "refused", "rolled_back"))}


def test_the_same_session_is_published_under_the_same_topics_in_the_same_words(played: Played) -> None:
    assert [topic for topic, _ in played.published] == lines("topics.txt")
    for line, (_, body) in zip(lines("published.jsonl"), played.published, strict=True):
        assert_same(json.loads(line), json.loads(body), played.root)


def test_what_is_published_is_what_is_replayed_but_for_the_generation(played: Played) -> None:
    generation = json.loads(played.published[0][1])["generation"]
    expected = [body[:-1] + f',"generation":"{generation}"}}'.encode() for body in played.bodies]
    assert [body for _, body in played.published[1:]] == expected
    assert [page["generation"] for page in played.pages] == [generation]


def test_the_client_gives_out_the_same_documents(played: Played) -> None:
    assert played.received == played.bodies
    assert played.of_directory == [str(played.root / "watched" / "grid 1" / "b.mrc")] * 2


def test_the_files_of_picks_have_the_recorded_names(played: Played) -> None:
    assert [name.encode() for name in played.stars] == lines("star-files.txt")


def test_the_recorded_addresses_answer_as_they_did(played: Played) -> None:
    assert played.addresses == recorded("addresses.json")


@pytest.mark.parametrize("name", recorded("metrics.json"))
def test_every_recorded_metric_is_there_with_its_type_help_and_labels(played: Played, name: str) -> None:
    expected, found = recorded("metrics.json")[name], played.metrics[name]
    assert (found["type"], found["help"]) == (expected["type"], expected["help"])
    assert_holds(list(expected["samples"]), found["samples"], name)
    for sample, value in expected["samples"].items():
        if value is not None:
            assert found["samples"][sample] == pytest.approx(
                value, abs=scenario.PICKED * ODD_PICKS if "_picks" in sample else 0
            ), sample
