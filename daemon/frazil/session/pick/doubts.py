"""Doubts: evidence in the micrographs against the settings, reported once each."""

from __future__ import annotations

from typing import Literal

from frazil.health.state import Doubt
from frazil.model import Contrast
from frazil.picking import ContrastEvidence, Picker, weigh_contrast
from frazil.record import Record

__all__ = ["BLANK_REPORTED", "Doubts"]

BLANK_REPORTED = 0.01
"""Smallest blank fraction of a micrograph that is reported."""

About = Doubt | Literal["picks"]

_MUCH_BLANK = 0.2
_FEW_ACROSS = 4.0
_WEIGHED = 5
"""Number of micrographs with enough picks on which both contrasts are compared."""
_MOST_WEIGHED = 20
_LEAST_PICKS = 5
_AT_LATEST = 10
"""Number of micrographs after which the contrasts are compared even while others wait."""


class Doubts:
    """Compares picks with the settings, and reports each doubt once. Used from one thread.

    Args:
        contrast: the setting of the contrast.
        report_no_picks: whether to report that nothing was picked. In the daemon `DriftWatch` does so.

    Attributes:
        state: the present doubts. May be read from any thread.
    """

    def __init__(self, contrast: Contrast, *, report_no_picks: bool = False) -> None:
        self._contrast = contrast
        self._report_no_picks = report_no_picks
        self.state: frozenset[Doubt] = frozenset()
        self._reported: set[About] = set()
        self._micrographs = self._picks = 0
        self._to_weigh: Record | None = None
        self._evidence = ContrastEvidence()
        self._weighed = self._tried = 0

    def note(self, record: Record) -> list[str]:
        """Add a picked micrograph; return the new doubts, in one line each."""
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
                self._picks == 0 and self._report_no_picks,
                f"no picks so far: are diameter ({particle}), contrast ({self._contrast}) and threshold "
                f"({document.threshold:g}) right?",
            ),
        ]
        return [line for line in lines if line]

    def is_due(self, *, is_idle: bool) -> bool:
        """Whether to compare the contrasts now: while nothing waits, or if there was never time for it."""
        overdue = self._tried == 0 and self._micrographs >= _AT_LATEST
        return self._to_weigh is not None and (is_idle or overdue)

    def weigh(self, picker: Picker) -> list[str]:
        """Score the last micrograph with the other contrast, too; return the new doubts, in one line each.

        Args:
            picker: the serving picker. A micrograph that another model picked is not used.
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

    def _doubt(self, about: About, is_doubtful: bool, text: str) -> str | None:
        """Note the state of a doubt; return its text if it is new."""
        if about != "picks":
            self.state = self.state | {about} if is_doubtful else self.state - {about}
        if not is_doubtful or about in self._reported:
            return None
        self._reported.add(about)
        return text
