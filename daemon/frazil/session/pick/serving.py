"""The serving model, its replacement between two micrographs, and the probation that follows."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from frazil.health.state import ModelState, ThresholdState
from frazil.junk_area import MaybeJunk, no_junk
from frazil.limits import ChosenThreshold
from frazil.model.model import Model
from frazil.picking import Micrograph, Picker, Picture, ScoreMap
from frazil.record import Record, record_picks
from frazil.session.pick.model_changes import ModelChange
from frazil.session.retune.chooser import Chooser
from frazil.session.retune.limits import LimitsChange, LimitsRequest

__all__ = ["Offer", "Probation", "Serving", "Shadow", "state_of"]

log = logging.getLogger(__name__)

_RECENT = 10
_COLLAPSE = 0.1
"""A model has collapsed on a micrograph if it finds less than this fraction of the earlier model's picks."""

Shadow = Callable[[Micrograph, Record], None]
"""Called with each micrograph that was picked, and its picks. It must return at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """A model that has passed its checks."""

    picker: Picker
    current: str
    """Stamp of the ``CURRENT`` that promoted it."""


def state_of(model: Model) -> ModelState:
    """A model that serves, and where it runs."""
    return ModelState(
        name=model.identity.name,
        version=model.identity.version,
        sha256=model.identity.sha256,
        provider=model.provider,
        precision=model.precision,
        on_cpu=model.placement.cpu_problem() is not None,
        nodes=model.placement.nodes,
    )


class Probation:
    """Counts failures and collapses on the first micrographs after a swap.

    Args:
        micrographs: length of the probation, in micrographs.
        faults_allowed: fraction of them on which the model may fail or collapse.
        usual_picks: mean number of picks of the earlier model on its last micrographs.
    """

    def __init__(self, micrographs: int, faults_allowed: float, usual_picks: float) -> None:
        self._micrographs = micrographs
        self._most_faults = int(micrographs * faults_allowed)
        self._usual_picks = usual_picks
        self._seen = 0
        self._errors = 0
        self._collapses = 0

    def is_suspect(self, picks: int) -> bool:
        """Whether the number of picks is so small that the earlier model should pick the same micrograph."""
        return picks <= _COLLAPSE * self._usual_picks

    def note_error(self) -> None:
        """Count a micrograph on which the model failed, and which the earlier model could pick."""
        self._seen += 1
        self._errors += 1

    def note_picks(self, picks: int, before: int | None = None) -> bool:
        """Count a micrograph that the model picked.

        Args:
            picks: number of its picks.
            before: number of the earlier model's picks, if the result was suspect.

        Returns:
            Whether the model has collapsed on this micrograph.
        """
        self._seen += 1
        collapsed = before is not None and picks < _COLLAPSE * before
        self._collapses += collapsed
        return collapsed

    @property
    def passed(self) -> bool:
        """Whether the probation is over."""
        return self._seen >= self._micrographs

    @property
    def verdict(self) -> tuple[str, str] | None:
        """The reason to roll the model back, in one word and in one line; None while it may serve."""
        if self._errors + self._collapses <= self._most_faults:
            return None
        reason = "errors" if self._errors > self._collapses else "few_picks"
        return reason, (
            f"expected at most {self._most_faults} of the first {self._micrographs} micrographs with faults, found "
            f"{self._errors} on which it failed and {self._collapses} on which it found almost nothing, "
            f"of {self._seen}"
        )


class Serving:
    """Picks with the serving model. All but `offer`, `change_limits` and `shadow` belongs to the picking thread.

    A model that was swapped in is on probation: if it fails or finds almost nothing on a micrograph, the earlier model
    picks it instead. If that happens too often, the earlier model serves again.

    Args:
        picker: the first picker that serves.
        change: the change of limits in force. Default: none.
        chooser: chooses thresholds. Default: they are the operator's or the models'.
        find_junk: finds the junk of a micrograph. Default: that is not looked for.
        probation_micrographs: length of a probation, in micrographs; 0 for none.
        faults_allowed: fraction of them on which a model may fail or find almost nothing.

    Attributes:
        shadow: called with each micrograph and its picks; None if no model runs in shadow.
        last_shape: (h, w) and pixel size in Å of the last micrograph; None before the first.
    """

    def __init__(
        self,
        picker: Picker,
        change: LimitsChange | None = None,
        *,
        chooser: Chooser | None = None,
        find_junk: Callable[[Micrograph, Picture], MaybeJunk] = no_junk,
        probation_micrographs: int,
        faults_allowed: float,
    ) -> None:
        self.shadow: Shadow | None = None
        self.last_shape: tuple[tuple[int, int], float] | None = None
        self._change = change or LimitsChange()
        self._chooser = chooser or Chooser(chooses=False)
        self._find_junk = find_junk
        self._is_reviewed = False
        self._chosen: list[LimitsRequest] = []
        """Choices that the writing stage does not know of as yet."""
        self._picker = self._with_limits(picker)
        self._probation_micrographs = probation_micrographs
        self._faults_allowed = faults_allowed
        self._lock = threading.Lock()
        self._offered: Offer | None = None
        self._requested: LimitsRequest | None = None
        self._current = ""
        self._before: Picker | None = None
        self._probation: Probation | None = None
        self._recent: deque[int] = deque(maxlen=_RECENT)

    @property
    def picker(self) -> Picker:
        """The serving picker."""
        return self._picker

    @property
    def state(self) -> ModelState:
        """The model that serves, and where it runs; from any thread."""
        return state_of(self._picker.model)

    @property
    def threshold(self) -> ThresholdState:
        """The threshold that holds, and how it came about; from any thread."""
        picker, change = self._picker, self._change
        chosen = change.chosen_for(picker.model.identity.sha256)
        if chosen is not None:
            return ThresholdState(
                value=chosen.threshold,
                by="frazil",
                precision=chosen.precision,
                micrographs=chosen.micrographs,
                held=chosen.held,
            )
        sha256 = picker.model.identity.sha256
        is_set = picker.settings.threshold is not None or change.thresholds.get(sha256) is not None
        is_open = change.lets_choose(sha256, by_default=self._chooser.chooses)
        return ThresholdState(value=picker.threshold, by="frazil" if is_open else "operator" if is_set else "model")

    @property
    def coming(self) -> Picker:
        """The picker of the next micrograph: the offered one, else the serving one. May be read from any thread."""
        with self._lock:
            return self._picker if self._offered is None else self._offered.picker

    def offer(self, offer: Offer) -> None:
        """Make a model serve from the next micrograph on. May be called from any thread."""
        with self._lock:
            self._offered = offer

    def change_limits(self, request: LimitsRequest) -> None:
        """Apply other limits from the next micrograph on. May be called from any thread."""
        with self._lock:
            self._requested = request

    def make_shadow_chooser(self, sha256: str) -> Chooser | None:
        """What chooses for a model that runs in shadow, and remembers nothing; None where nothing is chosen for it."""
        if self._change.lets_choose(sha256, by_default=self._chooser.chooses):
            return self._chooser.as_new()
        return None

    def advance(self) -> list[ModelChange | LimitsRequest]:
        """Between two micrographs: roll back a model that failed its probation, take a new one, change the limits.

        A threshold that frazil has chosen meanwhile is among the changes.
        """
        changes: list[ModelChange | LimitsRequest] = []
        if self._probation is not None and self._before is not None:
            if verdict := self._probation.verdict:
                changes.append(self._roll_back(self._before, *verdict))
            elif self._probation.passed:
                log.info("model %s has passed its probation", self._picker.model.identity)
                self._before = self._probation = None
        with self._lock:
            offered = self._offered
            request, self._requested = self._requested, None
        if request is not None:
            # What frazil has chosen meanwhile is known here first.
            self._change = msgspec.structs.replace(request.change, chosen=self._change.chosen)
            self._renew()
            self._review()
            self._chosen.clear()
            changes.append(dataclasses.replace(request, change=self._change))
        if offered is not None:
            if offered.picker.model.identity != self._picker.model.identity:
                changes.append(self._take(offered))
                self._is_reviewed = False
            with self._lock:
                if self._offered is offered:  # kept until now, so that `coming` never returns the earlier one
                    self._offered = None
        if not self._is_reviewed:
            self._review()
        return [*changes, *self.take_chosen()]

    def take_chosen(self) -> list[LimitsRequest]:
        """Choices of a threshold that earlier results must follow, since this was last asked for."""
        chosen, self._chosen = self._chosen, []
        return chosen

    def take_news(self) -> str | None:
        """What the ledger is to remember of the choice with the next result; None where that is as it was."""
        return self._chooser.news()

    def pick(self, micrograph: Micrograph, *, read_seconds: float, since: float) -> Record:
        """Pick a micrograph; arguments and errors are those of `record_picks`."""

        def pick_with(picker: Picker) -> Record:
            return record_picks(
                picker,
                micrograph,
                read_seconds=read_seconds,
                since=since,
                find_junk=self._find_junk,
                settle=settle,
            )

        def settle(picker: Picker, picture: Picture, score_map: ScoreMap, junk: MaybeJunk) -> Picker:
            chosen = self._chooser.consider(picker, self._change, str(micrograph.path), picture, score_map, junk)
            return self._take_chosen(picker, chosen)

        if self._probation is not None and self._before is not None:
            record = self._pick_on_probation(self._probation, self._before, pick_with)
        else:
            record = pick_with(self._picker)
        if (chosen := self._change.chosen_for(record.document.model.sha256)) is not None:
            document = msgspec.structs.replace(record.document, chosen=chosen.basis)
            record = dataclasses.replace(record, document=document)
        self._recent.append(len(record.picks))
        self.last_shape = record.document.shape, record.document.pixel_size_angstrom
        if (shadow := self.shadow) is not None:
            shadow(micrograph, record)
        return record

    def _pick_on_probation(self, probation: Probation, before: Picker, pick_with: Callable[[Picker], Record]) -> Record:
        try:
            record = pick_with(self._picker)
        except Exception as error:  # noqa: BLE001 - whatever failed, the earlier model may succeed
            instead = pick_with(before)  # raises if the fault is the micrograph's own
            log.warning(
                "model %s failed on %s, %s picked it: %s",
                self._picker.model.identity,
                instead.document.micrograph,
                before.model.identity,
                error,
            )
            probation.note_error()
            return instead
        if not probation.is_suspect(len(record.picks)):
            probation.note_picks(len(record.picks))
            return record
        instead = pick_with(before)
        return instead if probation.note_picks(len(record.picks), len(instead.picks)) else record

    def _take(self, offered: Offer) -> ModelChange:
        if self._probation_micrographs:
            # A model that is itself on probation is no fallback.
            self._before = self._before or self._picker
            usual_picks = sum(self._recent) / len(self._recent) if self._recent else 0.0
            self._probation = Probation(self._probation_micrographs, self._faults_allowed, usual_picks)
        before, self._picker, self._current = self._picker, self._with_limits(offered.picker), offered.current
        model, thresholds = self._picker.model, self._change.thresholds
        if thresholds.get(before.model.identity.sha256) is not None and model.identity.sha256 not in thresholds:
            log.warning(
                "the threshold of %g was tuned for model %s: %s goes back to %g",
                before.threshold,
                before.model.identity,
                model.identity,
                self._picker.threshold,
            )
        return ModelChange(
            event="loaded",
            model=model.identity,
            placement=model.placement,
            current=self._current,
        )

    def _review(self) -> None:
        """Choose for the serving model from what is known already."""
        self._is_reviewed = True
        self._take_chosen(self._picker, self._chooser.review(self._picker, self._change))

    def _take_chosen(self, picker: Picker, chosen: ChosenThreshold | None) -> Picker:
        """Take a choice for a model; its picker with the limits that hold now."""
        if chosen is None:
            return picker
        sha256 = picker.model.identity.sha256
        before = self._change.chosen.get(sha256)
        if chosen == before:
            return picker
        self._change = msgspec.structs.replace(self._change, chosen={**self._change.chosen, sha256: chosen})
        if before is not None and chosen.threshold == before.threshold:
            return picker
        self._chosen.append(LimitsRequest(text="", change=self._change))
        self._renew()
        return self._with_limits(picker)

    def _renew(self) -> None:
        """Have both pickers pick within the limits that hold now."""
        self._picker = self._with_limits(self._picker)
        self._before = self._before and self._with_limits(self._before)

    def _with_limits(self, picker: Picker) -> Picker:
        return picker.with_limits(self._change.for_model(picker.model.identity.sha256))

    def _roll_back(self, before: Picker, reason: str, message: str) -> ModelChange:
        withdrawn = self._picker.model.identity
        self._picker, self._before, self._probation = before, None, None
        self._is_reviewed = False
        return ModelChange(
            event="rolled_back",
            model=before.model.identity,
            placement=before.model.placement,
            withdrawn=withdrawn,
            reason=reason,
            message=f"{withdrawn}: {message}",
            current=self._current,
        )
