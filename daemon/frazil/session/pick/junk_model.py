"""The model that finds junk, for all sessions of a daemon: loaded, and replaced by what is promoted.

Junk is worth no stop. Without a model that can serve, micrographs are picked as they would be without junk to be found.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from frazil.errors import ModelError
from frazil.faults import is_passing
from frazil.health.state import ModelState
from frazil.junk_area import JunkSearch, MaybeJunk
from frazil.limits import JunkPicks
from frazil.model import Contrast, Model, ModelIdentity
from frazil.picking import JunkFinder, Micrograph, Picture
from frazil.session.models import Models
from frazil.session.pick.admission import Admission
from frazil.session.pick.model_changes import ModelChange
from frazil.session.pick.promoted import Promoted, identify_promoted
from frazil.session.pick.serving import state_of
from frazil.settings import default_junk_model_path

__all__ = ["JunkModel"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class JunkModel:
    """Finds the junk of micrographs for every session, and replaces its model by the promoted one.

    A model that is promoted while the daemon runs is checked as one that picks. So is the first one, but for that which
    came with frazil, which nobody else can have put there. What is refused leaves the serving model as it is.

    Args:
        setting: a model's folder, one version's folder, or an .onnx file.
        models: loads and checks models that find junk.
        check_seconds: processor time that a new model may take in its check.
        threads: CPU threads of a model; None for every core.
        stop: event that ends the thread.
    """

    def __init__(
        self, setting: Path, models: Models, *, check_seconds: float, threads: int | None, stop: threading.Event
    ) -> None:
        self._setting = setting.expanduser().resolve()
        self._models = models
        self._admission = Admission(
            models, finds="junk", precision="float32", check_seconds=check_seconds, threads=threads, stop=stop
        )
        self._stop = stop
        self._model: Model | None = None
        self._refused: ModelChange | None = None
        """The first model, where it was refused and none serves since."""
        self._reports: dict[str, Callable[[ModelChange], None]] = {}
        self._seen = ""
        self._put_off_for = ""
        self._failed: ModelIdentity | None = None
        self._wake = threading.Event()
        self._lock = threading.RLock()
        """Held while it is decided what serves, and who hears of it."""
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> ModelState | None:
        """The model that serves; None where none does. From any thread."""
        return None if (model := self._model) is None else state_of(model)

    def load(self) -> None:
        """Load the promoted model, unless that was done for another session, and look for others from then on."""
        with self._lock:
            if self._thread is not None:
                return
            self._look()
            self._thread = threading.Thread(target=self._run, name="frazil-junk", daemon=True)
            self._thread.start()

    def join(self, session: str, report: Callable[[ModelChange], None]) -> None:
        """Tell a session of each change from now on, and that there is no model, if there is none."""
        with self._lock:
            self._reports[session] = report
            if self._refused is not None:
                report(self._refused)

    def leave(self, session: str) -> None:
        """Tell a session no more."""
        with self._lock:
            self._reports.pop(session, None)

    def reload(self) -> None:
        """Look at what is promoted at once, even if it was refused. From any thread."""
        self._wake.set()

    def find(self, micrograph: Micrograph, picture: Picture, *, contrast: Contrast, picks: JunkPicks) -> MaybeJunk:
        """Find the junk of a micrograph; unset where no model serves, or where it fails.

        Args:
            micrograph: as read.
            picture: as the picker prepared it.
            contrast: how particles look in the micrographs.
            picks: what becomes of picks in junk.
        """
        model = self._model
        if model is None:
            return msgspec.UNSET
        try:
            return JunkSearch(finder=JunkFinder(model, contrast), picks=picks).find(micrograph, picture)
        except Exception as error:  # noqa: BLE001 - no picks depend on it
            if self._failed != model.identity:
                self._failed = model.identity
                log.warning("model %s cannot find junk in %s: %s", model.identity, micrograph.path, error)
            return msgspec.UNSET

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_LOOK_SECONDS)
            if self._wake.is_set():
                self._wake.clear()
                self._seen = ""
            try:
                self._look()
            except Exception:  # the edge of one swap
                log.exception("the swap failed unexpectedly; the old model of junk goes on")

    def _look(self) -> None:
        promoted = Promoted(self._setting, self._setting)  # it has no model of a session's own
        token, folder, path = promoted.token, promoted.folder, None
        if token == self._seen:
            return
        self._seen = token
        try:
            path = promoted.path_of(folder)
            if self._model is not None and self._model.identity == identify_promoted(folder, path):
                return
            model = self._admit(path)
        except ModelError as error:
            if is_passing(error.__cause__):
                self._put_off(str(error))
            elif promoted.token == token and not self._stop.is_set():
                self._tell(
                    ModelChange(
                        event="refused",
                        finds="junk",
                        model=identify_promoted(folder, path),
                        reason=error.reason,
                        message=str(error),
                        current=token,
                        folder=str(folder),
                    )
                )
        else:
            if promoted.token == token:
                is_first, self._model = self._model is None, model
                log.info("model %s finds junk, on %s", model.identity, model.provider)
                change = ModelChange(
                    event="loaded", finds="junk", model=model.identity, placement=model.placement, current=token
                )
                self._tell(change, is_news=not is_first or self._refused is not None)

    def _admit(self, path: Path) -> Model:
        """Check and load a model.

        Raises:
            ModelError: it failed a check.
        """
        if self._model is None and self._setting == default_junk_model_path().resolve():
            model = self._models.load(path, "float32")
        else:
            model, _ = self._admission.admit(path, None)
        try:
            JunkFinder(model, "dark")
        except ModelError as error:
            raise ModelError(f"{path}: {error}", error.reason) from error
        return model

    def _tell(self, change: ModelChange, *, is_news: bool = True) -> None:
        with self._lock:
            self._refused = change if change.event == "refused" and self._model is None else None
            for report in self._reports.values() if is_news else ():
                report(change)

    def _put_off(self, fault: str) -> None:
        """Look again later: the fault is the machine's, and no reason to refuse a model."""
        self._seen = ""
        if fault != self._put_off_for:
            self._put_off_for = fault
            log.warning("%s: the promoted model of junk waits: %s", self._setting, fault)
