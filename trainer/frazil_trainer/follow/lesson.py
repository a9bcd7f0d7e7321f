"""One training from corrected micrographs: the folder to learn from, the adaptation, and a comparison on the rest."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from frazil.errors import FrazilError, MicrographError, OutputError
from frazil.model import (
    CARD_NAME,
    CURRENT_NAME,
    F1,
    KeptOut,
    ModelFolder,
    identify_model,
    kept_out_of,
    load_model,
    read_card,
)
from frazil.picking import HitCount, Picker, PickingSettings, read_micrograph, write_star
from frazil_trainer.adapt.adaptation import AdaptationSettings, adapt_model
from frazil_trainer.data.labelled import MICROGRAPH_ENDINGS, describe_set
from frazil_trainer.follow.corrected import Corrected
from frazil_trainer.training.loop import Observer

__all__ = ["Lesson", "find_version", "plan_lesson"]

_LABELS = ".star"


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
            # What has no label in a corrected micrograph is no particle, as a person said.
            settings=dataclasses.replace(settings, incomplete=False),
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
            FrazilError: nothing was kept out that can be read.
        """
        corrected = {one.path: one for one in (*self.learnt_from, *self.kept_out)}
        counts, micrographs, problem = [], 0, "too few particles are corrected"
        for version in (before, after):
            count, micrographs = HitCount(), 0
            model = load_model(version, "cpu", threads)
            for kept_out in kept_out_of(read_card(after / CARD_NAME).run):
                one = corrected[kept_out.path]
                document = one.document
                picker = Picker(
                    model,
                    PickingSettings(
                        diameter_angstrom=document.diameter_px * document.pixel_size_angstrom,
                        pixel_size_angstrom=document.pixel_size_angstrom,
                        threshold=document.threshold if model.identity.sha256 == document.model.sha256 else None,
                    ),
                )
                try:
                    picks = picker.pick(read_micrograph(Path(document.path), as_stored=True))
                except MicrographError as error:
                    problem = str(error)
                    continue
                truth, micrographs = one.picks, micrographs + 1
                count.add(
                    picks.select(kept_out.holds(picks.y, picks.x)),
                    truth.select(kept_out.holds(truth.y, truth.x)),
                    document.diameter_px,
                )
            counts.append(count)
        if not all(count.particles for count in counts):
            raise FrazilError(
                f"{after}: expected corrected micrographs that were kept out, found none ({problem}); correct more"
            )
        return F1(
            before=round(counts[0].f1, 4),
            after=round(counts[1].f1, 4),
            micrographs=micrographs,
            particles=counts[0].particles,
        )


def plan_lesson(corrected: Sequence[Corrected], console: Console) -> Lesson:
    """Divide what was corrected into what is learnt from and what is kept out; say what cannot be used.

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
    learnt_from = [one for one in usable if not one.is_kept_out]
    if not learnt_from:
        raise FrazilError(f"expected corrected micrographs to learn from, found none of {len(corrected)} usable")
    return Lesson(learnt_from=learnt_from, kept_out=[one for one in usable if one.is_kept_out])


def find_version(sha256: str, setting: Path, own: Path) -> Path:
    """The version with a content.

    Args:
        sha256: of the model's file.
        setting: the model of the session's settings: its folder, one version's folder, or a file.
        own: folder of the session's own model.

    Raises:
        FrazilError: it is in neither.
    """
    folders = (setting, own) if (setting / CURRENT_NAME).exists() else (own,)
    versions = [folder / str(version) for folder in folders for version in ModelFolder(folder).versions()]
    for version in (*reversed(versions), setting):
        if identify_model(version).sha256 == sha256:
            return version
    raise FrazilError(
        f"expected the model that serves (sha256 {sha256[:12]}) in {setting} or {own}, found it in neither; "
        "--from names the model of the session's settings"
    )
