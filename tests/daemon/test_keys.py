"""CURVE: who has a listed key gets everything, everybody else nothing, on either socket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

import frazil
from frazil.errors import SettingsError
from frazil.keys import new_keys, read_key_pair, read_public_key
from frazil.session.outbox.stream import Access

PATIENCE_SECONDS = 240.0
NOTHING_SECONDS = 1.0
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821


class Keys:
    """A daemon's pair, a list with alice on it, and others' pairs."""

    def __init__(self, folder: Path) -> None:
        self.server_public, self.server_secret = new_keys(folder / "server", "titan")
        self.clients = folder / "clients"
        self.clients.mkdir()
        self.public, self.secret = {}, {}
        for name in ("alice", "mallory"):
            self.public[name], self.secret[name] = new_keys(folder / name, name)
        self.list("alice")

    def list(self, name: str) -> None:
        (self.clients / f"{name}.key").write_bytes(self.public[name].read_bytes())

    def access(self) -> Access:
        return Access(self.server_secret, self.clients)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_the_secret_half_of_a_new_pair_is_for_its_owner_alone_and_the_other_for_all(tmp_path: Path) -> None:
    umask = os.umask(0o077)  # as root's may be
    try:
        new_keys(tmp_path / "private")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "private" / "frazil.key").stat().st_mode) == 0o644
    public, secret = new_keys(tmp_path / "new" / "folder", "titan1")
    assert [public.name, secret.name] == ["titan1.key", "titan1.key_secret"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in (public, secret)] == [0o644, 0o600]
    pair = read_key_pair(secret)
    assert pair.public == read_public_key(public) == read_public_key(secret)
    assert zmq.curve_public(pair.secret) == pair.public
    assert pair.secret.decode() not in public.read_text()
    assert pair.secret.decode() not in repr(pair)


def test_zeromqs_own_tools_read_the_pair(tmp_path: Path) -> None:
    from zmq.auth import load_certificate

    public, secret = new_keys(tmp_path)
    assert load_certificate(secret) == (read_key_pair(secret).public, read_key_pair(secret).secret)
    assert load_certificate(public) == (read_public_key(public), None)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    _, secret = new_keys(tmp_path)
    before = secret.read_bytes()
    with pytest.raises(SettingsError, match=r"frazil\.key: expected a new file, found one"):
        new_keys(tmp_path)
    assert secret.read_bytes() == before
    with pytest.raises(SettingsError, match="expected a name"):
        new_keys(tmp_path, "../elsewhere")


def test_keys_that_cannot_be_used_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public, secret = new_keys(tmp_path)
    with pytest.raises(SettingsError, match=r"frazil\.key: expected a \.key_secret file with both halves"):
        read_key_pair(public)
    secret.chmod(0o644)
    with pytest.raises(SettingsError, match="only its owner may read"):
        read_key_pair(secret)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # systemd gives its service rights by an ACL
    assert read_key_pair(secret).secret
    (tmp_path / "other").write_bytes(os.urandom(10_000))
    with pytest.raises(SettingsError, match=r"other: expected a \.key file with a public key"):
        read_public_key(tmp_path / "other")
    with pytest.raises(SettingsError, match="missing: expected a key, cannot read it"):
        read_public_key(tmp_path / "missing")


def test_a_listed_key_gets_everything(open_stream: Open, keys: Keys) -> None:
    daemon = open_stream(address="tcp://0.0.0.0:0", access=keys.access())
    sent = [daemon.commit(f"{i}.mrc") for i in range(5)]
    address = daemon.address.replace("0.0.0.0", "127.0.0.1")
    options = {"key": keys.secret["alice"], "server_key": keys.server_public}
    with frazil.PickStream(address, since=1, **options) as stream:
        assert [stream.receive(PATIENCE_SECONDS) for _ in range(5)] == sent
        live = daemon.commit("live.mrc")
        assert stream.receive(PATIENCE_SECONDS) == live
    with frazil.PickStream(address, since=1, **options) as stream:
        assert [stream.receive(PATIENCE_SECONDS) for _ in range(6)] == [*sent, live]
        assert stream.replayed == 6


@pytest.mark.parametrize("who", ["nobody", "mallory", "alice with a wrong key of the daemon"])
def test_everybody_else_gets_nothing_on_either_socket(open_stream: Open, keys: Keys, who: str) -> None:
    daemon = open_stream(access=keys.access())
    daemon.commit("a.mrc")
    context = zmq.Context()
    subscriber, asker = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    try:
        for socket, address in ((subscriber, daemon.address), (asker, daemon.stream.replay)):
            socket.linger = 0
            if who != "nobody":
                own = read_key_pair(keys.secret["mallory" if who == "mallory" else "alice"])
                socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
                wrong = zmq.curve_keypair()[0]
                socket.curve_serverkey = read_public_key(keys.server_public) if who == "mallory" else wrong
            socket.connect(address)
        subscriber.subscribe(b"")
        asker.send(b'{"from": 1}')
        daemon.commit("b.mrc")
        assert not subscriber.poll(NOTHING_SECONDS * 1000)
        assert not asker.poll(0)
        assert daemon.sample("frazil_replay_requests_total", outcome="answered") == 0
    finally:
        context.destroy(linger=0)


def test_the_list_may_grow_and_shrink_while_the_daemon_runs(open_stream: Open, keys: Keys) -> None:
    daemon = open_stream(access=keys.access())
    sent = daemon.commit("a.mrc")
    options = {"since": 1, "key": keys.secret["mallory"], "server_key": keys.server_public}
    with frazil.PickStream(daemon.address, **options) as stream:
        assert stream.receive(NOTHING_SECONDS) is None
    assert daemon.sample("frazil_stream_refused_total") >= 1
    keys.list("mallory")
    with frazil.PickStream(daemon.address, **options) as stream:
        assert stream.receive(PATIENCE_SECONDS) == sent
    (keys.clients / "mallory.key").unlink()
    (keys.clients / "broken.key").write_text("no key")
    with frazil.PickStream(daemon.address, **options) as stream:
        assert stream.receive(NOTHING_SECONDS) is None


def test_no_list_is_refused(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a directory with the clients'"):
        Access(keys.server_secret, tmp_path / "missing")
