"""What the daemon and the process of the sockets say to each other, through pipes that cut it anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.session.outbox.stream.messages import (
    END_FRAME,
    Bound,
    ChannelState,
    Frames,
    Logged,
    Refused,
    Report,
    SentDocument,
    channel_frame,
    decode_line,
    document_frame,
)

NUMBERS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=20)
DOCUMENTS = st.tuples(st.integers(1, 2**32 - 1), NUMBERS, st.binary(min_size=1, max_size=40), st.binary(max_size=300))
CHANNELS = st.builds(
    ChannelState,
    number=st.integers(1, 2**32 - 1),
    session=TEXTS,
    ledger=st.binary(max_size=30),
    epoch=TEXTS,
    generation=TEXTS,
    since=NUMBERS,
    published=NUMBERS,
    live=st.booleans(),
)


@given(sent=st.lists(DOCUMENTS | CHANNELS, max_size=6), data=st.data())
def test_frames_come_out_whole_and_in_order_however_they_are_cut(
    sent: list[SentDocument | ChannelState], data: st.DataObject
) -> None:
    made = [channel_frame(one) if isinstance(one, ChannelState) else document_frame(*one) for one in sent]
    whole = b"".join(made)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    frames, got = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += frames.feed(whole[start:end])
        # What has come whole is not kept back until more comes.
        complete = [i for i in range(len(made)) if sum(map(len, made[: i + 1])) <= end]
        assert got == sent[: len(complete)]
        assert not frames.ended
    assert list(frames.feed(END_FRAME)) == []
    assert frames.ended


def test_the_end_is_seen_behind_documents_that_come_with_it() -> None:
    frames = Frames()
    assert list(frames.feed(document_frame(1, 7, b"picks/", b"{}") + END_FRAME)) == [(1, 7, b"picks/", b"{}")]
    assert frames.ended


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
            b'{"type":"report","subscribers":2,"requests":{"failed":3},"damaged":[["s",4,"a.mrc"]],"ledger_damage":{"5":"d"}}',
            Report(subscribers=2, requests={"failed": 3}, damaged=[("s", 4, "a.mrc")], ledger_damage={5: "d"}),
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
