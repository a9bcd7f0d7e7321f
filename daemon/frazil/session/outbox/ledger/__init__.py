"""The ledger: one SQLite file that knows every micrograph ever seen, and is the outbox of the stream.

- `Ledger` is the daemon's: it alone writes results.
- `LedgerReader` reads while the daemon runs, or when none does.
- `leave_edits` leaves corrections in the ledger, which the daemon applies.
- `request_requeue`, `request_baseline` and `update_remembered` leave a request in the ledger, which the daemon grants.
- `Remembered` is what records have in common that the ledger remembers under a key.
- `Witness` knows outside the ledger how far it had come.
- `check` reads all of it, and `rebuild` makes a whole one from what can be read.
- `archive` moves old results into another file.
"""

from frazil.session.outbox.ledger.archive import Archived, archive
from frazil.session.outbox.ledger.check import Check, check
from frazil.session.outbox.ledger.damage import explain, is_fatal
from frazil.session.outbox.ledger.edits import AppliedEdits, LeftEdits, StoredEdit, leave_edits
from frazil.session.outbox.ledger.edits import whole as whole_edits
from frazil.session.outbox.ledger.layout import (
    LEDGER_NAME,
    OLDEST_READABLE,
    UNLIKE,
    State,
    checksum,
    ledger_file,
    open_read_only,
)
from frazil.session.outbox.ledger.ledger import Handled, Ledger, Note
from frazil.session.outbox.ledger.meta_keys import (
    BASELINE_KEY,
    CHOICE_KEY,
    DAEMON_KEY,
    DRIFT_KEY,
    HANDOVER_KEY,
    INVENTORY_KEY,
    LIKENESS_KEY,
    MOUNT_POINT_KEY,
    QUALITY_DRIFT_KEY,
    REPICK_KEY,
    RETUNE_KEY,
    SESSION_KEY,
    SQUARES_KEY,
    STANDING_KEY,
    TUNED_KEY,
    Remembered,
)
from frazil.session.outbox.ledger.qualities import QualityRecord, Unassessed
from frazil.session.outbox.ledger.reader import KeptResult, LedgerReader, MicrographRecord, StoredDocument
from frazil.session.outbox.ledger.rebuild import Rebuilt, rebuild
from frazil.session.outbox.ledger.requests import request_baseline, request_requeue, update_remembered
from frazil.session.outbox.ledger.witness import WITNESS_NAME, Witness, read_witness, watched_of

__all__ = [
    "BASELINE_KEY",
    "CHOICE_KEY",
    "DAEMON_KEY",
    "DRIFT_KEY",
    "HANDOVER_KEY",
    "INVENTORY_KEY",
    "LEDGER_NAME",
    "LIKENESS_KEY",
    "MOUNT_POINT_KEY",
    "OLDEST_READABLE",
    "QUALITY_DRIFT_KEY",
    "REPICK_KEY",
    "RETUNE_KEY",
    "SESSION_KEY",
    "SQUARES_KEY",
    "STANDING_KEY",
    "TUNED_KEY",
    "UNLIKE",
    "WITNESS_NAME",
    "AppliedEdits",
    "Archived",
    "Check",
    "Handled",
    "KeptResult",
    "Ledger",
    "LedgerReader",
    "LeftEdits",
    "MicrographRecord",
    "Note",
    "QualityRecord",
    "Rebuilt",
    "Remembered",
    "State",
    "StoredDocument",
    "StoredEdit",
    "Unassessed",
    "Witness",
    "archive",
    "check",
    "checksum",
    "explain",
    "is_fatal",
    "leave_edits",
    "ledger_file",
    "open_read_only",
    "read_witness",
    "rebuild",
    "request_baseline",
    "request_requeue",
    "update_remembered",
    "watched_of",
    "whole_edits",
]
