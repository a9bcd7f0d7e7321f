"""The daemon's settings, and the file that holds them.

- ``declaration``: each setting, once.
- ``cross_checks``: conditions on several settings together, and diameters that no particle has.
- ``layouts``: how programs name what they write.
- ``loading``: makes settings of command line, file and defaults, or a list of every fault.
"""

import importlib
from typing import TYPE_CHECKING, Any

from frazil.settings.cross_checks import doubt_diameter
from frazil.settings.declaration import (
    BacklogOrder,
    LogLevel,
    ServeSettings,
    Unlike,
    WatchBy,
    default_model_path,
    option_of,
)
from frazil.settings.layouts import ANY, COMPANIONS, LAYOUTS, Layout, LayoutName, LayoutSetting

if TYPE_CHECKING:
    from frazil.settings.loading import load_settings

__all__ = [
    "ANY",
    "COMPANIONS",
    "LAYOUTS",
    "BacklogOrder",
    "Layout",
    "LayoutName",
    "LayoutSetting",
    "LogLevel",
    "ServeSettings",
    "Unlike",
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
