"""What one microscope's daemon says of itself to a page elsewhere: asked again and again, within limits.

It may be another program by now, or a hostile one. So an answer has a size, a time and a type, no redirection is
followed, and texts are shortened and made printable.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from hashlib import sha256
from typing import Annotated, TypeVar
from urllib.parse import urlencode

import h11
import msgspec

from frazil.addresses import check_page_url
from frazil.errors import FrazilError, printable
from frazil.faults import reason_of
from frazil.page.troubles import Trouble

__all__ = ["Asker", "Microscope", "Newest", "OpenSession"]

T = TypeVar("T")

_REST_SECONDS = 5.0
_ANSWER_SECONDS = 8.0
"""In which all of a microscope's answers must come."""
_MOST_BYTES = 1 << 20
_MOST_PICTURE_BYTES = 256 << 10
_MOST_SESSIONS = 12
_MOST_TROUBLES = 20
_MOST_LETTERS = 400
_JPEG = b"\xff\xd8\xff"

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Number = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


# --- what is shown --------------------------------------------------------------------------------------------------


class Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The micrograph that was picked last."""

    session: str = ""
    seq: _Count
    path: str
    at: _Number | None = None
    """In seconds of Unix time."""
    picks: _Count


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is open, or waits to be."""

    name: str
    """Empty where it is the only one."""
    status: str
    rate_per_minute: float
    picked: int
    picks: int
    """Of the micrographs that were picked since the daemon was started, as ``picked``."""
    waiting: int
    """Micrographs that wait to be picked, or are being picked."""
    threshold: float | None


class Microscope(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a microscope."""

    name: str
    url: str
    """Of its daemon's page, without a slash at the end."""
    fault: str = ""
    """Why its daemon is not heard; empty where it is, and before it was asked."""
    heard_at: float | None = None
    """When the rest was heard, in seconds of Unix time; None before."""
    version: str = ""
    unready: str = ""
    troubles: list[Trouble] = []
    """Worst first; of a session that is not the only one, with its name."""
    sessions: list[OpenSession] = []
    more_sessions: int = 0
    """Further open ones, which were not asked about."""
    newest: Newest | None = None
    picture: str = ""
    """Identity of the newest micrograph's picture; empty where there is none."""


# --- what is heard; a daemon of another version may say more or less ------------------------------------------------


class _Pick(msgspec.Struct, frozen=True):
    picked: _Count = 0
    picks: _Count = 0


class _Session(msgspec.Struct, frozen=True):
    name: str = ""
    status: str = "open"
    pick: _Pick = _Pick()


class _State(msgspec.Struct, frozen=True):
    version: str
    unwell: str = ""
    unready: str = ""
    sessions: list[_Session] = []


class _Standing(msgspec.Struct, frozen=True):
    epoch: str
    latest: list[Newest] = []
    threshold: _Number | None = None


class _Now(msgspec.Struct, frozen=True):
    queues: dict[str, _Count]
    rate_per_minute: _Number
    troubles: list[Trouble]
    standing: _Standing | None = None


class _UnheardError(FrazilError):
    """A daemon gives no answer that can be used."""

    status = 0


class Asker:
    """Asks one daemon. Nothing of it is asked but GETs of its page, without any token.

    Args:
        name: of the microscope.
        url: of its daemon's page.

    Attributes:
        microscope: what is known of it now.
        picture: JPEG of its newest micrograph; empty where there is none.

    Raises:
        AddressError: the URL is none of a daemon's page.
    """

    def __init__(self, name: str, url: str) -> None:
        base, self._host, self._port = check_page_url(url)
        self._authority = base.partition("://")[2]
        self._tls = ssl.create_default_context() if base.startswith("https:") else None
        self.microscope = Microscope(name=name, url=base)
        self.picture = b""
        self._pictured: tuple[str, str, int] | None = None

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self.microscope = await self._look()
            except TimeoutError:
                self._note(f"expected its answer within {_ANSWER_SECONDS:.0f} s, found none")
            except _UnheardError as error:
                self._note(str(error))
            except OSError as error:
                self._note(f"nobody answers: {reason_of(error)}")
            except UnicodeError as error:
                self._note(f"that is no name of a host: {error}")
            await asyncio.sleep(_REST_SECONDS)

    def _note(self, fault: str) -> None:
        self.microscope = msgspec.structs.replace(self.microscope, fault=_short(fault))

    async def _look(self) -> Microscope:
        known, state = self.microscope, await self._ask("/api/state", _State)
        heard = [(s, now) for s in state.sessions[:_MOST_SESSIONS] if (now := await self._ask_session(s.name))]
        newest = max(
            (one for one in (_newest(*pair) for pair in heard) if one), key=lambda one: one[1].at or 0, default=None
        )
        await self._take_picture(newest)
        unwell = [Trouble(level="fault", says=_short(state.unwell), todo="See its log.")] if state.unwell else []
        return Microscope(
            name=known.name,
            url=known.url,
            heard_at=time.time(),
            version=_short(state.version),
            unready=_short(state.unready),
            troubles=[*unwell, *_join_troubles(heard)][:_MOST_TROUBLES],
            sessions=[_describe(*pair) for pair in heard],
            more_sessions=max(0, len(state.sessions) - _MOST_SESSIONS),
            newest=newest and newest[1],
            picture=sha256(self.picture).hexdigest()[:16] if self.picture else "",
        )

    async def _ask_session(self, name: str) -> _Now | None:
        """How a session is now; None where it was closed meanwhile."""
        try:
            return await self._ask(f"/api/now?{urlencode({'session': name})}", _Now)
        except _UnheardError as error:
            if error.status == 404:
                return None
            raise

    async def _take_picture(self, newest: tuple[str, Newest] | None) -> None:
        """Get the picture of the newest micrograph, once; without one, the page shows none."""
        wanted = newest and (newest[0], newest[1].session, newest[1].seq)
        if wanted == self._pictured:
            return
        picture = b""
        if newest is not None:
            query = urlencode({"size": "small", "session": newest[1].session})
            with contextlib.suppress(_UnheardError):  # its file is gone
                picture = await self._get(f"/api/picture/{newest[1].seq}?{query}", _MOST_PICTURE_BYTES)
        self._pictured, self.picture = wanted, picture if picture.startswith(_JPEG) else b""

    async def _ask(self, target: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(await self._get(target, _MOST_BYTES), type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _UnheardError(
                f"expected a frazil daemon's answer to {target}, found something else: {error}"
            ) from error

    async def _get(self, target: str, most_bytes: int) -> bytes:
        """The body of an answer 200.

        Raises:
            OSError: nobody can be reached.
            _UnheardError: the answer is none, another one, or too large.
        """
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            exchange = h11.Connection(h11.CLIENT)
            headers = [("Host", self._authority), ("Accept-Encoding", "identity"), ("Connection", "close")]
            asking = exchange.send(h11.Request(method="GET", target=target, headers=headers))
            writer.write((asking or b"") + (exchange.send(h11.EndOfMessage()) or b""))
            status, body = 0, bytearray()
            while not isinstance(event := exchange.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    exchange.receive_data(await reader.read(1 << 16))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > most_bytes:
                        raise _UnheardError(
                            f"expected at most {most_bytes} bytes as the answer to {target}, found more"
                        )
        except h11.ProtocolError as error:
            raise _UnheardError(f"expected a frazil daemon, found what answers no HTTP: {error}") from error
        finally:
            writer.transport.abort()
        if status != 200:
            unheard = _UnheardError(
                f"expected an answer to {target}, found {status}: {body[:_MOST_LETTERS].decode('utf-8', 'replace')}"
            )
            unheard.status = status
            raise unheard
        return bytes(body)


def _short(text: str) -> str:
    return printable(text[:_MOST_LETTERS])


def _newest(session: _Session, now: _Now) -> tuple[str, Newest] | None:
    """The newest micrograph of a session, with the identity of its ledger."""
    if now.standing is None or not now.standing.latest:
        return None
    newest = now.standing.latest[0]
    return now.standing.epoch, msgspec.structs.replace(newest, session=session.name, path=_short(newest.path))


def _describe(session: _Session, now: _Now) -> OpenSession:
    return OpenSession(
        name=_short(session.name),
        status=_short(session.status),
        rate_per_minute=now.rate_per_minute,
        picked=session.pick.picked,
        picks=session.pick.picks,
        waiting=sum(count for queue, count in now.queues.items() if queue != "incomplete"),
        threshold=None if now.standing is None else now.standing.threshold,
    )


def _join_troubles(heard: list[tuple[_Session, _Now]]) -> list[Trouble]:
    """The troubles of all sessions, worst first; one that all have is the machine's and stands there once."""
    having: dict[Trouble, list[str]] = {}
    for session, now in heard:
        for trouble in now.troubles[:_MOST_TROUBLES]:
            having.setdefault(trouble, []).append(session.name)
    troubles = []
    for trouble, names in sorted(having.items(), key=lambda one: one[0].level != "fault"):
        whose = f"{', '.join(names)}: " if len(names) < len(heard) else ""
        troubles.append(Trouble(level=trouble.level, says=_short(f"{whose}{trouble.says}"), todo=_short(trouble.todo)))
    return troubles
