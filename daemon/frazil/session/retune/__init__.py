"""Picks made again within other limits, from kept score maps, without the model.

- ``preview`` makes the picks of one micrograph within other limits; ``count`` counts those of all.
- ``request_change`` asks the daemon to change the limits, for the results that exist and for those to come.
- ``LimitsChange`` is such a change, ``LimitsRequest`` a request for it, ``RevisionProgress`` its state in the ledger.
- ``Chooser`` chooses the threshold from the session's first micrographs; ``SessionChoice`` keeps what it rests on.
- ``Reviser`` is the daemon's part: it revises the results one at a time.
- ``Receiver`` takes results that ``frazil repick`` has made with a model meanwhile.
"""

from frazil.session.retune.chooser import Chooser, SessionChoice, choose_from_kept, describe_threshold
from frazil.session.retune.limits import LimitsChange, LimitsRequest, RevisionProgress
from frazil.session.retune.receiver import Receiver
from frazil.session.retune.repick import MicrographCount, Preview, count, preview, request_change
from frazil.session.retune.reviser import Reviser

__all__ = [
    "Chooser",
    "LimitsChange",
    "LimitsRequest",
    "MicrographCount",
    "Preview",
    "Receiver",
    "Reviser",
    "RevisionProgress",
    "SessionChoice",
    "choose_from_kept",
    "count",
    "describe_threshold",
    "preview",
    "request_change",
]
