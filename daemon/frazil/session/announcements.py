"""What subscribers are told of a session: that it was opened, goes on, has other settings, is paused or closed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from frazil.documents import SessionDocument, now_rfc3339
from frazil.session.outbox.ledger import SESSION_KEY, Ledger
from frazil.session.outbox.outbox import Outbox, Stopped

__all__ = ["Announcements"]

SessionEvent = Literal["opened", "paused", "resumed", "settings", "closed"]


class _Announced(msgspec.Struct, frozen=True):
    """What was last said of a session."""

    event: SessionEvent
    settings: dict[str, Any]


class Announcements:
    """Commits each as a document, and has the ledger remember what was said last, so that nothing is said twice.

    Args:
        ledger: remembers it.
        outbox: commits and delivers.
        directory: the watched one, by the name that the user gave it.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, directory: Path) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._directory = directory

    def begin(self, settings: dict[str, Any]) -> None:
        """Say that the session was opened or goes on, or that its settings have changed; nothing after a restart."""
        last = self._last()
        if last is None or last.event == "closed":
            self._say("opened", settings, settings)
        elif last.event == "paused":
            self._say("resumed", settings, settings)
        elif changed := {key: value for key, value in settings.items() if last.settings.get(key) != value}:
            self._say("settings", changed, settings)

    def end(self, event: Literal["paused", "closed"]) -> None:
        """Say that the session is paused or closed, unless that was said."""
        last = self._last()
        if last is not None and last.event not in ("closed", event):
            self._say(event, {}, last.settings)

    def _say(self, what: SessionEvent, shown: dict[str, Any], settings: dict[str, Any]) -> None:
        document = SessionDocument(
            epoch="", seq=0, event=what, directory=str(self._directory), settings=shown, at=now_rfc3339()
        )
        announced = msgspec.json.encode(_Announced(event=what, settings=settings)).decode()
        with contextlib.suppress(Stopped):  # it is said at the next start
            self._outbox.commit(document, remember=(SESSION_KEY, announced))

    def _last(self) -> _Announced | None:
        text = self._ledger.recall(SESSION_KEY)
        return msgspec.json.decode(text, type=_Announced) if text else None
