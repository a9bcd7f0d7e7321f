"""One subscriber and several daemons, over real sockets: the documents of each once and in order, beside the others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import frazil
from frazil.documents import NumberedDocument
from frazil.errors import AddressError, SettingsError
from frazil.keys import new_keys

PATIENCE_SECONDS = 240.0
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821
Taken = dict[str, list[NumberedDocument]]


def take(stream: frazil.PickStream, count: int) -> Taken:
    """So many documents, each waited for with patience, by who sent them."""
    taken: Taken = {}
    for number in range(count):
        document = stream.receive(PATIENCE_SECONDS)
        assert document is not None, f"only {number} of {count} came"
        taken.setdefault(stream.source, []).append(document)
    return taken


def joined(*parts: Taken) -> Taken:
    together: Taken = {}
    for part in parts:
        for name, documents in part.items():
            together.setdefault(name, []).extend(documents)
    return together


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frazil.client.source._SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("frazil.client.source._RENEWAL_SECONDS", 0.1)
    monkeypatch.setattr("frazil.client.streams._POLL_SECONDS", 0.02)


# --- merged -----------------------------------------------------------------------------------------------------------


def test_the_documents_of_several_daemons_come_live_and_late_and_the_stream_names_who_sent_them(
    open_stream: Open,
) -> None:
    one = open_stream("one")
    a = open_stream("a", session="a", is_microscope=True)
    b = open_stream("b", session="b", beside=a)
    addresses = {"titan1": one.address, "krios2": a.address}
    sent: Taken = {"titan1": [], "krios2": []}
    with frazil.PickStream(addresses) as live:
        assert live.source == ""
        assert live.wait_connected(PATIENCE_SECONDS)
        for number in range(120):
            sent["titan1"].append(one.commit(f"{number}.mrc"))
            sent["krios2"].append((a, b)[number % 2].commit(f"{number}.mrc"))
        taken = take(live, 240)
        assert taken["titan1"] == sent["titan1"]
        for session in "ab":
            expected = [document for document in sent["krios2"] if document.session == session]
            assert [document for document in taken["krios2"] if document.session == session] == expected
        one.commit("last.mrc")
        take(live, 1)
        assert (live.source, live.epoch, live.connected) == ("titan1", one.ledger.epoch, True)
    with frazil.PickStream(list(addresses.values()), since=1) as late:
        taken = take(late, 241)
        assert {name: len(documents) for name, documents in taken.items()} == {one.address: 121, a.address: 120}
        assert late.replayed == 241


def test_daemons_take_turns_so_that_a_backlog_of_one_does_not_hold_up_the_others(open_stream: Open) -> None:
    busy, quiet = open_stream("busy"), open_stream("quiet")
    for number in range(1500):  # more than is read while a loaded machine lets the other answer
        busy.commit(f"{number}.mrc")
    for number in range(3):
        quiet.commit(f"{number}.mrc")
    with frazil.PickStream({"busy": busy.address, "quiet": quiet.address}, since=1) as stream:
        assert stream.wait_connected(PATIENCE_SECONDS)
        names = []
        for _ in range(1503):
            assert stream.receive(PATIENCE_SECONDS) is not None
            names.append(stream.source)
    last = max(place for place, name in enumerate(names) if name == "quiet")
    assert last < 1500  # and not after all of the other


@pytest.mark.parametrize("form", [list, lambda addresses: {"titan1": addresses[0]}])
def test_a_list_of_one_is_as_the_one(open_stream: Open, form: Callable[[list[str]], object]) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{number}.mrc") for number in range(3)]
    with frazil.PickStream(form([daemon.address]), since=1) as stream:  # type: ignore[arg-type]
        assert list(take(stream, 3).values()) == [sent]
        assert stream.epoch == daemon.ledger.epoch


def test_asyncio_gets_the_same_from_several(open_stream: Open) -> None:
    daemons = {"a": open_stream("a"), "b": open_stream("b")}
    sent = {name: [daemon.commit(f"{number}.mrc") for number in range(5)] for name, daemon in daemons.items()}

    async def follow() -> Taken:
        taken: Taken = {}
        addresses = {name: daemon.address for name, daemon in daemons.items()}
        async with frazil.AsyncPickStream(addresses, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
            async for document in stream:
                taken.setdefault(stream.source, []).append(document)
                if sum(map(len, taken.values())) == 10:
                    return taken
        raise AssertionError("it ended")

    assert asyncio.run(follow()) == sent


# --- one of them is down, or at fault ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_patience")
def test_one_that_is_down_is_named_once_and_holds_up_no_other_and_comes_back_complete(
    open_stream: Open, caplog: pytest.LogCaptureFixture
) -> None:
    up, down = open_stream("up"), open_stream("down")
    sent: Taken = {"up": [], "down": [down.commit("first.mrc")]}
    with frazil.PickStream({"up": up.address, "down": down.address}, since=1) as stream:
        taken = [take(stream, 1)]
        down.stream.close()
        told = f"down ({down.address}): the daemon no longer answers; waiting for it"
        while told not in caplog.messages:  # it is seen although the other one goes on
            sent["up"].append(up.commit(f"{len(sent['up'])}.mrc"))
            taken.append(take(stream, 1))
        again = open_stream("again", address=down.address, replay=down.stream.replay)
        sent["down"] += [again.commit(f"{number}.mrc") for number in range(3)]
        taken.append(take(stream, 3))
        assert joined(*taken) == sent
    assert f"down ({down.address}): the daemon answers" in caplog.messages
    assert "down: the ledger is another one: starting over at its first document" in caplog.messages


def test_where_nobody_of_several_ever_answered_the_error_names_them_and_one_that_did_is_enough(
    open_stream: Open,
) -> None:
    daemon, gone = open_stream("a"), open_stream("b")
    gone.stream.close()
    nobody = {"x": gone.address, "y": gone.stream.replay}
    with (
        frazil.PickStream(nobody, timeout_seconds=0.1) as stream,
        pytest.raises(AddressError, match=r"x \(tcp.*nobody answers.*; y \(tcp.*nobody answers"),
    ):
        list(stream)
    with frazil.PickStream({"a": daemon.address, **nobody}, timeout_seconds=0.1) as stream:
        while not stream._sources[0].followers.connected:  # the others never are
            assert stream.receive(0.1) is None
        assert stream.connected is False
        assert list(stream) == []


@pytest.mark.usefixtures("short_patience")
def test_one_at_fault_is_put_aside_and_all_at_fault_are_an_error(
    open_stream: Open, caplog: pytest.LogCaptureFixture
) -> None:
    one = open_stream("one")
    a = open_stream("a", session="a", is_microscope=True)
    sent = [a.commit(f"{number}.mrc") for number in range(3)]
    with frazil.PickStream({"one": one.address, "krios2": a.address}, "a", since=1) as stream:
        assert take(stream, 3) == {"krios2": sent}
        while "put aside" not in caplog.text:
            assert stream.receive(0.05) is None
        sent.append(a.commit("last.mrc"))
        assert take(stream, 1) == {"krios2": sent[3:]}
        assert stream.receive(1.0) is None  # it is tried again meanwhile
    told = [line for line in caplog.messages if "put aside" in line]
    assert len(told) == 1
    assert told[0].startswith(f"one ({one.address}): put aside, other daemons go on: expected a microscope with")
    with (
        frazil.PickStream({"one": one.address, "two": open_stream("two").address}, "a", since=1) as stream,
        pytest.raises(AddressError, match="expected a microscope with session a"),
    ):
        stream.receive(PATIENCE_SECONDS)


def test_who_is_listed_under_two_addresses_is_noticed(open_stream: Open, caplog: pytest.LogCaptureFixture) -> None:
    daemon = open_stream()
    sent = [daemon.commit("a.mrc")]
    with frazil.PickStream([daemon.address, daemon.address.replace("127.0.0.1", "localhost")], since=1) as stream:
        assert list(take(stream, 2).values()) == [sent, sent]
    assert caplog.text.count("its documents may come twice") == 1


# --- the cursor -------------------------------------------------------------------------------------------------------


def test_one_cursor_has_a_place_for_each_and_a_daemon_that_is_added_comes_from_its_beginning(
    open_stream: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = (open_stream(name) for name in "abc")
    sent: Taken = {"a": [a.commit(f"{n}.mrc") for n in range(7)], "b": [b.commit(f"{n}.mrc") for n in range(4)]}
    addresses = {"a": a.address, "b": b.address}
    taken = []
    for count in (5, 3):
        with frazil.PickStream(addresses, resume=tmp_path / "cursor") as stream:
            taken.append(take(stream, count))
            stream.acknowledge()
    assert (tmp_path / "cursor").stat().st_size == 2 * 128
    sent["c"] = [c.commit("c.mrc")]
    with frazil.PickStream({**addresses, "c": c.address}, resume=tmp_path / "cursor") as stream:
        taken.append(take(stream, 4))
    assert joined(*taken) == sent
    assert "c: the cursor has no place in this ledger: starting at its first document" in caplog.messages


def test_what_was_in_hand_when_a_program_ended_comes_again_from_the_same_daemon(
    open_stream: Open, tmp_path: Path
) -> None:
    a, b = open_stream("a"), open_stream("b")
    for daemon in (a, b):
        daemon.commit("first.mrc")
        daemon.commit("second.mrc")
    addresses = {"a": a.address, "b": b.address}
    with frazil.PickStream(addresses, resume=tmp_path / "cursor") as stream:
        take(stream, 2)
        unfinished = take(stream, 1)
    with frazil.PickStream(addresses, resume=tmp_path / "cursor") as stream:
        rest = take(stream, 2)
    ((source, [document]),) = unfinished.items()
    assert document in rest[source]


# --- options ----------------------------------------------------------------------------------------------------------


def test_each_daemon_may_have_keys_of_its_own(open_stream: Open, tmp_path: Path) -> None:
    from frazil.session.outbox.stream import Access

    public, secret = new_keys(tmp_path / "clients", "alice")
    daemons, server_keys = {}, {}
    for name in ("a", "b"):
        server_keys[name], own = new_keys(tmp_path / name, name)
        daemons[name] = open_stream(name, access=Access(own, public.parent))
    sent = {name: [daemon.commit(f"{name}.mrc")] for name, daemon in daemons.items()}
    sent["open"] = [(unlocked := open_stream("open")).commit("open.mrc")]
    addresses = {name: daemon.address for name, daemon in daemons.items()} | {"open": unlocked.address}
    with frazil.PickStream(addresses, since=1, key=secret, server_key={**server_keys, "open": None}) as stream:
        assert take(stream, 3) == sent
    with pytest.raises(SettingsError, match="server_key: expected a value for each of a, b, open, found a, b"):
        frazil.PickStream(addresses, key=secret, server_key=server_keys)
    with pytest.raises(SettingsError, match="key, server_key: expected both or neither"):
        frazil.PickStream(addresses, key=secret)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ([], "expected the address of a daemon, found none"),
        ([f"tcp://a:{port}" for port in range(1, 202)], "expected at most 200 daemons, found 201: use two streams"),
        (["tcp://a:1", "tcp://a:1"], "expected every daemon once, found tcp://a:1 twice"),
        ({"a": "tcp://a:1", "b": "tcp://a:1"}, "expected every daemon once, found tcp://a:1 twice"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(address: object, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        frazil.PickStream(address)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", [frazil.PickStream, frazil.AsyncPickStream])
def test_an_option_that_there_is_not_is_refused(kind: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'topic'"):
        kind("tcp://127.0.0.1:1", topic=["failed"])


# --- frazil listen ----------------------------------------------------------------------------------------------------


def listen(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("frazil"), "listen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def test_listen_names_who_sent_each_line_and_gives_each_daemon_a_directory(open_stream: Open, tmp_path: Path) -> None:
    one = open_stream("one")
    a = open_stream("a", session="apo", is_microscope=True)
    one.commit("m.mrc")
    a.commit("m.mrc")
    named = (f"titan1={one.address}", f"krios2={a.address}", "--since", 1, "--count", 2)
    lines = listen(*named).stdout.splitlines()
    assert sorted(line.split()[:3] for line in lines) == [["krios2", "1", "apo"], ["titan1", "1", "1"]]
    documents = [json.loads(line) for line in listen(*named, "--json").stdout.splitlines()]
    assert {(one["source"], one.get("session", "")) for one in documents} == {("titan1", ""), ("krios2", "apo")}
    assert listen(*named, "--to", tmp_path / "out").stderr == ""
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.star")}
    assert written == {"out/titan1/m_picks.star", "out/krios2/apo/m_picks.star"}
    unnamed = listen(one.address, a.address, "--to", tmp_path / "out")
    assert (unnamed.returncode, unnamed.stdout) == (78, "")
    assert "--to: expected a name for each of several daemons" in unnamed.stderr
    assert "expected every daemon once" in listen(named[0], f"titan1={a.address}").stderr
