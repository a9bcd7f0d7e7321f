"""The comparison: a session's own model and the serving one pick what people corrected and the new one never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frazil.documents import MicrographDocument, ModelDocument
from frazil.errors import MicrographError, ModelError
from frazil.junk_area import sift_picks
from frazil.model import CARD_NAME, ModelIdentity, kept_out_of, read_card
from frazil.picking import HitCount, Micrograph, Picks
from frazil.record import MicrographReader
from frazil.session.outbox.ledger import LedgerReader

__all__ = ["Compared", "Comparison"]

_MOST_MICROGRAPHS = 20
_LOOKED_BACK = 100
"""Changes of models in which it is sought whether a model served before."""

Pick = Callable[[Micrograph], Picks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The outcome of a comparison."""

    micrographs: int
    particles: int
    before: float
    """F1 of the serving model."""
    after: float
    """F1 of the new one."""

    def describe(self) -> str:
        """The figures, in one line."""
        return (
            f"F1 {self.after:.3f} on {self.particles} particles in {self.micrographs} corrected micrographs that were "
            f"kept out of its training (serving model: {self.before:.3f})"
        )

    def check(self, model: ModelIdentity) -> None:
        """Check that the new model is not worse.

        Raises:
            ModelError: it is.
        """
        if self.after < self.before:
            raise ModelError(
                f"{model}: expected to pick what was corrected at least as well as the serving model, "
                f"found {self.describe()}",
                "worse",
            )


class Comparison:
    """Compares models on the corrected micrographs of a session.

    Args:
        ledger: its file.
        read: reads a micrograph.
    """

    def __init__(self, ledger: Path, read: MicrographReader) -> None:
        self._ledger = ledger
        self._read = read

    def run(self, version: Path, *, serving: Pick, candidate: Pick, is_over: Callable[[], bool]) -> Compared:
        """Have two models pick what one of them, by its card, did not learn from.

        Args:
            version: folder of the new model's version.
            serving: picks with the serving model.
            candidate: picks with the new one.
            is_over: whether nobody wants to know any more.

        Raises:
            ModelError: nothing was kept out, or nothing of it can be compared; or it is over.
        """
        kept_out = kept_out_of(read_card(version / CARD_NAME).run)[:_MOST_MICROGRAPHS]
        counts, micrographs, particles, problem = (HitCount(), HitCount()), 0, 0, "none is named on its card"
        for one in kept_out:
            if is_over():
                raise ModelError(f"{version}: another model was promoted", "superseded")
            document = self._corrected(one.path)
            if document is None:
                problem = f"{one.path} is not corrected"
                continue
            try:
                micrograph = self._read(Path(document.path))
                found = serving(micrograph), candidate(micrograph)
            except MicrographError as error:
                problem = str(error)
                continue
            y, x, score = document.picks.arrays()
            truth = Picks(y=y, x=x, score=score).select(one.holds(y, x))
            micrographs, particles = micrographs + 1, particles + len(truth)
            for count, every in zip(counts, found, strict=True):
                picks, _ = sift_picks(document.junk, every)
                count.add(picks.select(one.holds(picks.y, picks.x)), truth, document.diameter_px)
        if not particles:
            raise ModelError(
                f"{version}: expected corrected micrographs that were kept out of its training, to compare it with the "
                f"serving model, found none ({problem})",
                "worse",
            )
        before, after = counts
        return Compared(micrographs=micrographs, particles=particles, before=before.f1, after=after.f1)

    def has_served(self, sha256: str) -> bool:
        """Whether a model has served in this session: whoever rolls back to it wants no comparison."""
        with LedgerReader(self._ledger) as reader:
            changes = [stored.decode() for stored in reader.newest_changes(_LOOKED_BACK)]
        return any(
            isinstance(one, ModelDocument) and one.event == "loaded" and one.model.sha256 == sha256 for one in changes
        )

    def _corrected(self, path: str) -> MicrographDocument | None:
        """The picks of a micrograph as people left them; None where it has no corrections, or is marked bad.

        Of several results with the same corrections the first is taken, which is what the last person saw: a later
        model's picks beside them were never looked at.
        """
        with LedgerReader(self._ledger) as reader:
            results = [stored.decode() for seq, _ in reader.history(path) if (stored := reader.document(seq))]
        documents = [one for one in results if isinstance(one, MicrographDocument)]
        newest = documents[-1] if documents else None
        if newest is None or not newest.corrections or newest.corrections.mark == "bad":
            return None
        at = newest.corrections.at
        return next(one for one in documents if one.corrections and one.corrections.at == at)
