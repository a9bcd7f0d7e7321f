"""Pages out of a real ledger: what was asked for, no more than a page holds, and a word on all that is lacking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.documents import MicrographDocument, encode_document
from frazil.replay import MAX_PAGE_BYTES, ReplayPage, ReplayRequest, decode_answer, decode_request
from frazil.session.outbox.ledger import Ledger, LedgerReader
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.outbox.stream.pages import Pages
from frazil.session.outbox.stream.reports import Reports

Make = Callable[..., MicrographDocument]
MakeChannel = Callable[..., ChannelState]
FILLED = {"picks": b"picks/", "picks of a grid": b"picks/grid/", "failed": b"failed/", "damaged": b"", "gone": b""}
"""What may be at a place in the ledger, and the topic of what can be read of it."""


class Served:
    """A ledger, filled as no daemon would have to, and its pages."""

    def __init__(self, folder: Path, make_document: Make, make_channel: MakeChannel) -> None:
        self.file = folder / "ledger.sqlite"
        with closing(Ledger(self.file)) as ledger:
            self.epoch, self.generation = ledger.epoch, ledger.generation
        picks = make_document("/data/a.mrc")
        self._bodies = {
            "picks": encode_document(picks),
            "picks of a grid": encode_document(msgspec.structs.replace(picks, directory="grid")),
            "failed": b'{"type":"failed","epoch":"","seq":0,"micrograph":"a.mrc","path":"a.mrc","reason":"stack",'
            b'"message":"","kind":"permanent","failed_at":""}',
            "damaged": b"{",
        }
        self.reports = Reports()
        self.channel = make_channel(self.file, epoch=self.epoch, generation=self.generation)

    def fill(self, history: Sequence[str], sizes: Sequence[int] = ()) -> None:
        """Put documents of these kinds at the places from 1 on, of these sizes; all of them are published."""

        def rows() -> Iterator[tuple[int, str, bytes]]:
            for seq, kind in enumerate(history, start=1):
                if kind != "gone":
                    body = self._bodies[kind].replace(b'"seq":0', b'"seq":%d' % seq)
                    # JSON may hold blanks: a size to the byte.
                    padding = b" " * (sizes[seq - 1] - len(body)) if sizes else b""
                    yield seq, f"{seq}.mrc", body[:-1] + padding + body[-1:]

        with closing(sqlite3.connect(self.file)) as database, database:
            database.execute("DELETE FROM documents")
            database.executemany("INSERT INTO documents (seq, topic, path, body) VALUES (?, '', ?, ?)", rows())
        self.channel.published = len(history)
        self.reports.take()

    def ask(self, **request: object) -> tuple[ReplayPage, list[int]]:
        """A page and the places of its documents."""
        body = msgspec.json.encode({"from" if name == "first" else name: value for name, value in request.items()})
        with LedgerReader(self.file) as ledger:
            request = decode_request(body)
            assert isinstance(request, ReplayRequest)
            header, *bodies = Pages(self.reports, self.channel, ledger).page(request)
        page = decode_answer(header)
        assert isinstance(page, ReplayPage)
        assert page.documents == len(bodies)
        return page, [msgspec.json.decode(body)["seq"] for body in bodies]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_document: Make, make_channel: MakeChannel) -> Served:
    return Served(tmp_path_factory.mktemp("pages"), make_document, make_channel)


TOPICS = st.lists(st.sampled_from(["picks", "picks/grid/", "failed", "model", ""]), max_size=3)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.sampled_from(list(FILLED)), max_size=15),
    committed_only=st.integers(0, 3),
    first=st.integers(0, 17),
    until=st.integers(0, 18),
    limit=st.integers(1, 4),
    topics=TOPICS,
)
def test_pages_together_are_all_that_was_asked_for_and_a_word_on_all_that_is_lacking(
    served: Served, history: list[str], committed_only: int, first: int, until: int, limit: int, topics: list[str]
) -> None:
    served.fill(history)
    served.channel.published = max(0, len(history) - committed_only)
    end = max(first, min(until, served.channel.published + 1))
    asked = range(max(first, 1), end)
    found: list[int] = []
    missing: list[int] = []
    position, counts = first, []
    while True:
        page, documents = served.ask(first=position, until=until, limit=limit, topics=topics)
        assert (page.epoch, page.generation, page.first) == (served.epoch, served.generation, position)
        assert page.head == served.channel.published
        assert page.oldest == next((seq for seq, kind in enumerate(history, start=1) if kind != "gone"), 0)
        assert page.common is None
        assert page.missing is not None
        here = [seq for start, last in page.missing for seq in range(start, last + 1)]
        assert set(here + documents) <= set(range(position, page.next))
        assert all(start <= last for start, last in page.missing)
        found += documents
        missing += here
        if page.next == position:
            break
        counts.append(len(documents))
        position = page.next
    assert position == end
    readable = {seq: FILLED[kind] for seq, kind in enumerate(history, start=1) if FILLED[kind]}
    beginnings = tuple(topic.encode() for topic in topics)
    assert found == [seq for seq in asked if readable.get(seq, b"").startswith(beginnings) and seq in readable]
    assert missing == [seq for seq in asked if seq not in readable]
    assert all(count == limit for count in counts[:-1]), "a page that is not full ends all that there is"
    damaged = [seq for seq in asked if history[seq - 1] == "damaged"]
    assert served.reports.take().damaged == [("", seq, f"{seq}.mrc") for seq in damaged]


def test_a_page_ends_with_the_document_that_makes_it_large_and_what_is_not_wanted_does_not_count(
    served: Served,
) -> None:
    half = MAX_PAGE_BYTES // 2
    history = ["picks", "picks", "failed", "picks", "failed", "picks", "picks"]
    served.fill(history, sizes=[half, half, half, 10 + half, 2 * MAX_PAGE_BYTES, half - 11, half])
    assert served.ask(first=1)[1] == [1, 2]
    assert served.ask(first=1, topics=["picks"])[1] == [1, 2]
    assert served.ask(first=3, topics=["picks"])[1] == [4, 6, 7]
    page, documents = served.ask(first=5)
    assert (page.next, documents) == (6, [5])


def test_one_request_looks_at_a_thousand_documents_at_most(served: Served) -> None:
    history = ["picks"] * 2500
    history[999] = history[1000] = "failed"
    served.fill(history)
    pages = {first: served.ask(first=first, topics=["failed"]) for first in (1, 2, 1001, 1002, 2002)}
    assert {first: (page.next, documents) for first, (page, documents) in pages.items()} == {
        1: (1001, [1000]),
        2: (1002, [1000, 1001]),
        1001: (2001, [1001]),
        1002: (2002, []),
        2002: (2501, []),
    }
    assert not any(page.missing for page, _ in pages.values())


def test_places_that_are_lacking_cost_nothing_and_are_said_at_once(served: Served) -> None:
    served.fill(["picks"] + ["gone"] * 5000 + ["picks"])
    page, documents = served.ask(first=1)
    assert (page.next, page.missing, documents) == (5003, ((2, 5001),), [1, 5002])


# --- what still holds -----------------------------------------------------------------------------------------------


@pytest.fixture
def restarted(tmp_path: Path, make_document: Make, make_channel: MakeChannel) -> Iterator[tuple[Ledger, str, Pages]]:
    """A ledger with three documents of a first run and two of a second; the generation of the first."""
    one = make_document("/data/a.mrc")

    def body_at(epoch: str, seq: int) -> bytes:
        return encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq))

    file = tmp_path / "ledger.sqlite"
    with closing(Ledger(file)) as ledger:
        first = ledger.generation
        for _ in range(3):
            ledger.commit_document("picks", body_at)
    with closing(Ledger(file)) as ledger:
        for _ in range(2):
            ledger.commit_document("picks", body_at)
        channel = make_channel(file, epoch=ledger.epoch, generation=ledger.generation, published=5)
        with LedgerReader(file) as reader:
            yield ledger, first, Pages(Reports(), channel, reader)


@pytest.mark.parametrize(
    ("of", "first", "common", "documents"),
    [
        (None, 2, None, [2, 3, 4, 5]),
        ("first", 2, 1, [2, 3, 4, 5]),
        ("first", 4, 3, [4, 5]),
        ("first", 5, 3, []),  # the fourth was read in a run whose fourth is not this one
        ("second", 5, 4, [5]),
        ("second", 6, 5, []),
        ("second", 9, 5, []),
        ("another", 3, 0, []),
        ("another", 1, 0, [1, 2, 3, 4, 5]),
        ("", 4, 3, [4, 5]),
        ("", 6, 5, []),
        ("", 7, 0, []),
    ],
)
def test_whoever_says_when_it_read_is_told_how_much_of_that_still_holds(
    restarted: tuple[Ledger, str, Pages], of: str | None, first: int, common: int | None, documents: list[int]
) -> None:
    ledger, first_generation, pages = restarted
    generation = {"first": first_generation, "second": ledger.generation}.get(of or "", of)
    header, *bodies = pages.page(ReplayRequest(first=first, generation=generation))
    page = decode_answer(header)
    assert isinstance(page, ReplayPage)
    assert page.common == common
    assert [msgspec.json.decode(body)["seq"] for body in bodies] == documents
    assert page.next == (6 if documents else first)
    assert page.missing == ()
