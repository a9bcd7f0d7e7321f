"""Tuning by eye: picks made again from the score maps that were kept, without the model.

- ``preview`` makes the picks of one micrograph within other limits; ``count`` counts those of all.
- ``request_retune`` asks the daemon to take other limits for all, and for what follows.
- ``Wanted`` is what somebody wants, ``Asked`` a request for it on its way; ``Tuned`` is what the daemon remembers.
- ``Reviser`` is the daemon's: it brings the results there are to what is wanted, one at a time.
"""

from frazil.session.retune.counts import MicrographCount, count
from frazil.session.retune.limits import Asked, Wanted
from frazil.session.retune.progress import TUNED_KEY, Tuned
from frazil.session.retune.repick import Preview, preview
from frazil.session.retune.request import request_retune
from frazil.session.retune.reviser import Reviser

__all__ = [
    "TUNED_KEY",
    "Asked",
    "MicrographCount",
    "Preview",
    "Reviser",
    "Tuned",
    "Wanted",
    "count",
    "preview",
    "request_retune",
]
