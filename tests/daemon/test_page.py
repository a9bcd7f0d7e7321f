"""The page's HTTP side: what it answers, whom it refuses, and what bad clients get."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import itertools
import json
import socket
import stat
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frazil.documents import MicrographDocument, PickColumns, encode_document
from frazil.errors import AddressError, FrazilError, OutputError
from frazil.health.state import DaemonState, IntakeState, ModelState, PickState, SessionState
from frazil.page.gate import Gate, HostNames, Token
from frazil.page.server import Connection, PageServer
from frazil.page.session import rate_per_minute
from frazil.picking import ScoreMap
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, Note
from frazil.session.retune.repick import pack_score_map

OpenPage = Callable[..., Any]
MakeDocument = Callable[..., MicrographDocument]
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
PATIENCE_SECONDS = 240.0


# --- asking -----------------------------------------------------------------------------------------------------


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def ask(url: str) -> Any:
    status, _, body = get(url)
    assert status == 200, body
    return json.loads(body)


def post(page: Any, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection(*page.address, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def say_raw(page: Any, request: bytes) -> bytes:
    """Send bytes, and read what comes until the server closes."""
    with socket.create_connection(page.address, PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@contextmanager
def events(page: Any) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection(*page.address, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("GET", "/events")
        with connection.getresponse() as answer:
            yield answer


def next_event(answer: http.client.HTTPResponse) -> tuple[str, str]:
    """The next event that is about something; its name and its data."""
    name = data = ""
    while True:
        line = answer.readline().decode()
        assert line, "the stream ended"
        kind, _, value = line.rstrip("\n").partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            data = value
        elif not kind and name:
            return name, data


# --- micrographs in a ledger ------------------------------------------------------------------------------------


def bumpy(shape: tuple[int, int] = (90, 140), peaks: tuple[tuple[int, int, float], ...] = ()) -> ScoreMap:
    """A score map with single peaks, given as row, column and score of the grid; its step is 4 pixels."""
    scores = np.zeros((20, 30), np.float32)
    for row, column, score in peaks:
        scores[row, column] = score
    return ScoreMap(scores=scores, y_px=np.arange(20) * 4.0 + 6, x_px=np.arange(30) * 4.0 + 10, shape=shape)


PEAKS = ((3, 4, 0.9), (10, 20, 0.7), (15, 8, 0.3), (6, 25, 0.02))


def commit(ledger: Ledger, document: MicrographDocument, key: str, score_map: ScoreMap | None = None) -> int:
    seq, _ = ledger.commit_picked(
        key,
        HANDLED,
        lambda epoch, seq, older: encode_document(
            msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=older)
        ),
        score_map=None if score_map is None else pack_score_map(score_map),
        complete_at_unix=time.time() - 0.5,
    )
    return seq


@pytest.fixture
def picked(make_document: MakeDocument, tmp_path: Path) -> MicrographDocument:
    """A document whose picks are those of the bumpy map above 0.5."""
    return msgspec.structs.replace(
        make_document(str(tmp_path / "a.mrc")),
        shape=(90, 140),
        pixel_size_angstrom=2.0,
        diameter_px=8.0,
        picks=PickColumns(y=[18.0, 46.0], x=[26.0, 90.0], score=[0.9, 0.7]),
    )


# --- what it answers --------------------------------------------------------------------------------------------


def test_metrics_are_served_as_prometheus_reads_them(open_page: OpenPage) -> None:
    page = open_page()
    page.state = DaemonState(sessions=(SessionState(pick=PickState(read=3), ledger_head=42),))
    status, headers, body = get(f"{page.url}/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert 'frazil_queue_depth{queue="read"} 3.0' in body.decode()
    assert "frazil_ledger_sequence 42.0" in body.decode()
    assert 'frazil_micrographs_total{outcome="picked",reason=""} 0.0' in body.decode()
    _, headers, body = get(f"{page.url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_healthy_and_ready_are_two_things(open_page: OpenPage) -> None:
    page = open_page()
    assert get(f"{page.url}/healthz")[0] == get(f"{page.url}/readyz")[0] == 200
    page.state = DaemonState(unready="the model is being loaded")
    assert get(f"{page.url}/healthz")[0] == 200
    assert get(f"{page.url}/readyz")[::2] == (503, b"the model is being loaded\n")
    page.state = DaemonState(unwell="a thread died", unready="the model is being loaded")
    assert get(f"{page.url}/healthz")[::2] == get(f"{page.url}/readyz")[::2] == (503, b"a thread died\n")


def test_the_page_shows_the_state_and_programs_get_all_of_it(open_page: OpenPage) -> None:
    page = open_page()
    assert ask(f"{page.url}/api/now")["queues"] == {"incomplete": 0, "read": 0, "pick": 0, "write": 0}
    session = SessionState(
        intake=IntakeState(incomplete=4), pick=PickState(read=3, doubts=frozenset({"blank"})), blocked="full"
    )
    page.state = DaemonState(started_at=1.5, model=ModelState(name="fcn", version=2), sessions=(session,))
    now = ask(f"{page.url}/api/now")
    assert now["queues"] == {"incomplete": 4, "read": 3, "pick": 0, "write": 0}
    assert [trouble["alert"] for trouble in now["troubles"]] == ["FrazilOutputBlocked", ""]
    status, headers, body = get(f"{page.url}/api/state")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert msgspec.json.decode(body, type=DaemonState) == page.state


def test_the_state_is_told_at_once_and_again_when_it_changes(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    with events(page) as stream:
        name, data = next_event(stream)
        assert (name, json.loads(data)["standing"]["latest"]) == ("now", [])
        commit(page.ledger, picked, "a.mrc")
        name, data = next_event(stream)
        while name == "beat":
            name, data = next_event(stream)
        latest = json.loads(data)["standing"]["latest"]
        assert [(one["path"], one["picks"], round(one["score"], 3)) for one in latest] == [("a.mrc", 2, 0.8)]


def test_the_link_beats_while_nothing_changes(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frazil.page.live._BEAT_SECONDS", 0.2)
    with events(open_page()) as stream:
        assert [next_event(stream)[0] for _ in range(3)] == ["now", "beat", "beat"]


def test_browsers_are_told_that_the_daemon_ends(open_page: OpenPage) -> None:
    page = open_page()
    with events(page) as stream:
        next_event(stream)
        page.server.close()
        assert next_event(stream)[0] == "end"


def test_an_overlay_has_the_picks_and_what_was_nearly_one(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    first = commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    second = commit(page.ledger, picked, "b.mrc")
    overlay = ask(f"{page.url}/api/overlay/{first}?hidden=1")
    assert overlay["shape"] == [90, 140]
    assert overlay["picks"] == {"y": [18.0, 46.0], "x": [26.0, 90.0], "score": [0.9, 0.7]}
    assert overlay["hidden"] == {"y": [66.0], "x": [42.0], "score": [pytest.approx(0.3, abs=1e-4)]}
    assert overlay["score_map"] == {"y": 4.0, "x": 8.0, "height": 80.0, "width": 120.0}
    assert (overlay["older"], overlay["newer"]) == (None, second)
    assert ask(f"{page.url}/api/overlay/{first}")["hidden"] is None
    assert ask(f"{page.url}/api/overlay/{second}?hidden=1")["hidden"] is None
    status, headers, png = get(f"{page.url}/api/score-map/{first}")
    assert (status, headers["content-type"]) == (200, "image/png")
    drawn = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert drawn.shape == (20, 30, 4)
    assert np.unravel_index(drawn[..., 3].argmax(), (20, 30)) == (3, 4)
    assert get(f"{page.url}/api/score-map/{second}")[0] == 404


def test_a_picture_is_that_of_the_file_and_not_square(
    open_page: OpenPage, picked: MicrographDocument, write_mrc: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).normal(100, 10, (900, 1400)).astype(np.float32)
    pixels[:450, :700] -= 30
    write_mrc(tmp_path / "a.mrc", pixels)
    page = open_page()
    seq = commit(page.ledger, msgspec.structs.replace(picked, shape=(900, 1400)), "a.mrc")
    status, headers, jpeg = get(f"{page.url}/api/picture/{seq}")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (658, 1024)
    assert picture[:300, :480].mean() + 50 < picture[360:, 540:].mean()
    small = get(f"{page.url}/api/picture/{seq}?size=small")[2]
    assert cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (206, 320)


def test_without_its_file_a_micrograph_keeps_its_picks_and_the_reason_is_said(
    open_page: OpenPage, picked: MicrographDocument, write_mrc: Callable[..., Path], tmp_path: Path
) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc")
    status, _, body = get(f"{page.url}/api/picture/{seq}")
    assert (status, json.loads(body)["error"]) == (404, "a.mrc: the file is gone; its picks are kept")
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).random((50, 60), np.float32))
    assert "written again" in json.loads(get(f"{page.url}/api/picture/{seq}")[2])["error"]
    (tmp_path / "a.mrc").write_bytes(b"no micrograph")
    assert "expected an MRC header" in json.loads(get(f"{page.url}/api/picture/{seq}")[2])["error"]
    assert len(ask(f"{page.url}/api/overlay/{seq}")["picks"]["y"]) == 2


def test_a_hundred_who_ask_for_one_picture_have_it_made_once(
    open_page: OpenPage,
    picked: MicrographDocument,
    write_mrc: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    from frazil.page import pictures

    def draw(pixels: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(pixels.shape)
        return grey(pixels, *args, **kwargs)

    grey = pictures.grey_picture
    monkeypatch.setattr(pictures, "grey_picture", draw)
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(100, 10, (900, 1400)).astype(np.float32))
    page = open_page()
    seq = commit(page.ledger, msgspec.structs.replace(picked, shape=(900, 1400)), "a.mrc")
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(get(f"{page.url}/api/picture/{seq}")[0])) for _ in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 100
    assert len(made) == 1


def test_a_result_of_an_earlier_ledger_is_not_mistaken_for_this_ones(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    assert get(f"{page.url}/api/score-map/{seq}?epoch={page.ledger.epoch}")[0] == 200
    assert get(f"{page.url}/api/score-map/{seq}?epoch=another")[0] == 404


def test_the_list_is_searched_filtered_and_paged(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    for k in range(3):
        commit(page.ledger, picked, f"square_1/Hole_{k}%.mrc")
    stamp = FileStamp(size=1, mtime_ns=1)
    page.ledger.note([Note(key=f"late_{k:03}.mrc", stamp=stamp, state="seen") for k in range(150)])
    found = ask(f"{page.url}/api/micrographs")
    assert (found["count"], found["offset"], len(found["rows"])) == (153, 0, 100)
    assert found["rows"][0] | {"at": 0} == {
        "path": "square_1/Hole_2%.mrc", "state": "picked", "reason": "", "at": 0, "seq": 3, "picks": 2, "score": 0.8,
        "mark": "", "corrected": False, "grade": "", "category": "", "precision": None, "defocus_um": None,
        "resolution_angstrom": None, "ice": None, "junk_fraction": None,
    }  # fmt: skip
    assert [row["path"] for row in ask(f"{page.url}/api/micrographs?offset=100")["rows"]] == [
        f"late_{k:03}.mrc" for k in reversed(range(53))
    ]
    assert ask(f"{page.url}/api/micrographs?search=hOLE_1%25")["count"] == 1
    assert ask(f"{page.url}/api/micrographs?search=%25")["count"] == 3
    assert ask(f"{page.url}/api/micrographs?states=seen,gone")["count"] == 150
    assert ask(f"{page.url}/api/micrographs?states=picked&search=late")["rows"] == []


def test_a_revised_result_takes_the_place_of_its_older_one_in_the_plot(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    commit(page.ledger, picked, "a.mrc")
    commit(page.ledger, msgspec.structs.replace(picked, picks=PickColumns(y=[], x=[], score=[])), "b.mrc")
    before = ask(f"{page.url}/api/series")
    assert (before["picks"], before["score"], before["complete"]) == ([2, 0], [0.8, None], True)
    three = PickColumns(y=[1, 2, 3], x=[1, 2, 3], score=[0.6, 0.6, 0.6])
    commit(page.ledger, msgspec.structs.replace(picked, picks=three), "a.mrc")
    while not (after := ask(f"{page.url}/api/series"))["complete"]:
        pass  # a plot that took long is not made anew at once
    assert (after["seq"], after["picks"], after["score"]) == ([3, 2], [3, 0], [0.6, None])
    assert after["at"] == before["at"]


# --- tuning -----------------------------------------------------------------------------------------------------


def test_other_limits_are_previewed_and_counted_without_a_token(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    commit(page.ledger, picked, "b.mrc", bumpy(peaks=PEAKS))
    lower = ask(f"{page.url}/api/preview/{seq}?threshold=0.2")
    assert [round(score, 2) for score in lower["picks"]["score"]] == [0.9, 0.7, 0.3]
    assert lower["hidden"]["score"] == []
    apart = ask(f"{page.url}/api/preview/{seq}?min_distance_angstrom=200")
    assert len(apart["picks"]["y"]) == 1
    lines = get(f"{page.url}/api/count/{seq}?threshold=0.2")[2].splitlines()
    assert json.loads(lines[-1]) == {"all": 2, "counted": 2, "before": 4, "after": 6, "untold": 0}


def test_a_preview_keeps_a_threshold_below_the_scores_that_are_shown_as_candidates(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    seq = commit(page.ledger, msgspec.structs.replace(picked, threshold=0.01), "a.mrc", bumpy(peaks=PEAKS))
    shown = ask(f"{page.url}/api/preview/{seq}?min_distance_angstrom=1")
    assert [round(score, 2) for score in shown["picks"]["score"]] == [0.9, 0.7, 0.3, 0.02]
    assert (shown["threshold"], shown["min_distance_angstrom"]) == (0.01, 1)


def test_impossible_limits_are_refused_in_words(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    impossible = ["threshold=2", "threshold=nan", "threshold=x", "edge_margin_angstrom=-1", "speed=1"]
    for what, query in itertools.product(("preview", "count"), impossible):
        status, _, body = get(f"{page.url}/api/{what}/{seq}?{query}")
        assert status == 400
        assert "expected" in json.loads(body)["error"].lower()


def test_a_preview_that_no_kept_map_can_tell_says_why(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc")
    status, _, body = get(f"{page.url}/api/preview/{seq}?threshold=0.2")
    assert (status, "found none" in json.loads(body)["error"]) == (409, True)


def test_settings_change_only_with_the_token_and_only_from_the_page_itself(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    seq = commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    path, body, kind = f"/api/retune/{seq}", b'{"threshold": 0.2}', "application/json"
    bearer = f"Bearer {page.token}"
    assert post(page, path, body, Content_Type=kind)[0] == 401
    assert post(page, path, body, Content_Type=kind, Authorization="Bearer wrong")[0] == 401
    assert post(page, path, body, Content_Type=kind, Authorization="Bearer é".encode().decode("latin-1"))[0] == 401
    assert post(page, path, body, Content_Type="text/plain", Authorization=bearer)[0] == 415
    assert post(page, path, body, Content_Type=kind, Authorization=bearer, Origin="http://evil.example")[0] == 403
    for origin in (
        "null",
        "http://[bad",
        "http://",
        f"http://x@{page.url[7:]}",
        f"{page.url}/",
        f"ftp://{page.url[7:]}",
    ):
        assert post(page, path, body, Content_Type=kind, Authorization=bearer, Origin=origin)[0] == 403, origin
    assert page.ledger.recall("retune") == ""
    assert post(page, path, b'{"threshold": 7}', Content_Type=kind, Authorization=bearer)[0] == 400
    assert post(page, path, b'{"threshold": ', Content_Type=kind, Authorization=bearer)[0] == 400
    assert post(page, path, b'{"treshold": 0.2}', Content_Type=kind, Authorization=bearer)[0] == 400
    assert post(page, path, b" " * 5000 + body, Content_Type=kind, Authorization=bearer)[0] == 400
    assert page.ledger.recall("retune") == ""
    status, answer = post(page, path, body, Content_Type=kind, Authorization=bearer, Origin=page.url)
    assert (status, "threshold 0.2" in answer["asked"]) == (202, True)
    assert "0.2" in page.ledger.recall("retune")
    both, choose = b'{"threshold": 0.2, "choose": true}', b'{"choose": true}'
    assert post(page, path, both, Content_Type=kind, Authorization=bearer)[0] == 400
    status, answer = post(page, path, choose, Content_Type=kind, Authorization=bearer, Origin=page.url)
    assert (status, "threshold chosen by frazil" in answer["asked"]) == (202, True)
    assert "0.2" not in page.ledger.recall("retune")


def test_no_half_token_is_left_by_a_full_disk(small_disk: Callable[..., Path]) -> None:
    disk = small_disk("disk", 64)
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(OutputError, match="No space left on device"):
        Token(disk / "token")
    (disk / "filler").unlink()
    Token(disk / "token")


def test_the_token_is_for_the_daemons_user_alone_and_outlives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "token"
    Token(file)
    secret = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    again = Token(file)
    assert again.opens(f"Bearer {secret}")
    assert not again.opens(f"Basic {secret}")
    assert not again.opens(None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("short\n")
    with pytest.raises(OutputError, match="16 letters or more"):
        Token(file)


# --- bad clients ------------------------------------------------------------------------------------------------


NAMES = ["titan1.example", "Proxy_2"]
HOST_NAMES = HostNames(NAMES)
WRONG_HOSTS = (
    *("evil.example", "evil.example:9457", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", ""),
    *("localhost/evil.com", "evil.com@localhost", "localhost@evil.com", "localhost:80@evil.com", "localhost#evil.com"),
    *("localhost?evil.com", "localhost\\evil.com", "localhost:99999", "localhost:x", "localhost:-1", "localhost:8:0"),
    *("localhost evil.com", "localhost,evil.com", "localhost%2eevil.com", "localhost..", ".localhost", "[localhost]"),
    *("[127.0.0.1]", "::1", "[::1]x", "[fe80::1%eth0]", "[v1.x]", "127.1", "0x7f.0.0.1", "127.0.0.1.", "localhost:٣"),
)


def test_only_names_and_addresses_of_this_machine_are_answered(
    open_page: OpenPage, caplog: pytest.LogCaptureFixture
) -> None:
    page = open_page(names=NAMES)
    for host in ("127.0.0.1:1", "localhost", "LOCALHOST.", "[::1]:9457", "192.0.2.7", "titan1.example:443", "proxy_2:"):
        assert get(f"{page.url}/healthz", Host=host)[0] == 200, host
    assert not caplog.records
    for host in WRONG_HOSTS:
        if host.isascii():
            assert get(f"{page.url}/healthz", Host=host)[0] in (400, 421), host
    assert None not in HostNames([])


def test_who_asks_under_another_name_is_told_in_the_log_once_with_what_to_set(
    open_page: OpenPage, caplog: pytest.LogCaptureFixture
) -> None:
    page = open_page()
    for _ in range(3):
        assert get(f"{page.url}/metrics", Host="scope-pc:9457")[0] == 421
    [record] = caplog.records
    assert "'scope-pc:9457'" in record.getMessage()
    assert 'http_names = ["scope-pc"]' in record.getMessage()
    for number in range(100):
        get(f"{page.url}/metrics", Host=f"n{number}")
    assert len(caplog.records) < 30


_PIECES = st.sampled_from(
    [
        *("localhost", "titan1.example", "127.0.0.1", "[::1]", "::1", "evil.com", "http://", "https://", ":9457", ":"),
        *".@/\\?#%[] \t,;'\"<>-_",
        *("%2e", "\x00", "\u0660", "\xa0", "xn--", "null"),
    ]
)
_AUTHORITIES = st.lists(_PIECES, max_size=5).map("".join) | st.text(max_size=20)


@settings(deadline=None)
@given(host=_AUTHORITIES)
@example("localhost/evil.com")
@example("evil.com@localhost")
def test_whatever_host_is_accepted_leads_a_browser_to_a_name_or_address_of_this_machine(host: str) -> None:
    if host not in HOST_NAMES:
        return
    led_to = urllib.parse.urlsplit(f"http://{host}/page")
    assert (led_to.netloc, led_to.path, led_to.query, led_to.fragment) == (host, "/page", "", "")
    assert (led_to.username, led_to.password) == (None, None)
    assert led_to.hostname is not None
    own = {"localhost", socket.gethostname().lower(), *Path("/etc/hosts").read_text().lower().split()}
    if led_to.hostname.removesuffix(".") not in own | {name.lower() for name in NAMES}:
        ipaddress.ip_address(led_to.hostname)


@settings(deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "", "get"]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [b"host", b"origin", b"content-type", b"content-length", b"transfer-encoding", b"authorization", b"x"]
            ),
            _AUTHORITIES.map(lambda text: text.encode("utf-8", "replace"))
            | st.sampled_from([b"http://localhost:9457", b"localhost:9457", b"application/json", b"chunked", b"5"])
            | st.binary(max_size=20),
        ),
        max_size=8,
    ),
)
@example("POST", [(b"host", b"localhost"), (b"origin", b"http://[bad")])
@example("POST", [(b"host", b"localhost"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")])
def test_the_gate_answers_every_request_and_lets_no_change_through_without_the_token(
    method: str, headers: list[tuple[bytes, bytes]]
) -> None:
    answers: list[int] = []
    passed: list[str] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["method"])

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(behind, HOST_NAMES, Token(Path(folder) / "token"))
        scope = {"type": "http", "method": method, "headers": headers, "path": "/api/retune"}
        asyncio.run(gate(scope, receive, send))
    assert len(answers) + len(passed) == 1
    assert not answers or answers[0] in (400, 401, 403, 405, 415, 421)
    assert set(passed) <= {"GET", "HEAD"}
    if passed:
        names = [name for name, _ in headers]
        assert names.count(b"host") == 1
        assert not {b"content-length", b"transfer-encoding"} <= set(names)


def test_every_answer_forbids_what_the_page_does_not_need(open_page: OpenPage) -> None:
    page = open_page()
    for path in ("/", "/micrographs", "/micrograph", "/static/page.css", "/api/now", "/metrics", "/nothing"):
        _, headers, _ = get(page.url + path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_pages_hold_no_script_or_style_of_their_own_and_no_foreign_address(
    open_page: OpenPage, repository: Path
) -> None:
    page = open_page()
    browser = repository / "daemon" / "frazil" / "page" / "browser"
    for file in browser.iterdir():
        text = get(f"{page.url}/static/{file.name}")[2].decode()
        assert text == file.read_text("utf-8")
        foreign = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http:" not in foreign, file
        assert "https:" not in foreign, file
        assert "<script>" not in text, file
        assert " style=" not in text, file
        assert "innerHTML" not in text, file


def test_paths_that_climb_out_lead_nowhere(open_page: OpenPage) -> None:
    page = open_page()
    page.ledger.note([Note(key="a.mrc", stamp=FileStamp(size=1, mtime_ns=1), state="seen")])
    for path in (
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/../../etc/passwd",
        "/api/picture/..%2f..%2fetc%2fpasswd",
        "/api/picture/-1",
        "/api/picture/99999999999999999999999999",
        "/api/overlay/0",
        "/api/micrograph?path=../../etc/passwd",
        "/api/micrograph?path=%00",
    ):
        answer = say_raw(page, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), (path, answer[:200])


def test_the_list_refuses_what_cannot_be_asked(open_page: OpenPage) -> None:
    page = open_page()
    for query in ("states=bad", "offset=-1", "offset=x", "offset=9999999999", f"search={'x' * 301}"):
        assert get(f"{page.url}/api/micrographs?{query}")[0] == 400, query
    assert get(f"{page.url}/api/micrographs?states=picked,")[0] == 200


def test_malformed_and_oversize_requests_are_refused_and_others_still_answered(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "request_seconds", 2.0)
    page = open_page()
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"x" * 40000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(5000)),
    ):
        try:
            answer = say_raw(page, request)
        except ConnectionError:  # closed before all of it was sent
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), (request[:50], answer[:200])
        assert get(f"{page.url}/healthz")[0] == 200


def test_other_methods_are_refused(open_page: OpenPage) -> None:
    page = open_page()
    for method in ("DELETE", "PUT", "OPTIONS", "TRACE"):
        request = f"{method} /api/now HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert say_raw(page, request.encode()).startswith(b"HTTP/1.1 405"), method


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET / HT", b"POST /api/retune/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"],
)
def test_a_request_that_trickles_in_is_cut_off(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(Connection, "request_seconds", 0.5)
    page = open_page()
    with socket.create_connection(page.address, 0.1) as connection:
        connection.sendall(begin)
        deadline = time.monotonic() + PATIENCE_SECONDS
        ended = False
        while not ended and time.monotonic() < deadline:
            try:
                if begin:
                    connection.sendall(b"x")  # a byte now and then must not help
                ended = connection.recv(65536) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
    assert get(f"{page.url}/healthz")[0] == 200


def test_a_client_that_does_not_read_is_cut_off(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "unread_seconds", 0.5)
    page = open_page()
    asked = 3000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(page.address)
        sender = threading.Thread(
            target=lambda: _send_until_closed(connection, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * asked)
        )
        sender.start()
        wait_for(lambda: not page.server.connections())
        sender.join()
    assert get(f"{page.url}/healthz")[0] == 200


def _send_until_closed(connection: socket.socket, request: bytes) -> None:
    with contextlib.suppress(OSError):  # reset, or a broken pipe
        while True:
            connection.sendall(request)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_more_connections_than_may_be_are_told_to_come_later(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 3)
    page = open_page()
    held = [socket.create_connection(page.address) for _ in range(3)]
    try:
        wait_for(lambda: page.server.connections() == 3)
        answer = say_raw(page, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in answer
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: page.server.connections() == 0)
    assert get(f"{page.url}/healthz")[0] == 200


def test_one_browser_too_many_is_told_so_and_the_others_stay(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.page.overview._MOST_BROWSERS", 2)
    page = open_page()
    with events(page) as one, events(page) as two:
        next_event(one), next_event(two)
        status, headers, body = get(f"{page.url}/events")
        assert (status, headers["retry-after"]) == (503, "30")
        assert "as many browsers look as may" in body.decode()
        assert next_event(one)[0] == next_event(two)[0] == "beat"
    wait_for(lambda: _has_room(page))


def _has_room(page: Any) -> bool:
    with events(page) as stream:
        return stream.status == 200


def test_an_address_that_others_reach_must_be_allowed() -> None:
    with pytest.raises(AddressError, match="give `http_unencrypted = true`"):
        PageServer("0.0.0.0:0", None, allow_others=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["", "9457", ":9457", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        PageServer(address, None, allow_others=False)  # type: ignore[arg-type]


def test_a_port_in_use_is_refused(open_page: OpenPage) -> None:
    host, port = open_page().address
    with pytest.raises(AddressError, match=f"{host}:{port}: cannot serve the page there: Address already in use"):
        PageServer(f"{host}:{port}", None, allow_others=False)  # type: ignore[arg-type]


# --- what it makes of what it knows -----------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_ten_minutes() -> None:
    assert rate_per_minute([], 1000) == 0
    assert rate_per_minute([999.0 - k for k in range(60)], 1000) == pytest.approx(60)
    assert rate_per_minute([1000.0 - 60 * k for k in range(60)], 1000) == pytest.approx(1.1)
    assert rate_per_minute([10.0], 1000) == 0


def test_without_a_ledger_the_page_says_so_and_lives(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page()

    def refuse(_: Any) -> None:
        raise OutputError("no ledger")

    monkeypatch.setattr("frazil.page.session.LedgerReader.changes", refuse)
    now = ask(f"{page.url}/api/now")
    assert (now["standing"], now["troubles"][0]["says"]) == (None, "The ledger cannot be read")
    status, _, body = get(f"{page.url}/api/series")
    assert (status, json.loads(body)["error"]) == (503, "no ledger")
    assert issubclass(OutputError, FrazilError)


# --- signing in -------------------------------------------------------------------------------------------------


def sign_in(page: Any, token: str, **headers: str) -> tuple[int, str]:
    """Give a token as the page does; the status, and the cookie as a browser sends it back."""
    body = json.dumps({"token": token}).encode()
    with closing(http.client.HTTPConnection(*page.address, timeout=PATIENCE_SECONDS)) as connection:
        sent = {"Content-Type": "application/json", "Origin": page.url} | headers
        connection.request("POST", "/api/sign-in", body, sent)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("set-cookie", "")


def test_a_browser_signs_in_once_with_a_cookie_that_no_script_reads(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    told = ask(f"{page.url}/api/sign-in")
    assert told["signed_in"] is False
    assert Path(told["token_file"]).read_text().strip() == page.token
    status, cookie = sign_in(page, page.token)
    assert status == 200
    assert page.token not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    shown = cookie.partition(";")[0]
    assert json.loads(get(f"{page.url}/api/sign-in", cookie=shown)[2])["signed_in"] is True
    change = b'{"threshold": 0.4}'
    assert post(page, "/api/retune/1", change, Content_Type="application/json", Origin=page.url, Cookie=shown)[0] == 202


def test_a_wrong_token_a_forged_or_old_cookie_and_another_page_do_not_open(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    commit(page.ledger, picked, "a.mrc", bumpy(peaks=PEAKS))
    assert sign_in(page, "not the token but long") == (401, "")
    assert sign_in(page, page.token, Origin="http://evil.example")[0] == 403
    name, _, value = sign_in(page, page.token)[1].partition(";")[0].partition("=")
    until, _, signature = value.partition(".")
    late = Token(Path(ask(f"{page.url}/api/sign-in")["token_file"])).cookie(time.time() - 40 * 86400)
    for wrong in (f"{int(until) + 1}.{signature}", f"{until}.{'0' * 64}", late, page.token, "", f"{until}.ü"):
        told = post(
            page,
            "/api/retune/1",
            b'{"threshold": 0.4}',
            Content_Type="application/json",
            Origin=page.url,
            Cookie=f"{name}={wrong}".encode().decode("latin-1"),
        )
        assert told[0] == 401, wrong
    # A program that has a cookie but comes from no page, and a page of another origin, are refused.
    right = f"{name}={value}"
    assert post(page, "/api/retune/1", b"{}", Content_Type="application/json", Cookie=right)[0] == 401
    assert (
        post(page, "/api/retune/1", b"{}", Content_Type="application/json", Cookie=right, Origin="http://evil.example")[
            0
        ]
        == 403
    )


def test_signing_out_takes_the_cookie_away(open_page: OpenPage) -> None:
    page = open_page()
    shown = sign_in(page, page.token)[1].partition(";")[0]
    with closing(http.client.HTTPConnection(*page.address, timeout=PATIENCE_SECONDS)) as connection:
        headers = {"Content-Type": "application/json", "Origin": page.url, "Cookie": shown}
        connection.request("POST", "/api/sign-out", b"{}", headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"signed_in": False})
    assert "Max-Age=0" in answer.headers["set-cookie"]


# --- the list, sorted -------------------------------------------------------------------------------------------


def some_picks(count: int, score: float) -> PickColumns:
    return PickColumns(y=[5.0] * count, x=[6.0] * count, score=[score] * count)


def test_the_list_is_sorted_by_any_number_and_knows_what_stands_around(
    open_page: OpenPage, picked: MicrographDocument
) -> None:
    page = open_page()
    for name, count, score in (("a", 30, 0.9), ("sub/b", 4, 0.6), ("sub/c", 40, 0.7), ("d", 0, 0.0), ("e", 35, 0.8)):
        document = msgspec.structs.replace(picked, picks=some_picks(count, score))
        commit(page.ledger, document, f"{name}.mrc")
    page.ledger.note([Note(key="f.mrc", stamp=FileStamp(size=1, mtime_ns=1), state="seen")])

    def names(query: str) -> list[str]:
        found = ask(f"{page.url}/api/micrographs?{query}")
        assert found["complete"]
        return [row["path"].removesuffix(".mrc") for row in found["rows"]]

    assert names("sort=picks&order=up") == ["d", "sub/b", "a", "e", "sub/c", "f"]
    assert names("sort=picks") == ["sub/c", "e", "a", "sub/b", "d", "f"]
    assert names("sort=score&order=up") == ["sub/b", "sub/c", "e", "a", "d", "f"]
    assert names("folder=sub&sort=picks") == ["sub/c", "sub/b"]
    assert ask(f"{page.url}/api/micrographs")["folders"] == ["sub"]
    around = ask(f"{page.url}/api/around?path=a.mrc&sort=picks&order=up&each=1")
    assert (around["count"], around["position"], around["first"]) == (6, 2, 1)
    assert [row["path"] for row in around["rows"]] == ["sub/b.mrc", "a.mrc", "e.mrc"]
    assert (around["previous"], around["next"]) == ("sub/b.mrc", "e.mrc")
    # Few picks: less than a third of the median of the session.
    assert (around["bad_previous"], around["bad_next"]) == ("sub/b.mrc", None)
    by_name = ask(f"{page.url}/api/around?path=d.mrc&each=1")  # sub/c, sub/b, f, e, d, a
    assert [row["path"] for row in by_name["rows"]] == ["e.mrc", "d.mrc", "a.mrc"]
    assert (by_name["count"], by_name["position"], by_name["first"]) == (6, 4, 3)
    assert (by_name["previous"], by_name["next"]) == ("e.mrc", "a.mrc")
    assert (by_name["bad_previous"], by_name["bad_next"]) == ("sub/b.mrc", None)
    upward = ask(f"{page.url}/api/around?path=d.mrc&order=up&each=5")
    assert [row["path"] for row in upward["rows"]] == [f"{k}.mrc" for k in ("a", "d", "e", "f", "sub/b", "sub/c")]
    assert (upward["position"], upward["first"], upward["bad_next"]) == (1, 0, "sub/b.mrc")
    outside = ask(f"{page.url}/api/around?path=a.mrc&folder=sub")
    assert (outside["position"], outside["next"], outside["bad_next"]) == (None, "sub/c.mrc", "sub/b.mrc")


@pytest.mark.parametrize("query", ["sort=luck", "order=sideways", "mark=meh", "states=happy", f"folder={'x' * 301}"])
def test_a_list_that_cannot_be_asked_for_is_refused(open_page: OpenPage, query: str) -> None:
    page = open_page()
    assert get(f"{page.url}/api/micrographs?{query}")[0] == 400
    assert get(f"{page.url}/api/around?path=a.mrc&{query}")[0] == 400


def test_a_part_of_the_session_is_plotted_finer(open_page: OpenPage, picked: MicrographDocument) -> None:
    page = open_page()
    for k in range(6):
        commit(page.ledger, msgspec.structs.replace(picked, picks=some_picks(k, 0.5)), f"{k}.mrc")
    part = ask(f"{page.url}/api/series?first=3&last=5")
    assert (part["number"], part["picks"], part["count"]) == ([3, 4, 5], [2, 3, 4], 6)
    assert ask(f"{page.url}/api/series?first=5")["number"] == [5, 6]
    assert get(f"{page.url}/api/series?first=-1")[0] == 400


def test_tiles_and_values_are_asked_for_by_the_number_of_a_result(
    open_page: OpenPage, picked: MicrographDocument, write_mrc: Callable[..., Path]
) -> None:
    page = open_page()
    pixels = np.arange(90 * 140, dtype=np.float32).reshape(90, 140)
    write_mrc(Path(picked.path), pixels, 2.0)
    commit(page.ledger, picked, "a.mrc")
    status, headers, body = get(f"{page.url}/api/tile/1/0/0/0?lowpass=0")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (90, 140)
    assert ask(f"{page.url}/api/value/1?y=89&x=3") == {"y": 89, "x": 3, "value": 89 * 140 + 3}
    for path, refused in (
        ("tile/1/0/1/0", 404),
        ("tile/1/7/0/0", 400),
        ("tile/1/0/0/0?lowpass=501", 400),
        ("tile/9/0/0/0", 404),
        ("tile/1/0/0/0?epoch=other", 404),
        ("value/1?y=90&x=0", 404),
        ("value/1?y=-1&x=0", 400),
        ("value/1?y=1e3&x=0", 400),
    ):
        assert get(f"{page.url}/api/{path}")[0] == refused, path
