"""The swap: one model replaces another in mid-stream, or is refused, and picking goes on.

- ``Serving`` is the model that serves; it changes between two micrographs.
- ``Swapper`` sees ``CURRENT`` change, tries the new model and offers it.
- ``Canary`` compares a model, in shadow, with the serving one; ``Probation`` watches it once it serves.
- ``Announcer`` commits each change to the ledger and tells subscribers.
"""

from frazil.service.swap.announcer import Announcer
from frazil.service.swap.canary import CanaryBounds
from frazil.service.swap.change import Change
from frazil.service.swap.serving import Serving
from frazil.service.swap.swapper import Swapper

__all__ = ["Announcer", "CanaryBounds", "Change", "Serving", "Swapper"]
