"""The daemon's settings, and the file that holds them.

- ``declaration``: each setting, once.
- ``cluster``: those of ``frazil repick`` on a cluster.
- ``cross_checks``: conditions on several settings together, and diameters that no particle has.
- ``layouts``: how programs name what they write.
- ``loading``: makes settings of command line, file and defaults, or a list of every fault.
"""

import importlib
from typing import TYPE_CHECKING, Any

from frazil.settings.cluster import ClusterSettings
from frazil.settings.cross_checks import doubt_diameter
from frazil.settings.declaration import (
    RENAMED,
    SESSION_SETTINGS,
    BacklogOrder,
    LogLevel,
    ServeSettings,
    Unlike,
    WatchBy,
    default_junk_model_path,
    default_model_path,
    option_of,
)
from frazil.settings.layouts import ANY, COMPANIONS, LAYOUTS, Layout, LayoutName, LayoutSetting

if TYPE_CHECKING:
    from frazil.settings.loading import load_cluster_settings, load_session_settings, load_settings

__all__ = [
    "ANY",
    "COMPANIONS",
    "LAYOUTS",
    "RENAMED",
    "SESSION_SETTINGS",
    "BacklogOrder",
    "ClusterSettings",
    "Layout",
    "LayoutName",
    "LayoutSetting",
    "LogLevel",
    "ServeSettings",
    "Unlike",
    "WatchBy",
    "default_junk_model_path",
    "default_model_path",
    "doubt_diameter",
    "load_cluster_settings",
    "load_session_settings",
    "load_settings",
    "option_of",
]


def __getattr__(name: str) -> Any:
    """Import what loads settings when it is first used: ``--help`` needs no reading of TOML."""
    if name in ("load_cluster_settings", "load_session_settings", "load_settings"):
        return getattr(importlib.import_module("frazil.settings.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
