"""Picks made again within other limits, from kept score maps, without the model.

- ``preview`` makes the picks of one micrograph within other limits; ``count`` counts those of all.
- ``request_change`` asks the daemon to change the limits, for the results that exist and for those to come.
- ``LimitsChange`` is such a change, ``LimitsRequest`` a request for it, ``RevisionProgress`` its state in the ledger.
- ``Reviser`` is the daemon's part: it revises the results one at a time.
"""

from frazil.session.retune.limits import LimitsChange, LimitsRequest, RevisionProgress
from frazil.session.retune.repick import MicrographCount, Preview, count, preview, request_change
from frazil.session.retune.reviser import Reviser

__all__ = [
    "LimitsChange",
    "LimitsRequest",
    "MicrographCount",
    "Preview",
    "Reviser",
    "RevisionProgress",
    "count",
    "preview",
    "request_change",
]
