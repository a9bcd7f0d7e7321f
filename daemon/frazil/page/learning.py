"""Learning while it collects: what was corrected, what to correct next, each training, and what to promote."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.documents import MicrographDocument, ModelDocument
from frazil.errors import ModelError
from frazil.model import (
    Following,
    ModelFolder,
    ModelIdentity,
    Training,
    learned_folder,
    read_current,
    read_following,
    read_trainings,
)
from frazil.page.answers import NotHereError, WrongRequestError, json_answer, read_body
from frazil.page.session import Session
from frazil.page.worker import Worker
from frazil.session.correct.proposals import agreement, propose
from frazil.session.outbox.daemon_info import DaemonInfo

__all__ = ["LearningDesk"]

_MOST_BODY_BYTES = 4096
_MOST_CORRECTED = 200
_LOOKED_THROUGH = 200
"""Results among which micrographs to correct are sought: the last ones."""
_CHANGES = 100
_OWN_KEY = "YOUR.key_secret"
_SILENT_SECONDS = 180.0
"""A trainer that has said nothing for so long hangs, or has died."""
_AWAY_SECONDS = 60.0
"""So has a follower that waits for corrections."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wished of the session's own model: one of the two."""

    promote: int = 0
    """Version that is to serve, if it passes its checks."""
    withdraw: bool = False
    """Whether the model of the session's settings is to serve again."""


class TrainingShown(msgspec.Struct, frozen=True, kw_only=True):
    """A training, and what the daemon made of its version."""

    training: Training
    is_silent: bool
    """Whether it should go on and says nothing."""
    outcome: str
    """``serves``, ``served``, ``refused``, or empty while nothing is decided."""
    why: str
    """Why it was refused."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model's picks agree with the corrections so far, after one more micrograph."""

    path: str
    f1: float


class ModelAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """How well the picks of one model agree with what people made of them."""

    model: ModelIdentity
    micrographs: int
    f1: float


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """How a session learns."""

    serves: str
    """The serving model."""
    promoted: int
    """Version of the session's own model that is promoted; 0 for none."""
    corrected: int
    """Micrographs; those that are marked bad do not count."""
    kept: int
    added: int
    deleted: int
    estimate: list[Step]
    """In the order in which micrographs were first corrected."""
    by_model: list[ModelAgreement]
    """Of the models that picked what is corrected."""
    following: Following | None
    """How the follower stands that waits for corrections; None where none does."""
    follow: str
    """What to type to start one, on the daemon's machine; empty while the session is not open."""
    picks_again: bool
    """Whether earlier micrographs are picked again once another model serves."""
    trainings: list[TrainingShown]
    """Newest first."""


class LearningDesk:
    """Answers what is asked of learning. The gate lets no wish pass without the token.

    Args:
        session: that learns.
        worker: for what takes time.
        name: of the session at a microscope, to be asked for; empty for the only one of a daemon.
        settings: those in force by name, once the session is open.
    """

    def __init__(
        self,
        session: Session,
        worker: Worker,
        *,
        name: Callable[[], str],
        settings: Callable[[], dict[str, Any] | None],
    ) -> None:
        self._session = session
        self._worker = worker
        self._name = name
        self._settings = settings
        self._corrected: tuple[int, list[tuple[str, MicrographDocument]]] | None = None
        self.routes = [
            Route("/api/learning", self._show, methods=["GET"]),
            Route("/api/learning", self._wish, methods=["POST"]),
            Route("/api/proposals", self._propose),
        ]

    async def _show(self, _: Request) -> Response:
        return json_answer(await self._worker.run(lambda: msgspec.json.encode(self._learning())))

    async def _propose(self, _: Request) -> Response:
        def choose() -> bytes:
            reader = self._session.reader
            stored = [*reader.last_picked_results(_LOOKED_THROUGH), *reader.corrected_results(_MOST_CORRECTED)]
            documents = {one.path: one.decode() for one in stored}.values()
            return msgspec.json.encode(
                {"proposals": propose([one for one in documents if isinstance(one, MicrographDocument)])}
            )

        return json_answer(await self._worker.run(choose))

    async def _wish(self, request: Request) -> Response:
        wish = await read_body(request, Wish, "a version to promote, or to withdraw", most_bytes=_MOST_BODY_BYTES)
        if bool(wish.promote) == wish.withdraw:
            raise WrongRequestError("expected promote with a version, or withdraw, found both or neither")

        def grant() -> None:
            folder = ModelFolder(learned_folder(Path(self._info().out)))
            try:
                if wish.withdraw:
                    folder.withdraw()
                else:
                    folder.promote(wish.promote)
            except ModelError as error:
                raise NotHereError(str(error)) from error

        await self._worker.run(grant)
        return json_answer(msgspec.json.encode(wish), 202)

    def _info(self) -> DaemonInfo:
        info = DaemonInfo.of(self._session.reader)
        if info is None:
            raise NotHereError("expected a session that a daemon has opened")
        return info

    def _read_corrected(self) -> list[tuple[str, MicrographDocument]]:
        """Corrected micrographs, with their names, in the order of their first corrections; kept while none is."""
        changes = self._session.reader.changes()
        if self._corrected is None or self._corrected[0] != changes:
            stored = self._session.reader.corrected_results(_MOST_CORRECTED)
            results = [(one.path, one.decode()) for one in stored]
            documents = [(path, one) for path, one in results if isinstance(one, MicrographDocument)]
            self._corrected = changes, [(path, one) for path, one in documents if agreement([one]).micrographs]
        return self._corrected[1]

    def _follow(self, info: DaemonInfo) -> str:
        settings = self._settings()
        if settings is None or "model" not in settings:
            return ""
        words = ["frazil-train", "follow", info.stream, "--from", str(Path(settings["model"]).absolute())]
        words += ["--out", info.out]
        if info.server_key:
            words += ["--key", _OWN_KEY, "--server-key", info.server_key]
        name = self._name()
        return shlex.join([*words, "--session", name] if name else words)

    def _learning(self) -> Learning:
        info = self._info()
        folder = learned_folder(Path(info.out))
        corrected = self._read_corrected()
        following = read_following(folder)
        if following and time.time() - following.updated_at > _AWAY_SECONDS:
            following = None
        every = [one for _, one in corrected]
        total = agreement(every)
        return Learning(
            serves=info.model,
            promoted=_promoted(folder),
            corrected=total.micrographs,
            kept=total.kept,
            added=total.added,
            deleted=total.deleted,
            estimate=[
                Step(path=path, f1=round(agreement(every[: i + 1]).f1, 4)) for i, (path, _) in enumerate(corrected)
            ],
            by_model=_by_model(every),
            following=following,
            follow=self._follow(info),
            picks_again=bool((self._settings() or {}).get("repick_after_promotion")),
            trainings=self._trainings(folder),
        )

    def _trainings(self, folder: Path) -> list[TrainingShown]:
        found = [stored.decode() for stored in self._session.reader.newest_changes(_CHANGES)]
        changes = [one for one in found if isinstance(one, ModelDocument) and one.finds != "junk"]
        return [_shown(one, changes) for one in reversed(read_trainings(folder))]


def _by_model(corrected: Sequence[MicrographDocument]) -> list[ModelAgreement]:
    """The one that picked last comes first."""
    found: dict[str, list[MicrographDocument]] = {}
    for one in sorted(corrected, key=lambda document: -document.seq):
        found.setdefault(one.model.sha256, []).append(one)
    agreed = [(several[0].model, agreement(several)) for several in found.values()]
    return [ModelAgreement(model=model, micrographs=a.micrographs, f1=round(a.f1, 4)) for model, a in agreed]


def _shown(training: Training, changes: Sequence[ModelDocument]) -> TrainingShown:
    """A training with its outcome, of the changes of models, newest first."""
    about = next((one for one in changes if training.sha256 and one.model.sha256 == training.sha256), None)
    serving = next((one.model.sha256 for one in changes if one.event != "refused"), "")
    outcome = ""
    if about is not None and about.event == "refused":
        outcome = "refused"
    elif about is not None:
        outcome = "serves" if training.sha256 == serving else "served"
    silent = training.state == "training" and time.time() - training.updated_at > _SILENT_SECONDS
    return TrainingShown(
        training=training,
        is_silent=silent,
        outcome=outcome,
        why=about.reason if about is not None and outcome == "refused" else "",
    )


def _promoted(folder: Path) -> int:
    try:
        return read_current(folder)[0]
    except ModelError:
        return 0
