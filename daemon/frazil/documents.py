"""The documents on the stream: typed records, JSON on the wire, versioned.

A message has two frames: its topic, and one document as JSON. New fields get defaults; old ones never change
their meaning.

A microscope's daemon has several sessions: its documents name theirs, in schema 2. Those of a daemon with one session
are in schema 1, without a name. So a program that knows nothing of sessions refuses to mix their numbers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from frazil.limits import ChoiceBasis, JunkPicks, PickLimits, default_limits
from frazil.model.contract import ModelIdentity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ADVICE_TOPIC",
    "FAILED_TOPIC",
    "HEARTBEAT_TOPIC",
    "MICROSCOPE_SCHEMA",
    "MODEL_TOPIC",
    "PICKS_TOPIC",
    "QUALITY_TOPIC",
    "SCHEMA_VERSION",
    "SESSION_TOPIC",
    "SQUARE_TOPIC",
    "Advice",
    "AdviceDocument",
    "Category",
    "ChoiceBasis",
    "Corrections",
    "CtfFit",
    "Document",
    "FailedDocument",
    "Grade",
    "Heartbeat",
    "HoleSummary",
    "JunkArea",
    "Mark",
    "MicrographDocument",
    "ModelDocument",
    "ModelStamp",
    "NumberedDocument",
    "PickColumns",
    "Place",
    "PromisedSquare",
    "QualityDocument",
    "Seconds",
    "SessionDocument",
    "SettingValue",
    "SquareDocument",
    "add_generation",
    "columns_of",
    "decode_document",
    "directory_of",
    "directory_topic",
    "document_schema",
    "encode_document",
    "in_session",
    "now_rfc3339",
    "read_generation",
    "topic_of",
    "without_session",
]

SCHEMA_VERSION = 1
"""Of the documents of a daemon with one session."""
MICROSCOPE_SCHEMA = 2
"""Of the documents of a microscope: of the same records, with the name of a session."""
PICKS_TOPIC = b"picks"
FAILED_TOPIC = b"failed"
QUALITY_TOPIC = b"quality"
SQUARE_TOPIC = b"square"
ADVICE_TOPIC = b"advice"
MODEL_TOPIC = b"model"
SESSION_TOPIC = b"session"
HEARTBEAT_TOPIC = b"heartbeat"

ModelStamp = ModelIdentity
"""The name of `ModelIdentity` for subscribers and in the schema."""

_POSITION_DECIMALS = 4
_SCORE_DECIMALS = 6


class PickColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Picks as lists of equal length, best first."""

    y: list[float]
    """Rows, in pixels of the micrograph as stored, from an MRC's first or a TIFF's last; pixel centres are integers."""
    x: list[float]
    """Columns, in pixels of the micrograph; pixel centres are integers."""
    score: list[float]
    """Figures of merit, 0 to 1."""

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Rows, columns and figures of merit as arrays y (n,), x (n,), score (n,)."""
        import numpy as np  # here, since programs that only count picks need not wait for it

        return np.array(self.y, np.float64), np.array(self.x, np.float64), np.array(self.score, np.float64)


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time went."""

    read: float
    """Reading and checking the file, which is rescaled meanwhile if its rows come in order."""
    prepare: float
    """Rescaling, if that is left to do, and normalising."""
    infer: float
    """Tiling and the network."""
    peaks: float
    """From scores to picks."""
    total: float
    """From the time when the file was known to be complete, or from the start of reading in `frazil pick`, to the
    picks."""
    junk: float | msgspec.UnsetType = msgspec.UNSET
    """Finding the junk; left out where that was not looked for."""


Mark = Literal["", "good", "bad"]
"""A person's verdict on a micrograph; empty where there is none."""


class Corrections(msgspec.Struct, frozen=True, kw_only=True):
    """What people changed in the picks of a micrograph."""

    at: str
    """UTC time of the last change, in RFC 3339."""
    by: list[str]
    """Names of the people, as far as they gave any."""
    mark: Mark
    """One marked bad has no picks."""
    added: list[int]
    """Indices of the picks that a person added. Their score is 1."""
    deleted: int
    """Number of the model's picks that were taken away."""
    junk: list[list[tuple[float, float]]]
    """Outlines of regions without particles worth picking, as corners y, x in pixels of the micrograph."""


class JunkArea(msgspec.Struct, frozen=True, kw_only=True):
    """Where a micrograph shows what no particle can be picked in: carbon, metal, ice crystals, aggregates, dirt."""

    fraction: float
    """Of the micrograph's area, 0 to 1."""
    outlines: list[list[tuple[float, float]]]
    """Closed outlines as corners y, x in pixels of the micrograph. A place is junk if it lies inside an odd number of
    them, so that a hole in carbon film is none."""
    picks: JunkPicks = "drop"
    """What becomes of the picks that lie there."""
    dropped: int = 0
    """Number of picks that lay there and were left out."""
    flagged: list[int] = msgspec.field(default_factory=list)
    """Indices of the picks that lie there and were kept, such as those that a person added."""
    model: ModelIdentity
    """The model that found it."""


class MicrographDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="micrograph"):
    """The picks of one micrograph. Topic ``picks``."""

    schema: int = SCHEMA_VERSION
    """Version of this record."""
    epoch: str
    """Identity of the ledger that numbers the documents; empty if there is none."""
    seq: int
    """Sequence number, from 1, without gaps; 0 if there is no stream."""
    micrograph: str
    """File name."""
    path: str
    """Absolute path."""
    shape: tuple[int, int]
    """(h, w)."""
    pixel_size_angstrom: float
    diameter_px: float
    """Particle diameter in pixels of the micrograph."""
    model: ModelIdentity
    threshold: float
    """Lowest figure of merit of a pick."""
    picks: PickColumns
    seconds: Seconds
    picked_at: str = ""
    """UTC time in RFC 3339."""
    supersedes: int = 0
    """Sequence number of the result that this one replaces, after the file was written again or picks were revised; 0
    if there is none."""
    directory: str = ""
    """Directory of the micrograph, below the watched one; empty for the watched directory itself."""
    min_distance_angstrom: float | None = None
    """Smallest allowed distance between two picks; None from an earlier frazil, which did not record it."""
    edge_margin_angstrom: float | None = None
    """Smallest allowed distance of a pick from an edge; None from an earlier frazil, which did not record it."""
    blank_fraction: float = 0.0
    """Fraction of the micrograph without data, such as padding or a mask, where nothing is picked."""
    chosen: ChoiceBasis | msgspec.UnsetType = msgspec.UNSET
    """How frazil chose the threshold; left out where the operator set it, or it is the model's own."""
    corrections: Corrections | msgspec.UnsetType = msgspec.UNSET
    """What people changed in these picks; left out where nobody did."""
    junk: JunkArea | msgspec.UnsetType = msgspec.UNSET
    """Where no particle can be picked; left out where that was not looked for."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""

    @property
    def limits(self) -> PickLimits:
        """The limits within which the picks were made; the default distances where an earlier frazil gave none."""
        if self.min_distance_angstrom is None or self.edge_margin_angstrom is None:
            return default_limits(self.diameter_px * self.pixel_size_angstrom, self.threshold)
        return PickLimits(
            threshold=self.threshold,
            min_distance_angstrom=self.min_distance_angstrom,
            edge_margin_angstrom=self.edge_margin_angstrom,
        )


Grade = Literal["good", "doubtful", "bad"]
"""Whether a micrograph is worth keeping."""
Category = Literal["", "empty", "crystalline ice", "carbon", "contamination", "out of focus", "cracked"]
"""What is wrong with a micrograph, in the field's words; empty where nothing is."""


class CtfFit(msgspec.Struct, frozen=True, kw_only=True):
    """The contrast transfer function, fitted to a power spectrum; signs and names are RELION's and CTFFIND's."""

    defocus_u_angstrom: float
    """Underfocus along the first axis of the astigmatism, the larger one."""
    defocus_v_angstrom: float
    defocus_angle_deg: float
    """Angle of the first axis to the x axis, counted from x to y, 0 to 180."""
    phase_shift_deg: float = 0.0
    resolution_angstrom: float | None = None
    """To which the fit holds; None where that is not known."""
    correlation: float | None = None
    """Of the fit with the spectrum, -1 to 1; None where that is not known."""
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    source: Literal["frazil", "ctffind", "relion", "cryosparc", "warp"] = "frazil"
    """Who fitted it: frazil, or the program whose result lay beside the micrograph."""
    is_reliable: bool = True
    doubt: str = ""
    """Why it is not reliable, in one line."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the grid a micrograph was taken, as EPU or SerialEM wrote down."""

    grid: str = ""
    square: str = ""
    """Name or number of the grid square."""
    hole: str = ""
    """Name or number of the foil hole."""
    stage_x_um: float | None = None
    stage_y_um: float | None = None
    image_shift_x_um: float | None = None
    image_shift_y_um: float | None = None
    asked_defocus_um: float | None = None
    """Underfocus that was asked for."""
    taken_at: str = ""
    """UTC time of the exposure in RFC 3339; empty where it is not known."""


class QualityDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="quality"):
    """Whether a micrograph is worth keeping, and why. It follows the picks. Topic ``quality``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    micrograph: str
    path: str
    directory: str = ""
    of: int
    """Sequence number of the picks that were assessed."""
    supersedes: int = 0
    """Sequence number of the earlier assessment that this one replaces; 0 if there is none."""
    grade: Grade
    category: Category = ""
    reasons: list[str] = msgspec.field(default_factory=list)
    """Why it is not good, each in one line."""
    picks: int
    usable_fraction: float
    """Of the area: neither junk nor without data."""
    pixel_size_angstrom: float
    junk_fraction: float = 0.0
    junk_brightness: float | None = None
    """Mean of the junk less that of the rest, over the standard deviation of the rest, in coarse pixels; above 0 where
    more electrons pass, as through a crack. None without junk."""
    ctf: CtfFit | msgspec.UnsetType = msgspec.UNSET
    """Left out where there is no spectrum to fit."""
    mean_counts: float | None = None
    """Mean of the usable pixels where they are counts of electrons, in whatever unit; None where they are not."""
    relative_ice_thickness: float | None = None
    """Beyond that of the session's thinnest micrographs, in mean free paths of the electrons: the logarithm of how much
    more they transmit; None where counts say nothing."""
    ice_ring: float | None = None
    """Strength of the ring of crystalline ice at 3.7 to 3.9 Å over the spectrum beside it; None where the pixels are
    too coarse to show it."""
    drift: float | None = None
    """How much weaker the spectrum's rings are along one direction than across it, 0 to 1; None where that cannot be
    told."""
    pick_density: float = 0.0
    """Picks for each area of one particle diameter squared of the usable area."""
    clumping: float | None = None
    """Mean distance to the nearest pick over that of as many scattered at random (Clark and Evans, Ecology 1954). Below
    1 they clump."""
    estimated_precision: float | None = None
    """Fraction of the picks that are expected to be particles."""
    place: Place | msgspec.UnsetType = msgspec.UNSET
    seconds: float = 0.0
    """Duration of the assessment."""
    assessed_at: str = ""
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""

    @property
    def expected_particles(self) -> float:
        """Picks that are expected to be particles; all of them where nothing is known of that."""
        return self.picks * (1.0 if self.estimated_precision is None else self.estimated_precision)


class HoleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a foil hole."""

    hole: str
    micrographs: int
    good: int
    particles: int
    stage_x_um: float | None = None
    stage_y_um: float | None = None
    relative_ice_thickness: float | None = None
    """Mean."""
    ctf_resolution_angstrom: float | None = None
    """Median."""


class SquareDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="square"):
    """What came of a grid square so far. Topic ``square``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    grid: str = ""
    square: str
    stage_x_um: float | None = None
    stage_y_um: float | None = None
    micrographs: int
    good: int
    doubtful: int
    bad: int
    particles: int
    """Picks on micrographs that are not bad."""
    relative_ice_thickness: float | None = None
    """Mean."""
    ctf_resolution_angstrom: float | None = None
    """Median."""
    holes: list[HoleSummary]
    """Those that have changed since the square's last document."""
    expected_particles: float | None = None
    """Particles that the next exposure in this square is expected to give; None where nothing can be said."""
    expected_particles_error: float | None = None
    """Standard error of that."""
    at: str
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


class PromisedSquare(msgspec.Struct, frozen=True, kw_only=True):
    """What a square promises."""

    square: str
    grid: str = ""
    expected_particles: float
    """Particles that the next exposure in it is expected to give."""
    expected_particles_error: float
    """Standard error of that."""


Advice = Literal["microscope.control.reorder_gridsquares", "microscope.control.skip_gridsquares"]
"""Names of SmartEM's messages."""


class AdviceDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="advice"):
    """Advice to whoever moves the microscope, in the words of SmartEM's messages. Topic ``advice``.

    frazil moves nothing itself.
    """

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    advice: Advice
    squares: list[PromisedSquare]
    """In the order in which they promise most; or those that are not worth more exposures."""
    reason: str
    """In one line."""
    at: str
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


class FailedDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """A micrograph could not be picked. Topic ``failed``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    micrograph: str
    path: str
    directory: str = ""
    reason: str
    """Reason in one word (``truncated``, ``not_mrc``, ``stack``, ...)."""
    message: str
    """Reason in one line: what was expected and what was found."""
    kind: Literal["transient", "permanent"]
    """Whether the daemon retries it by itself, or only when the file has changed."""
    attempts: int = 1
    """Number of attempts so far."""
    failed_at: str
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


class ModelDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """The serving model changed, or was to change and did not. Topic ``model``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    model: ModelIdentity
    event: Literal["loaded", "refused", "rolled_back"]
    """``loaded`` and ``rolled_back``: this model serves from here on. ``refused``: it does not, the old one goes on."""
    finds: Literal["junk"] | msgspec.UnsetType = msgspec.UNSET
    """What the model finds, if not particles: one that finds junk serves beside the one that makes the picks."""
    reason: str = ""
    """Reason of a refusal or a roll-back, in one line."""
    at: str
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


SettingValue = str | int | float | bool | list[str] | None
"""Value of a setting, as in a settings file."""


class SessionDocument(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """A session began, ended, was paused or resumed, or got other settings. Topic ``session``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Place in the stream, shared with documents of every other kind."""
    event: Literal["opened", "paused", "resumed", "settings", "closed"]
    settings: dict[str, SettingValue]
    """Settings in force from here on: all of them for ``opened``, those that changed for ``settings``."""
    directory: str
    """Absolute path of the watched directory."""
    at: str
    """UTC time in RFC 3339."""
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """Sent every second or so: the link lives, and this is the newest place in the stream. Topic ``heartbeat``."""

    schema: int = SCHEMA_VERSION
    epoch: str
    seq: int
    """Sequence number of the newest document that was published; 0 before the first."""
    replay: str = ""
    """Address for requests of earlier documents, such as ``tcp://*:5557``; * is the host that published this."""
    generation: str = ""
    """Identity of this run of the ledger. When it changes, earlier documents may have been lost. Empty: not known."""
    session: str = ""
    """Name of the session of a microscope that the numbers are of; without one, the heartbeat is of the microscope."""
    catalog: str = ""
    """Version of a microscope's catalog of sessions. It changes when a session is added or closed: request the catalog
    then. Left out, as is `session`, where a daemon has one session."""


NumberedDocument = (
    MicrographDocument
    | QualityDocument
    | SquareDocument
    | AdviceDocument
    | FailedDocument
    | ModelDocument
    | SessionDocument
)
"""Documents with a sequence number."""

Document = NumberedDocument | Heartbeat

D = TypeVar("D", bound=NumberedDocument)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Document] = msgspec.json.Decoder(Document)


def encode_document(document: Document) -> bytes:
    """Encode a document as JSON."""
    return without_session(_ENCODER.encode(document))


def without_session(body: bytes) -> bytes:
    """Leave the last fields of an encoded record out if they name no session: it is then as before there were any."""
    for nothing in (b',"session":""}', b',"session":"","catalog":""}'):
        if body.endswith(nothing):
            return body[: -len(nothing)] + b"}"
    return body


def in_session(document: D, session: str) -> D:
    """The document of a session of this name; as it is if the daemon has only one, whose name is empty."""
    return msgspec.structs.replace(document, schema=MICROSCOPE_SCHEMA, session=session) if session else document


def decode_document(body: bytes) -> Document:
    """Decode a document from JSON.

    Raises:
        ValueError: the bytes are no document of a known type, or its schema is newer than this program knows.
    """
    document: Document | Any = _DECODER.decode(body)
    if document.schema > MICROSCOPE_SCHEMA:
        raise ValueError(f"expected a document of schema {MICROSCOPE_SCHEMA} or older, found {document.schema}")
    return document


class _Published(msgspec.Struct):
    generation: str = ""


_PUBLISHED = msgspec.json.Decoder(_Published)


def add_generation(body: bytes, generation: str) -> bytes:
    """Add the ledger's generation to an encoded document. It belongs to the message, and not to the document."""
    return body[:-1] + b',"generation":"' + generation.encode() + b'"}' if generation else body


def read_generation(body: bytes) -> str:
    """Read the generation from a published document; empty if it has none.

    Raises:
        ValueError: the bytes are no document.
    """
    return _PUBLISHED.decode(body).generation


def directory_topic(topic: bytes, directory: str) -> bytes:
    """The topic of a directory below the watched one, as a prefix that includes all directories below it.

    Names are percent-encoded, so that a topic is always printable ASCII. The slash at the end keeps ``a`` from
    including ``ab``.

    >>> directory_topic(b"picks", "grid 1/square")
    b'picks/grid%201/square/'
    """
    encoded = quote(directory, safe="/").strip("/")
    return topic + b"/" + (f"{encoded}/".encode("ascii") if encoded else b"")


def topic_of(document: Document) -> bytes:
    """The topic under which a document is published."""
    match document:
        case MicrographDocument():
            return directory_topic(PICKS_TOPIC, document.directory)
        case FailedDocument():
            return directory_topic(FAILED_TOPIC, document.directory)
        case QualityDocument():
            return directory_topic(QUALITY_TOPIC, document.directory)
        case SquareDocument():
            return SQUARE_TOPIC
        case AdviceDocument():
            return ADVICE_TOPIC
        case ModelDocument():
            return MODEL_TOPIC
        case SessionDocument():
            return SESSION_TOPIC
        case Heartbeat():
            return HEARTBEAT_TOPIC


def document_schema() -> dict[str, Any]:
    """The JSON Schema of every document, made from the records."""
    definition = "#/$defs/{name}"
    kinds = (
        MicrographDocument,
        QualityDocument,
        SquareDocument,
        AdviceDocument,
        FailedDocument,
        ModelDocument,
        SessionDocument,
        Heartbeat,
    )
    references, components = msgspec.json.schema_components(kinds, ref_template=definition)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Documents on frazil's stream, schema {SCHEMA_VERSION} and {MICROSCOPE_SCHEMA}",
        "oneOf": list(references),
        "$defs": components,
    }
    published: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(schema).replace(ModelStamp.__name__.encode(), b"ModelStamp")
    )
    return published


class _Picks(Protocol):
    """``frazil.picking.Picks``, which programs that only read documents need not load."""

    @property
    def y(self) -> NDArray[np.float64]: ...
    @property
    def x(self) -> NDArray[np.float64]: ...
    @property
    def score(self) -> NDArray[np.floating[Any]]: ...


def columns_of(
    picks: _Picks, *, position_decimals: int = _POSITION_DECIMALS, score_decimals: int = _SCORE_DECIMALS
) -> PickColumns:
    """Make the columns of a document from picks, rounded."""
    return PickColumns(
        y=[round(v, position_decimals) for v in picks.y.tolist()],
        x=[round(v, position_decimals) for v in picks.x.tolist()],
        score=[round(v, score_decimals) for v in picks.score.tolist()],
    )


def directory_of(key: str) -> str:
    """The directory of a micrograph below the watched one, from its key; empty for the watched directory itself."""
    parent = str(PurePosixPath(key).parent)
    return "" if parent == "." else parent


def now_rfc3339() -> str:
    """The present time in UTC, in RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
