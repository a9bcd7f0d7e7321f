"""Corrections: what people change in the picks of a micrograph, and the picks that this makes.

- ``Edit`` is one change: a pick added or deleted, a junk outline, a mark, or an earlier edit undone.
- ``read_edit`` and ``check_edit`` refuse what cannot be one.
- ``applying.apply`` makes picks from those of the model and the edits; ``applying.correct_document`` does so for a
  document. It stands apart, since whoever leaves an edit need not wait for numpy.

Edits are the truth: they say where, and not which pick, so they hold for whatever picks the model makes later. The
ledger keeps them, and the outbox applies them to every result that it commits.
"""

from frazil.session.correct.edits import (
    MOST_EDITS_OF_MICROGRAPH,
    MOST_NAME_LETTERS,
    MOST_OUTLINES,
    AddPick,
    DeletePick,
    Edit,
    JunkOutline,
    MarkMicrograph,
    UndoEdit,
    check_edit,
    read_edit,
)

__all__ = [
    "MOST_EDITS_OF_MICROGRAPH",
    "MOST_NAME_LETTERS",
    "MOST_OUTLINES",
    "AddPick",
    "DeletePick",
    "Edit",
    "JunkOutline",
    "MarkMicrograph",
    "UndoEdit",
    "check_edit",
    "read_edit",
]
