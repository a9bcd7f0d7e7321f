"""The watched tree: events as hints, scans as the truth.

Nothing here opens a file or knows what a micrograph is; it names candidates.
"""

from frazil.service.watch.file_system import FileSystem
from frazil.service.watch.hint import FoundBy, Hint
from frazil.service.watch.scan import Scan, Scanner
from frazil.service.watch.selection import Selection
from frazil.service.watch.watcher import Sightings, Watcher

__all__ = [
    "FileSystem",
    "FoundBy",
    "Hint",
    "Scan",
    "Scanner",
    "Selection",
    "Sightings",
    "Watcher",
]
