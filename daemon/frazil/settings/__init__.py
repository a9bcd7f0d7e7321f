"""The daemon's settings, and the file that holds them.

- ``declaration``: each setting, once.
- ``cross_checks``: conditions on several settings together, and diameters that no particle has.
- ``loading``: makes settings of command line, file and defaults, or a list of every fault.
"""

import importlib
from typing import TYPE_CHECKING, Any

from frazil.settings.cross_checks import doubt_diameter
from frazil.settings.declaration import (
    COMPANIONS,
    BacklogOrder,
    LogLevel,
    ServeSettings,
    WatchBy,
    default_model_path,
    option_of,
)

if TYPE_CHECKING:
    from frazil.settings.loading import load_settings

__all__ = [
    "COMPANIONS",
    "BacklogOrder",
    "LogLevel",
    "ServeSettings",
    "WatchBy",
    "default_model_path",
    "doubt_diameter",
    "load_settings",
    "option_of",
]


def __getattr__(name: str) -> Any:
    """Import `load_settings` when it is first used: ``--help`` needs no reading of TOML."""
    if name == "load_settings":
        return importlib.import_module("frazil.settings.loading").load_settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
