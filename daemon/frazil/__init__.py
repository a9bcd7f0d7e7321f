"""frazil picks particles from a running stream of cryo-EM micrographs.

What is where:

- ``frazil.PickStream`` and ``frazil.AsyncPickStream``: what a program downstream needs; see ``frazil.client``.
- ``frazil.picking``: a micrograph in, picks out; no threads, no sockets, no clock.
- ``frazil.daemon``: what runs behind ``frazil serve``; ``frazil.session`` is its work on one watched directory.
- ``frazil.documents``: the typed records that travel on the stream.

This package imports nothing heavy by itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frazil.client import AsyncPickStream, PickStream

__version__ = "0.1.0"

__all__ = ["AsyncPickStream", "PickStream", "__version__"]


def __getattr__(name: str) -> Any:
    """The client's classes, loaded when they are first asked for."""
    if name in ("AsyncPickStream", "PickStream"):
        return getattr(importlib.import_module("frazil.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
