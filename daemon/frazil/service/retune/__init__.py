"""Tuning by eye: picks made again from the score maps that were kept, without the model.

- ``preview`` makes the picks of one micrograph within other limits; ``count`` counts those of all.
- ``request_retune`` asks the daemon to take other limits for all, and for what follows.
- ``Wanted`` is what was asked for; ``Tuned`` is what the daemon remembers of it.
- ``Reviser`` is the daemon's: it brings the results there are to what is wanted, one at a time.
"""

from frazil.service.retune.counts import MicrographCount, count
from frazil.service.retune.kept import Preview, preview
from frazil.service.retune.request import request_retune
from frazil.service.retune.wanted import Wanted

__all__ = ["MicrographCount", "Preview", "Wanted", "count", "preview", "request_retune"]
