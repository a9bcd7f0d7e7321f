"""What the daemon and the process of the sockets say to each other, through pipes that cut it anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.session.outbox.stream.messages import (
    Bound,
    Documents,
    Logged,
    Refused,
    Report,
    decode_line,
    encode_document_frame,
)

DOCUMENTS = st.tuples(st.integers(0, 2**63 - 1), st.binary(max_size=40), st.binary(max_size=300)).filter(
    lambda document: document[1] or document[2]
)


@given(sent=st.lists(DOCUMENTS, max_size=6), data=st.data(), more=st.binary(max_size=40))
def test_documents_come_out_whole_and_in_order_however_they_are_cut(
    sent: list[tuple[int, bytes, bytes]], data: st.DataObject, more: bytes
) -> None:
    frames = [encode_document_frame(*document) for document in sent]
    whole = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    documents, got = Documents(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += documents.feed(whole[start:end])
        # What has come whole is not kept back until more comes.
        complete = [i for i in range(len(frames)) if sum(map(len, frames[: i + 1])) <= end]
        assert got == sent[: len(complete)]
        assert not documents.ended
    assert list(documents.feed(encode_document_frame(0, b"", b""))) == []
    assert documents.ended


def test_the_end_is_seen_behind_documents_that_come_with_it() -> None:
    documents = Documents()
    together = encode_document_frame(7, b"picks/", b"{}") + encode_document_frame(0, b"", b"")
    assert list(documents.feed(together)) == [(7, b"picks/", b"{}")]
    assert documents.ended


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"type":"bound","publish":"tcp://127.0.0.1:1","replay":"r"}',
            Bound(publish="tcp://127.0.0.1:1", replay="r"),
        ),
        (b'{"type":"refused","error":"taken"}', Refused(error="taken")),
        (b'{"type":"logged","logger":"a","level":30,"message":"m"}', Logged(logger="a", level=30, message="m")),
        (
            b'{"type":"report","subscribers":2,"requests":{"failed":3},"damaged":[[4,"a.mrc"]]}',
            Report(subscribers=2, requests={"failed": 3}, damaged=[(4, "a.mrc")]),
        ),
        (b"Assertion failed: check () (src/msg.cpp:414)", None),
        (b'{"type":"other"}', None),
        (b"[1]", None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_lines_are_messages_or_the_last_words_of_a_library(line: bytes, message: object) -> None:
    assert decode_line(line + b"\n") == message
