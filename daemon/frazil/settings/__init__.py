"""The daemon's settings, and the file that holds them.

- ``declaration``: each setting, once.
- ``diameter``: which diameters no particle has.
- ``cross_checks``: what several of them must agree on.
- ``toml_lines``: a TOML file as statements with their lines.
- ``loading``: command line, file and defaults become settings, or a list of every fault.
"""

import importlib
from typing import TYPE_CHECKING, Any

from frazil.settings.declaration import (
    COMPANIONS,
    BacklogOrder,
    Contrast,
    Device,
    LogLevel,
    Precision,
    ServeSettings,
    WatchBy,
    default_model_path,
    option_of,
)
from frazil.settings.diameter import doubt_diameter

if TYPE_CHECKING:
    from frazil.settings.loading import load_settings

__all__ = [
    "COMPANIONS",
    "BacklogOrder",
    "Contrast",
    "Device",
    "LogLevel",
    "Precision",
    "ServeSettings",
    "WatchBy",
    "default_model_path",
    "doubt_diameter",
    "load_settings",
    "option_of",
]


def __getattr__(name: str) -> Any:
    """Loading, when it is first asked for: whoever shows the settings need not read TOML."""
    if name == "load_settings":
        return importlib.import_module("frazil.settings.loading").load_settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
