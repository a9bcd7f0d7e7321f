"""The daemon's settings, and the file that holds them.

- ``declaration``: each setting, once.
- ``agreements``: what several of them must agree on.
- ``statements``: a TOML file as statements with their lines.
- ``loading``: command line, file and defaults become settings, or a list of every fault.
"""

from frazil.settings.declaration import (
    BacklogOrder,
    Contrast,
    Device,
    LogLevel,
    Precision,
    ServeSettings,
    WatchBy,
    default_model_path,
)
from frazil.settings.loading import load_settings

__all__ = [
    "BacklogOrder",
    "Contrast",
    "Device",
    "LogLevel",
    "Precision",
    "ServeSettings",
    "WatchBy",
    "default_model_path",
    "load_settings",
]
