"""Documents: what travels on the stream can always be read again."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.documents import (
    MICROSCOPE_SCHEMA,
    SCHEMA_VERSION,
    Heartbeat,
    MicrographDocument,
    PickColumns,
    Seconds,
    decode_document,
    directory_topic,
    document_schema,
    encode_document,
    topic_of,
)
from frazil.model import ModelIdentity

RECORDED = Path(__file__).parent / "recorded"

DOCUMENT = MicrographDocument(
    epoch="3f2a",
    seq=7,
    micrograph="a.mrc",
    path="/data/a.mrc",
    shape=(320, 448),
    pixel_size_angstrom=1.77,
    diameter_px=107.9,
    model=ModelIdentity(name="mlp", version=1, sha256="ab" * 32),
    threshold=0.5,
    picks=PickColumns(y=[10.5, 20.0], x=[300.25, 4.0], score=[0.9, 0.8]),
    seconds=Seconds(read=0.01, prepare=0.02, infer=0.2, peaks=0.01, total=0.25),
    picked_at="2026-11-22T12:00:00.000+00:00",
)


def test_a_document_has_the_promised_fields() -> None:
    content = json.loads(encode_document(DOCUMENT))
    assert content["type"] == "micrograph"
    assert content["schema"] == SCHEMA_VERSION
    assert content["shape"] == [320, 448]
    assert content["model"] == {"name": "mlp", "version": 1, "sha256": "ab" * 32, "precision": "float32"}
    assert content["picks"] == {"y": [10.5, 20.0], "x": [300.25, 4.0], "score": [0.9, 0.8]}
    assert {"read", "infer", "total"} <= set(content["seconds"])
    for name in ("epoch", "seq", "micrograph", "path", "pixel_size_angstrom", "diameter_px", "threshold"):
        assert content[name] == getattr(DOCUMENT, name)


@pytest.mark.parametrize("document", [DOCUMENT, Heartbeat(epoch="3f2a", seq=7)])
def test_what_is_encoded_is_decoded(document: MicrographDocument | Heartbeat) -> None:
    assert decode_document(encode_document(document)) == document


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.json")), ids=lambda p: p.stem)
def test_recorded_documents_of_every_version_still_decode(recorded: Path) -> None:
    kind = recorded.stem.partition("-")[0]
    expected = {
        "micrograph": ("micrograph", "a.mrc"),
        "failed": ("reason", "truncated"),
        "model": ("event", "loaded"),
        "heartbeat": ("epoch", "3f2a"),
    }
    decoded = decode_document(recorded.read_bytes())
    assert decoded.__struct_config__.tag == kind
    name, value = expected[kind]
    assert getattr(decoded, name) == value
    if isinstance(decoded, MicrographDocument):
        assert decoded.picks.x == [300.25, 4.0]


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.json")), ids=lambda p: p.stem)
def test_recorded_documents_are_what_the_schema_says(recorded: Path) -> None:
    jsonschema.validate(json.loads(recorded.read_bytes()), document_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(recorded.read_bytes()) | {"epoch": 5}, document_schema())


@pytest.mark.parametrize("kind", ["micrograph", "failed", "model", "heartbeat"])
def test_there_is_a_recorded_document_of_this_version(kind: str) -> None:
    assert (RECORDED / f"{kind}-schema-{SCHEMA_VERSION}.json").is_file()


@given(st.text(max_size=60))
def test_a_directorys_topic_is_printable_and_no_other_directorys_beginning(directory: str) -> None:
    topic = directory_topic(b"picks", directory)
    assert topic.isascii()
    assert topic.decode("ascii").isprintable()
    assert topic.endswith(b"/")
    assert not directory_topic(b"picks", f"{directory}x").startswith(topic) or directory.endswith("/") or not directory


def test_a_directorys_topic_takes_in_what_is_below() -> None:
    assert directory_topic(b"picks", "a/b").startswith(directory_topic(b"picks", "a"))
    assert directory_topic(b"picks", "a").startswith(directory_topic(b"picks", ""))
    assert topic_of(msgspec.structs.replace(DOCUMENT, directory="grid 1")) == b"picks/grid%201/"


def test_unknown_fields_are_passed_over() -> None:
    content = json.loads(encode_document(DOCUMENT)) | {"novelty": 1}
    assert decode_document(json.dumps(content).encode()) == DOCUMENT


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"type": "movie"}', b"\x80\x04.", b'{"type": "heartbeat", "epoch": 5, "seq": 1}']
)
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_document(body)


def test_a_newer_schema_is_refused_not_misread() -> None:
    content = json.loads(encode_document(DOCUMENT)) | {"schema": MICROSCOPE_SCHEMA + 1}
    with pytest.raises(ValueError, match="schema"):
        decode_document(json.dumps(content).encode())
