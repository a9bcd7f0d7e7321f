"""The follower: it gathers what people correct, trains when there is enough, and hands in what is better."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from frazil.client import PickStream
from frazil.documents import MicrographDocument
from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.faults import is_passing
from frazil.files import write_atomically
from frazil.model import (
    Following,
    ModelFolder,
    Training,
    identify_model,
    learned_folder,
    read_serving_records,
    read_trainings,
    write_following,
    write_trainings,
)
from frazil_trainer.adapt.adaptation import AdaptationSettings
from frazil_trainer.follow.corrected import Corrected, CorrectedSet
from frazil_trainer.follow.lesson import Lesson, plan_lesson
from frazil_trainer.training.loop import EpochReport

__all__ = ["FollowSettings", "Follower"]

_WORK_NAME = ".follow"
_LOOK_SECONDS = 1.0
_TOLD_SECONDS = 10.0
"""How often it says that it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """Settings of a follower."""

    after: int = 3
    """Micrographs that are corrected, or corrected again, before a training begins."""
    quiet_seconds: float = 20.0
    """Time without a correction before a training begins: somebody may be at it."""
    promote: bool = False
    """Whether a version that is better is promoted, for the daemon to decide; else it waits to be promoted."""
    once: bool = False
    """Whether to end after one training."""


class Follower:
    """Follows one session.

    Args:
        parent: the model of the session's settings, which every training begins from.
        out: the session's output directory.
        console: to print to.
        settings: of the follower.
        adaptation: settings of each training.

    Attributes:
        folder: of the session's own model.
    """

    def __init__(
        self,
        parent: Path,
        out: Path,
        console: Console,
        *,
        settings: FollowSettings,
        adaptation: AdaptationSettings,
    ) -> None:
        if not out.is_dir():
            raise SettingsError(f"{out}: expected the output directory of a session, found none")
        identify_model(parent)
        self.folder = learned_folder(out)
        self._parent = parent
        self._console = console
        self._settings = settings
        self._adaptation = adaptation
        self._work = self.folder / _WORK_NAME
        self._learnt_file = self._work / "learnt.json"
        self._corrected = CorrectedSet(self._work / "corrected")
        self._session = next((one.document.session for one in self._corrected.all), None)
        self._changed_at = time.monotonic()
        self._told_at = -math.inf

    def run(
        self, address: str, session: str | None, *, key: Path | None = None, server_key: Path | None = None
    ) -> bool:
        """Follow a stream, until interrupted, or until one training has ended.

        Args:
            address: of the stream.
            session: name of the session of a microscope.
            key: own secret key, if the stream is encrypted.
            server_key: the daemon's public key.

        Returns:
            Whether the last training made a version.

        Raises:
            FrazilError: the stream cannot be followed, another follower works on this session, or a file cannot be
                written.
        """
        try:
            stream = PickStream(
                address,
                session,
                resume=self._work / "cursor",
                key=key,
                server_key=server_key,
            )
        except OutputError as error:
            if "another program holds it" in str(error):
                raise OutputError(f"{self.folder}: expected no other follower of this session, found one") from error
            raise
        with stream:
            self._end_interrupted()
            self._say(f"follows {address}; trains when {self._settings.after} micrographs are corrected")
            try:
                while True:
                    document = stream.receive(_LOOK_SECONDS)
                    if document is not None:
                        self._take(document)
                        continue
                    self._tell()
                    if self._is_time():
                        made = self._train()
                        self._told_at = -math.inf
                        if self._settings.once:
                            return made
            finally:
                with contextlib.suppress(OSError):
                    write_following(self.folder, None)

    def _tell(self) -> None:
        """Say in the folder how it stands; where nothing can be written, what is learnt will say so."""
        if time.monotonic() - self._told_at < _TOLD_SECONDS:
            return
        self._told_at = time.monotonic()
        with contextlib.suppress(OSError):
            write_following(
                self.folder,
                Following(
                    updated_at=time.time(),
                    after=self._settings.after,
                    waiting=len(self._unlearnt()),
                    promotes=self._settings.promote,
                ),
            )

    def _take(self, document: MicrographDocument) -> None:
        if self._session is None:
            self._session = document.session
        if document.session != self._session:
            raise SettingsError(
                f"--session: expected the name of one, since the stream has several, such as {document.session}"
            )
        before = len(self._unlearnt())
        if self._corrected.take(document):
            self._changed_at = time.monotonic()
            self._told_at = -math.inf
            if (now := len(self._unlearnt())) != before:  # a person's every click is a document
                self._say(f"{document.micrograph} was corrected; {now} to learn from")

    def _unlearnt(self) -> list[Corrected]:
        """Corrected since the last training, or never learnt from."""
        learnt: dict[str, str] = {}
        if self._learnt_file.exists():
            try:
                learnt = msgspec.json.decode(self._learnt_file.read_bytes(), type=dict[str, str])
            except (OSError, msgspec.MsgspecError) as error:
                self._say(f"{self._learnt_file}: ignored: {error}")
        return [one for one in self._corrected.all if learnt.get(one.path) != one.at]

    def _is_time(self) -> bool:
        if time.monotonic() - self._changed_at < self._settings.quiet_seconds:
            return False
        return len(self._unlearnt()) >= self._settings.after

    def _train(self) -> bool:
        corrected = self._corrected.all
        try:
            lesson = plan_lesson(corrected, self._console)
            status = _Status(
                self.folder,
                Training(
                    state="training",
                    started_at=time.time(),
                    updated_at=time.time(),
                    session=self._session or "",
                    parent=identify_model(self._parent),
                    learnt_from=tuple(one.path for one in lesson.learnt_from),
                    kept_out=tuple(one.path for one in lesson.kept_out),
                    minutes=self._adaptation.minutes,
                ),
            )
            self._make_version(lesson, status)
        except OutputError:
            raise  # the disk may be full: no status can be written either
        except FrazilError as error:
            if is_passing(error.__cause__):
                raise
            self._say(f"the training failed: {error}")
            made = False
        else:
            made = True
        learnt = {one.path: one.at for one in corrected}
        try:
            write_atomically(self._learnt_file, msgspec.json.encode(learnt))
        except OSError as error:
            raise OutputError(f"{self._learnt_file}: cannot be written: {error.strerror}") from error
        return made

    def _serving(self) -> Path:
        """The version that serves: of the session's own model, if the daemon says so, else that of its settings."""
        own = next((one.version for one in read_serving_records(self.folder) if one.version), None)
        return self._parent if own is None else self.folder / str(own)

    def _make_version(self, lesson: Lesson, status: _Status) -> None:
        """Train, and offer or hand in what is better.

        Raises:
            FrazilError: no version was made, or a worse one.
        """
        try:
            serving = self._serving()
            version = lesson.train(
                self._parent,
                self.folder,
                self._work,
                self._console,
                settings=self._adaptation,
                observers=[status],
            )
            f1 = lesson.compare(serving, version, self._adaptation.threads)
            made = identify_model(version)
            status.change(version=made.version, sha256=made.sha256, f1=f1)
            where = f"{f1.particles} particles in {f1.micrographs} corrected micrographs that were kept out"
            if f1.after < f1.before:
                raise FrazilError(
                    f"{version}: expected to pick what was corrected at least as well as {serving}, found F1 "
                    f"{f1.after:.3f} on {where}, and {f1.before:.3f} before"
                )
        except FrazilError as error:
            with contextlib.suppress(OutputError):  # where the disk is full, that is the error
                status.change(state="failed", reason=str(error))
            raise
        self._say(f"{version}: F1 {f1.after:.3f} on {where}; {f1.before:.3f} before")
        if self._settings.promote:
            ModelFolder(self.folder).promote(made.version)
            status.change(state="handed_in")
            self._say("it was handed in: the daemon decides")
        else:
            status.change(state="offered")
            self._say(f"it waits: frazil models promote {self.folder} {made.version}")

    def _end_interrupted(self) -> None:
        """Say of a training that an earlier follower did not end that it is over; it will be taken up again."""
        trainings = read_trainings(self.folder)
        if trainings and trainings[-1].state == "training":
            ended = msgspec.structs.replace(trainings[-1], state="failed", reason="the trainer ended meanwhile")
            _write(self.folder, [*trainings[:-1], ended])

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Status:
    """Tells others how a training goes, in the folder of the session's own model; it observes the training."""

    def __init__(self, folder: Path, training: Training) -> None:
        self._folder = folder
        self._before = read_trainings(folder)
        self._training = training
        self.change()

    def change(self, **fields: object) -> None:
        """Tell something new.

        Raises:
            OutputError: it cannot be written.
        """
        self._training = msgspec.structs.replace(self._training, updated_at=time.time(), **fields)
        _write(self._folder, [*self._before, self._training])

    def on_updates(self, updates: int, loss: float, metric: float, learning_rate: float) -> None:
        """Nothing is told of single updates."""

    def on_epoch(self, report: EpochReport) -> None:
        """Tell the loss of an epoch."""
        self.change(loss=(*self._training.loss, round(report.loss, 4)))


def _write(folder: Path, trainings: list[Training]) -> None:
    try:
        write_trainings(folder, trainings)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
