"""Doubts: what the micrographs themselves say against the settings, told once, while nothing else would tell it."""

from __future__ import annotations

from typing import Literal

from frazil.health.state import Doubt
from frazil.model import Contrast
from frazil.picking import ContrastEvidence, Picker, weigh_contrast
from frazil.session.pick.record import Record

__all__ = ["BLANK_TOLD", "Doubts"]

BLANK_TOLD = 0.01
"""Blank fraction of a micrograph from which on it is told."""

About = Doubt | Literal["picks"]

_MUCH_BLANK = 0.2
_FEW_ACROSS = 4.0
_WEIGHED = 5
"""Micrographs on which both contrasts are scored, of those with anything to weigh."""
_MOST_WEIGHED = 20
_LEAST_PICKS = 5
_AT_LATEST = 10
"""Micrographs after which one is weighed though others wait."""


class Doubts:
    """Looks at what is picked, and says each doubt once. Used from one thread.

    Args:
        contrast: as set.
        say_empty: whether to say, too, that nothing was picked; in the daemon the watch for drift does.

    Attributes:
        state: what there is to doubt now; from any thread.
    """

    def __init__(self, contrast: Contrast, *, say_empty: bool = False) -> None:
        self._contrast = contrast
        self._say_empty = say_empty
        self.state: frozenset[Doubt] = frozenset()
        self._said: set[About] = set()
        self._micrographs = self._picks = 0
        self._to_weigh: Record | None = None
        self._evidence = ContrastEvidence()
        self._weighed = self._tried = 0

    def note(self, record: Record) -> list[str]:
        """Take in a micrograph that was picked; what there is to say, a line each."""
        document = record.document
        self._micrographs += 1
        self._picks += len(record.picks)
        if self._weighed < _WEIGHED and self._tried < _MOST_WEIGHED:
            self._to_weigh = record
        diameter_angstrom = document.diameter_px * document.pixel_size_angstrom
        across = min(document.shape) / document.diameter_px
        particle = f"a particle of {diameter_angstrom:.4g} Å is {document.diameter_px:.4g} px"
        lines = [
            self._doubt(
                "blank",
                document.blank_fraction > _MUCH_BLANK,
                f"{document.micrograph}: {document.blank_fraction:.0%} of it holds no data; nothing is picked there",
            ),
            self._doubt(
                "diameter",
                across < _FEW_ACROSS and self._picks == 0,
                f"{document.micrograph}: {particle}, and {across:.2g} of them fit across: is the diameter right, in Å?",
            ),
            self._doubt(
                "picks",
                self._picks == 0 and self._say_empty,
                f"no picks so far: are diameter ({particle}), contrast ({self._contrast}) and threshold "
                f"({document.threshold:g}) right?",
            ),
        ]
        return [line for line in lines if line]

    def is_due(self, *, is_idle: bool) -> bool:
        """Whether a micrograph should be weighed now: while nothing waits, or if there was never time for one."""
        overdue = self._tried == 0 and self._micrographs >= _AT_LATEST
        return self._to_weigh is not None and (is_idle or overdue)

    def weigh(self, picker: Picker) -> list[str]:
        """Score the last micrograph with the other contrast, too; what there is to say, a line each.

        Args:
            picker: the one that serves. What another picked is not weighed.
        """
        record, self._to_weigh = self._to_weigh, None
        if record is None or record.document.model.sha256 != picker.model.identity.sha256:
            return []
        self._tried += 1
        evidence = weigh_contrast(picker, record.picture, record.score_map)
        if max(evidence.picks, evidence.other_picks) < _LEAST_PICKS:
            return []
        self._weighed += 1
        self._evidence += evidence
        other = "bright" if self._contrast == "dark" else "dark"
        line = self._doubt(
            "contrast",
            self._evidence.speaks_for_other,
            f"particles look {other} here, and contrast is {self._contrast}: {self._evidence.other_picks} picks "
            f"instead of {self._evidence.picks} with contrast {other}",
        )
        return [line] if line else []

    def _doubt(self, about: About, is_doubtful: bool, says: str) -> str | None:
        """Take note of a doubt as it stands; what to say where it is new."""
        if about != "picks":
            self.state = self.state | {about} if is_doubtful else self.state - {about}
        if not is_doubtful or about in self._said:
            return None
        self._said.add(about)
        return says
