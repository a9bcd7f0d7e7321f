"""One training from corrected micrographs: the folder to learn from, the adaptation, and a comparison on the rest."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from frazil.documents import MicrographDocument
from frazil.errors import FrazilError, OutputError
from frazil.model import (
    CARD_NAME,
    F1,
    KeptOut,
    Model,
    kept_out_of,
    load_model,
    read_card,
)
from frazil.model.contract import read_calibration
from frazil.picking import (
    HitCount,
    Picker,
    PickingSettings,
    Picks,
    choose_threshold,
    find_low_peaks,
    read_micrograph,
    write_star,
)
from frazil_trainer.adapt.adaptation import AdaptationSettings, adapt_model
from frazil_trainer.data.labelled import MICROGRAPH_ENDINGS, describe_set
from frazil_trainer.follow.corrected import Corrected
from frazil_trainer.training.loop import Observer

__all__ = ["Lesson", "plan_lesson"]

_LABELS = ".star"
_MOST_LEARNT_FROM = 100
_MOST_KEPT_OUT = 20
"""As many as the daemon compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is learnt from, and what is kept out."""

    learnt_from: Sequence[Corrected]
    kept_out: Sequence[Corrected]

    @property
    def diameter_angstrom(self) -> float:
        """Of the particle."""
        document = self.learnt_from[0].document
        return document.diameter_px * document.pixel_size_angstrom

    @property
    def pixel_size_angstrom(self) -> float | None:
        """Of the micrographs; None where they differ, so that each file tells its own."""
        found = {one.document.pixel_size_angstrom for one in (*self.learnt_from, *self.kept_out)}
        return found.pop() if len(found) == 1 else None

    def train(
        self,
        parent: Path,
        out: Path,
        work: Path,
        console: Console,
        *,
        settings: AdaptationSettings,
        observers: Sequence[Observer],
    ) -> Path:
        """Adapt a model, and write it as the next version of another.

        Args:
            parent: the model to adapt.
            out: the new version's model folder.
            work: folder for the labels and for checkpoints: a training that was killed goes on from there.
            console: to print to.
            settings: of the adaptation.
            observers: receive its figures.

        Returns:
            The new version's folder.

        Raises:
            FrazilError: the corrections cannot be learnt from, or the adapted model picks worse.
            OutputError: a file cannot be written.
        """
        data = work / "labels"
        try:
            names = self._write_labels(data)
        except OSError as error:
            raise OutputError(f"{data}: cannot be written: {error.strerror}") from error
        source = describe_set(
            data,
            name=data.name,
            diameter_angstrom=self.diameter_angstrom,
            labels=_LABELS,
            y_axis="down",
            pixel_size_angstrom=self.pixel_size_angstrom,
        )
        return adapt_model(
            parent,
            data,
            source,
            out,
            console,
            run=work / "runs",
            # A person saw these particles, and what has no label is none. Doubts about labels are printed; whether
            # something was learnt from them is for the comparison to say.
            settings=dataclasses.replace(settings, incomplete=False, force=True),
            known_as=names,
            kept_out=[KeptOut(path=one.path) for one in self.kept_out],
            observers=observers,
        )

    def _write_labels(self, data: Path) -> dict[str, str]:
        """Write links to the micrographs, with their picks beside them; the ledger's names by those of the links.

        Raises:
            OSError: the folder cannot be written.
        """
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        names = {}
        for one in self.learnt_from:
            link = data / f"{one.number:06d}{Path(one.document.micrograph).suffix.lower()}"
            link.symlink_to(one.document.path)
            write_star(link.with_suffix(_LABELS), one.picks)
            names[link.name] = one.path
        return names

    def compare(self, before: Path, after: Path, threads: int) -> F1:
        """F1 of the serving model and of the new one on what the new one did not learn from.

        Args:
            before: version of the serving model.
            after: version of the new one, whose card says what was kept out.
            threads: CPU threads.

        Raises:
            FrazilError: nothing was kept out, or a micrograph cannot be read.
        """
        parts = kept_out_of(read_card(after / CARD_NAME).run)
        corrected = {one.path: one for one in (*self.learnt_from, *self.kept_out)}
        counts = []
        for version in (before, after):
            count, model = HitCount(), load_model(version, "cpu", threads)
            peaks = {part.path: _find_peaks(model, corrected[part.path].document) for part in parts}
            thresholds = _thresholds(model, [corrected[part.path].document for part in parts], peaks)
            for part in parts:
                one, found = corrected[part.path], peaks[part.path]
                picks = found.select(found.reaching(thresholds[part.path]) & part.holds(found.y, found.x))
                truth = one.picks
                count.add(picks, truth.select(part.holds(truth.y, truth.x)), one.document.diameter_px)
            counts.append(count)
        if not counts[0].particles:
            raise FrazilError(
                f"{after}: expected corrected particles that were kept out, found none; correct more micrographs"
            )
        return F1(
            before=round(counts[0].f1, 4),
            after=round(counts[1].f1, 4),
            micrographs=len(parts),
            particles=counts[0].particles,
        )


def _find_peaks(model: Model, document: MicrographDocument) -> Picks:
    """All peaks of a micrograph, within the distances that hold in the session."""
    limits = document.limits
    settings = PickingSettings(
        diameter_angstrom=document.diameter_px * document.pixel_size_angstrom,
        pixel_size_angstrom=document.pixel_size_angstrom,
        min_distance_angstrom=limits.min_distance_angstrom,
        edge_margin_angstrom=limits.edge_margin_angstrom,
    )
    picker = Picker(model, settings)
    picture = picker.prepare(read_micrograph(Path(document.path), as_stored=True))
    return find_low_peaks(picker.score(picture), picker.limits, picture.pixel_size_angstrom)


def _thresholds(model: Model, documents: Sequence[MicrographDocument], peaks: Mapping[str, Picks]) -> dict[str, float]:
    """The threshold at which a model would pick each micrograph in the session.

    That of its result where the model made that; else what frazil would choose, if it chooses in this session, or else
    the model's own.
    """
    threshold = model.contract.threshold
    if any(document.chosen for document in documents):
        threshold = choose_threshold(
            [one.score.astype(np.float32) for one in peaks.values()],
            threshold,
            calibration=read_calibration(model.contract.calibration),
        ).threshold
    of_results = model.identity.sha256
    return {
        path: document.threshold if document.model.sha256 == of_results else threshold
        for path, document in zip(peaks, documents, strict=True)
    }


def plan_lesson(corrected: Sequence[Corrected], console: Console) -> Lesson:
    """Divide what was corrected into what is learnt from and what is kept out; say what cannot be used.

    Of very many the last ones are taken.

    Raises:
        FrazilError: there is nothing to learn from.
    """
    usable = []
    for one in corrected:
        path, problem = Path(one.document.path), ""
        if not len(one.picks):
            problem = "no particle is left in it"
        elif path.suffix.lower() not in MICROGRAPH_ENDINGS:
            problem = f"only files that end in {', '.join(MICROGRAPH_ENDINGS)} can be learnt from"
        elif not path.is_file():
            problem = "the file is not there"
        if problem:
            console.print(f"{path}: left out: {problem}", markup=False, highlight=False, soft_wrap=True)
        else:
            usable.append(one)
    learnt_from = [one for one in usable if not one.is_kept_out][-_MOST_LEARNT_FROM:]
    if not learnt_from:
        raise FrazilError(f"expected corrected micrographs to learn from, found none of {len(corrected)} usable")
    return Lesson(learnt_from=learnt_from, kept_out=[one for one in usable if one.is_kept_out][-_MOST_KEPT_OUT:])
