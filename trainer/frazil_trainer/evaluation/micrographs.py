"""Validation micrographs with their picks and their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from frazil.picking import Picks
from frazil_trainer.data.labelled import LabelledPaths, find_labelled, inside_border, read_labelled
from frazil_trainer.evaluation.ranking import Ranking
from frazil_trainer.evaluation.sources import PickSource, printable
from frazil_trainer.recipe import TrainingSet

__all__ = ["ScoredMicrograph", "Scoring", "score_micrograph", "score_micrographs", "validation_paths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMicrograph:
    """One picker's picks in one micrograph, down to a very low threshold, and one set of labels as the truth."""

    name: str
    folder: str
    """Folder of its training set."""
    picks: Picks
    truth: Picks
    diameter_px: float
    height_px: int
    """Height of the micrograph."""
    labels: str = ""
    """Ending of the label files, of which a micrograph may have several sets."""
    picker: str = ""

    def rank(self, distance_diameters: float = 0.5, *, flipped: bool = False) -> Ranking:
        """Rank the picks, or the picks turned upside down, and find their hits.

        A hit lies within `distance_diameters` of its particle, centre to centre.
        """
        y = (self.height_px - 1) - self.picks.y if flipped else self.picks.y
        picks = Picks(y=y, x=self.picks.x, score=self.picks.score)
        return Ranking.of_micrograph(picks, self.truth, distance_diameters * self.diameter_px)


def validation_paths(data: Path, sets: Sequence[TrainingSet]) -> list[LabelledPaths]:
    """The validation micrographs of training sets, once for each set of labels.

    Raises:
        FrazilError: a micrograph is missing.
    """
    sources = [
        msgspec.structs.replace(source, labels_suffix=suffix)
        for source in sets
        for suffix in (source.labels_suffix, *source.other_labels)
    ]
    return [paths for source in sources for paths in find_labelled(data, source) if paths.part == "validation"]


Scoring = Callable[
    [Sequence[PickSource], Mapping[str, Sequence[LabelledPaths]]], Iterable[tuple[str, list[ScoredMicrograph]]]
]
"""Scores micrographs, named by their paths, each with its sets of labels, and yields them in whatever order."""


def score_micrographs(
    sources: Sequence[PickSource],
    paths: Sequence[LabelledPaths],
    progress: Callable[[str], None] = lambda _: None,
    scoring: Scoring | None = None,
) -> list[ScoredMicrograph]:
    """Collect the picks of pickers in labelled micrographs.

    A micrograph is picked once for all of its sets of labels, for each of which it is once in `paths`. Micrographs that
    a picker has no picks for are left out, and so are particles and picks in the border without data.

    Args:
        sources: the pickers.
        paths: of the micrographs.
        progress: called with the stem of each micrograph that is done.
        scoring: how they are scored; None: one by one, here. The result does not depend on it.

    Raises:
        FrazilError: a micrograph, its labels or a picker's file cannot be read.
    """
    by_micrograph: dict[str, list[LabelledPaths]] = {}
    for one in paths:
        by_micrograph.setdefault(str(one.micrograph), []).append(one)
    done: dict[str, list[ScoredMicrograph]] = {}
    for name, scored in (scoring or _score_here)(sources, by_micrograph):
        done[name] = scored
        progress(Path(name).stem)
    return [one for name in by_micrograph for one in done[name]]


def _score_here(
    sources: Sequence[PickSource], micrographs: Mapping[str, Sequence[LabelledPaths]]
) -> Iterator[tuple[str, list[ScoredMicrograph]]]:
    for name, members in micrographs.items():
        yield name, score_micrograph(sources, members)


def score_micrograph(sources: Sequence[PickSource], members: Sequence[LabelledPaths]) -> list[ScoredMicrograph]:
    """Collect the picks of pickers in one micrograph, for each of its sets of labels.

    Raises:
        FrazilError: the micrograph, its labels or a picker's file cannot be read.
    """
    read = [read_labelled(one) for one in members]
    micrograph = read[0][0]
    shape = micrograph.pixels.shape
    scored = []
    for source in sources:
        picks = source.pick(members[0], micrograph)
        if picks is None:
            continue
        for one, (_, particles) in zip(members, read, strict=True):
            scored.append(
                ScoredMicrograph(
                    name=printable(one.micrograph.stem),
                    folder=one.source.folder,
                    picks=inside_border(picks, shape, one.source.border_px),
                    truth=inside_border(particles, shape, one.source.border_px),
                    diameter_px=one.source.known_diameter_angstrom / micrograph.resolve_pixel_size(None),
                    height_px=shape[0],
                    labels=one.source.labels_ending,
                    picker=source.name,
                )
            )
    return scored
