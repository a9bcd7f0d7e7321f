"""The chooser: frazil's own threshold for a session, for each model, from the micrographs that it picks.

It is chosen anew at some of the first micrographs, then held. What it rests on is remembered in the ledger, together
with the results: a restart goes on where they end.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.documents import MicrographDocument
from frazil.errors import OutputError, RetuneError
from frazil.junk_area import MaybeJunk, outside_junk
from frazil.limits import ChosenThreshold, PickLimits
from frazil.model.contract import read_calibration
from frazil.picking import (
    SCORE_STEPS,
    PeakScores,
    Picker,
    PickingSettings,
    Picture,
    ScoreMap,
    assess_threshold,
    choose_threshold,
    find_low_peaks,
)
from frazil.session.outbox.ledger import KeptResult, LedgerReader, Remembered
from frazil.session.retune.limits import LimitsChange
from frazil.session.retune.repick import read_document, read_score_map

__all__ = ["Chooser", "SessionChoice", "choose_from_kept", "describe_threshold"]

log = logging.getLogger(__name__)

HYSTERESIS = 0.02
"""A threshold in force changes only if the one that is chosen differs from it by more."""
ENOUGH_MICROGRAPHS = 20
"""Number of micrographs with picks from which the threshold is held."""
MOST_MICROGRAPHS = 60
"""Number of micrographs, those without picks included, from which it is held in any case."""
LOOKS = (1, 2, 3, 5, 8, 13, 21, 34, 55)
"""Numbers of micrographs at which it is chosen anew before it is held: each time there is much more to go by."""
_MODELS_KEPT = 3


class MicrographEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The peaks of one micrograph, as the ledger keeps them."""

    path: str
    """Of the micrograph."""
    scores: bytes
    """Of its peaks in steps of 1/65535, best first, deflated."""

    @classmethod
    def of(cls, path: str, scores: NDArray[np.floating[Any]]) -> MicrographEvidence:
        """Keep the peaks of a micrograph, of which there are (n,) scores, best first."""
        steps = np.round(scores * SCORE_STEPS).astype("<u2")
        return cls(path=path, scores=zlib.compress(steps.tobytes(), 1))

    def unpack(self) -> PeakScores:
        """The peaks, as a choice takes them.

        Raises:
            ValueError: they are damaged.
        """
        try:
            steps: NDArray[np.float32] = np.frombuffer(zlib.decompress(self.scores), "<u2").astype(np.float32)
        except zlib.error as error:
            raise ValueError(f"expected the peaks of {self.path}: {error}") from error
        return steps / np.float32(SCORE_STEPS)


class ModelEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has said of the session's first micrographs, and the threshold chosen from it."""

    made_with: str
    """Diameter, pixel size, contrast and distances. With others, the peaks would be others."""
    own_threshold: float
    """The model's own."""
    calibration: str = ""
    """Of the model's scores, as its contract has it."""
    micrographs: tuple[MicrographEvidence, ...] = ()
    chosen: ChosenThreshold | None = None
    """None before the first choice."""

    def choose(self, target_precision: float | None, *, held_to: float | None = None) -> ChosenThreshold:
        """Choose from the evidence.

        Args:
            target_precision: precision that the picks should have; None for the best F1.
            held_to: threshold that stays unless the chosen one differs by more than `HYSTERESIS`.
        """
        peaks = list(_unpack_whole(self.micrographs))
        calibration = read_calibration(self.calibration)
        if held_to is None or len(peaks) in LOOKS or _are_enough(peaks, held_to):
            choice = choose_threshold(
                peaks, self.own_threshold, target_precision=target_precision, calibration=calibration
            )
            if held_to is not None and abs(choice.threshold - held_to) <= HYSTERESIS:
                choice = assess_threshold(peaks, held_to, calibration=calibration)
        else:
            choice = assess_threshold(peaks, held_to, calibration=calibration)
        return ChosenThreshold(
            threshold=choice.threshold,
            precision=choice.precision,
            picks_per_micrograph=choice.picks_per_micrograph,
            micrographs=choice.micrographs,
            held=_are_enough(peaks, choice.threshold),
        )


class SessionChoice(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """How the threshold of a session comes about, kept in the ledger."""

    chooses: bool = True
    """Whether frazil chooses it where the operator has not said otherwise."""
    setting: float | None = None
    """The threshold in the settings."""
    target_precision: float | None = None
    """The precision in the settings for which it is chosen; None for the best F1."""
    models: dict[str, ModelEvidence] = {}
    """By the sha256 of the model."""


class Chooser:
    """Chooses the threshold of each model from the micrographs that it picks. All of it belongs to the picking thread.

    Args:
        remembered: what an earlier run left in the ledger.
        chooses: whether frazil chooses where the operator has not said otherwise.
        setting: the threshold in the settings.
        target_precision: precision that the picks should have; None for the best F1.
        ledger: keeps score maps, from which a choice begins where there are some.
    """

    def __init__(
        self,
        remembered: str = "",
        *,
        chooses: bool = True,
        setting: float | None = None,
        target_precision: float | None = None,
        ledger: Path | None = None,
    ) -> None:
        kept = SessionChoice.decode(remembered) or SessionChoice()
        models = kept.models
        if kept.target_precision != target_precision:  # the same evidence, and another question
            models = {sha256: msgspec.structs.replace(one, chosen=None) for sha256, one in models.items()}
        self._choice = SessionChoice(chooses=chooses, setting=setting, target_precision=target_precision, models=models)
        self._ledger = ledger
        self._is_news = self._choice.encode() != remembered

    @property
    def chooses(self) -> bool:
        """Whether frazil chooses where the operator has not said otherwise."""
        return self._choice.chooses

    def as_new(self) -> Chooser:
        """One with the same settings that knows nothing as yet."""
        return Chooser(setting=self._choice.setting, target_precision=self._choice.target_precision)

    def news(self) -> str | None:
        """What the ledger is to remember with the next result; None where it is as it was."""
        if not self._is_news:
            return None
        self._is_news = False
        return self._choice.encode()

    def review(self, picker: Picker, change: LimitsChange) -> ChosenThreshold | None:
        """The choice for a model between two micrographs, from the evidence there is.

        Args:
            picker: of the model.
            change: of limits in force.

        Returns:
            The choice; None where the operator has set the threshold, or where there is no evidence as yet.
        """
        sha256 = picker.model.identity.sha256
        if not change.lets_choose(sha256, by_default=self.chooses):
            if sha256 not in self._choice.models:  # whoever asks what would be chosen must know the model
                self._keep(picker, _evidence_from(picker, made_with=""))
            return None
        evidence = self._evidence_of(picker)
        return self._choose(picker, evidence, change.chosen.get(sha256)) if evidence.micrographs else None

    def consider(
        self,
        picker: Picker,
        change: LimitsChange,
        path: str,
        picture: Picture,
        score_map: ScoreMap,
        junk: MaybeJunk = msgspec.UNSET,
    ) -> ChosenThreshold | None:
        """The choice for a model, after it has scored one more micrograph.

        Args:
            picker: of the model.
            change: of limits in force.
            path: of the micrograph.
            picture: of the micrograph.
            score_map: its scores.
            junk: of the micrograph. Peaks that lie there are no evidence.

        Returns:
            The choice; None where the operator has set the threshold.
        """
        sha256 = picker.model.identity.sha256
        if not change.lets_choose(sha256, by_default=self.chooses):
            return None
        evidence, in_force = self._evidence_of(picker), change.chosen.get(sha256)
        if in_force is not None and evidence.chosen is not None and evidence.chosen.held:
            return self._choose(picker, evidence, in_force)
        peaks = outside_junk(junk, find_low_peaks(score_map, picker.limits, picture.pixel_size_angstrom))
        return self.weigh(picker, change, path, peaks.score)

    def weigh(
        self, picker: Picker, change: LimitsChange, path: str, scores: NDArray[np.floating[Any]]
    ) -> ChosenThreshold:
        """The choice for a model, with one more micrograph, as long as it is not held.

        Args:
            picker: of the model.
            change: of limits in force.
            path: of the micrograph.
            scores: (n,) of its low peaks outside junk, best first.
        """
        evidence = self._evidence_of(picker)
        others = [other for other in evidence.micrographs if other.path != path]
        micrographs = (*others, MicrographEvidence.of(path, scores))[-MOST_MICROGRAPHS:]
        evidence = msgspec.structs.replace(evidence, micrographs=micrographs)
        return self._choose(picker, evidence, change.chosen.get(picker.model.identity.sha256))

    def _evidence_of(self, picker: Picker) -> ModelEvidence:
        """The evidence of a model; what its kept score maps say where there is none as yet."""
        made_with = _made_with(picker.settings, picker.limits)
        evidence = self._choice.models.get(picker.model.identity.sha256)
        if evidence is None or evidence.made_with != made_with:
            kept = tuple(self._read_kept(picker))
            evidence = msgspec.structs.replace(_evidence_from(picker, made_with=made_with), micrographs=kept)
            self._keep(picker, evidence)
        return evidence

    def _read_kept(self, picker: Picker) -> Iterable[MicrographEvidence]:
        if self._ledger is None:
            return []
        with contextlib.suppress(OutputError), LedgerReader(self._ledger) as reader:
            kept = read_kept(reader, picker.model.identity.sha256, picker.settings, picker.limits)
            return list(kept)[::-1]
        return []

    def _choose(self, picker: Picker, evidence: ModelEvidence, in_force: ChosenThreshold | None) -> ChosenThreshold:
        before = evidence.chosen
        if before is not None and before.held and in_force is not None:
            return msgspec.structs.replace(before, threshold=in_force.threshold)
        # Without an earlier choice from this evidence, what is in force was chosen for something else.
        held_to = None if before is None or in_force is None else in_force.threshold
        chosen = evidence.choose(self._choice.target_precision, held_to=held_to)
        self._keep(picker, msgspec.structs.replace(evidence, chosen=chosen))
        return chosen

    def _keep(self, picker: Picker, evidence: ModelEvidence) -> None:
        sha256 = picker.model.identity.sha256
        if self._choice.models.get(sha256) == evidence:
            return
        self._is_news = True
        others = [(key, one) for key, one in self._choice.models.items() if key != sha256]
        models = dict([*others, (sha256, evidence)][-_MODELS_KEPT:])
        self._choice = msgspec.structs.replace(self._choice, models=models)


def choose_from_kept(
    reader: LedgerReader, document: MicrographDocument, choice: SessionChoice | None
) -> ChosenThreshold:
    """What frazil would choose now, from kept score maps, for the model and the distances of a result.

    Args:
        reader: of the session's ledger.
        document: the result.
        choice: of the session; None where the ledger knows none.

    Raises:
        RetuneError: no score map of the model is kept.
    """
    choice, sha256 = choice or SessionChoice(), document.model.sha256
    known = choice.models.get(sha256) or ModelEvidence(made_with="", own_threshold=document.threshold)
    settings = PickingSettings(diameter_angstrom=document.diameter_px * document.pixel_size_angstrom)
    kept = tuple(read_kept(reader, sha256, settings, document.limits))
    if not kept:
        raise RetuneError(f"{reader.file}: expected kept score maps to choose a threshold from, found none", "no_map")
    return msgspec.structs.replace(known, micrographs=kept).choose(choice.target_precision)


def read_kept(
    reader: LedgerReader, sha256: str, settings: PickingSettings, limits: PickLimits
) -> Iterator[MicrographEvidence]:
    """The evidence in the score maps that are kept of the micrographs picked last, that one first.

    Args:
        reader: of the session's ledger.
        sha256: of the model that picked them.
        settings: with which they were picked; only the diameter is known of those.
        limits: within which the peaks are sought.
    """
    found = 0
    for stored in reader.last_picked_results(MOST_MICROGRAPHS):
        packed = reader.score_map(stored.seq)
        kept = KeptResult(
            path=stored.path, seq=stored.seq, body=stored.body, score_map=packed, checksum=stored.checksum
        )
        try:
            document, score_map = read_document(kept), read_score_map(kept)
        except RetuneError:
            continue
        if document.model.sha256 != sha256 or not is_of_diameter(document, settings.diameter_angstrom):
            continue
        peaks = outside_junk(document.junk, find_low_peaks(score_map, limits, document.pixel_size_angstrom))
        yield MicrographEvidence.of(document.path, peaks.score)
        found += 1
        if found == ENOUGH_MICROGRAPHS:
            return


def is_of_diameter(document: MicrographDocument, diameter_angstrom: float) -> bool:
    """Whether a micrograph was picked with this diameter."""
    return abs(document.diameter_px * document.pixel_size_angstrom - diameter_angstrom) < 1e-3 * diameter_angstrom


def describe_threshold(document: MicrographDocument, change: LimitsChange | None, choice: SessionChoice | None) -> str:
    """How the threshold of a result came about, in a few words.

    Args:
        document: the result.
        change: of limits in force; None where the ledger knows none.
        choice: of the session; None where the ledger knows none.
    """
    sha256 = document.model.sha256
    if change is not None and change.thresholds.get(sha256) is not None:
        return "tuned by the operator"
    if isinstance(document.chosen, msgspec.UnsetType):
        return "set by the operator" if choice is not None and choice.setting is not None else "the model's own"
    evidence = None if choice is None else choice.models.get(sha256)
    newest = None if evidence is None else evidence.chosen
    if newest is not None and newest.threshold == document.threshold:
        return newest.describe()
    return document.chosen.describe()


def _are_enough(peaks: Sequence[PeakScores], threshold: float) -> bool:
    """Whether a threshold is held that was chosen from these."""
    with_picks = sum(bool((one >= np.float32(threshold)).any()) for one in peaks)
    return with_picks >= ENOUGH_MICROGRAPHS or len(peaks) >= MOST_MICROGRAPHS


def _unpack_whole(micrographs: Iterable[MicrographEvidence]) -> Iterator[PeakScores]:
    for micrograph in micrographs:
        try:
            yield micrograph.unpack()
        except ValueError as error:
            log.warning("passed over what is damaged in the ledger: %s", error)


def _evidence_from(picker: Picker, *, made_with: str) -> ModelEvidence:
    """Evidence of a model before there is any."""
    contract = picker.model.contract
    return ModelEvidence(made_with=made_with, own_threshold=contract.threshold, calibration=contract.calibration)


def _made_with(settings: PickingSettings, limits: PickLimits) -> str:
    lengths = (settings.diameter_angstrom, limits.min_distance_angstrom, limits.edge_margin_angstrom)
    return " ".join([*(f"{length:g}" for length in lengths), f"{settings.pixel_size_angstrom}", settings.contrast])
