"""Troubles: what an operator should know and do, told from the metrics and the ledger, worst first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from frazil.service.page.session import Standing

__all__ = ["Trouble", "find_troubles"]

_QUIET_SECONDS = 600.0
_BACKLOG = 20
_FAILED_SHARE = 0.1
_FAILED_LEAST = 3

_DRIFTS = {
    ("picks", "down"): "Fewer picks per micrograph than when the session began",
    ("picks", "up"): "More picks per micrograph than when the session began",
    ("score", "down"): "Lower scores than when the session began",
    ("score", "up"): "Higher scores than when the session began",
}

_DOUBTS = {
    "blank": (
        "Much of the newest micrograph holds no data",
        "Nothing is picked there. Padding, a mask or film? Else see to the beam, the beam stop and the aperture.",
    ),
    "contrast": (
        "Particles seem to look the other way round than the setting contrast says",
        "Look at a micrograph: where particles are brighter than the ice, contrast must be bright, else dark.",
    ),
    "diameter": (
        "Hardly any particle of the set diameter would fit into a micrograph",
        "Look whether the setting diameter is in Å, and whether the pixel size is right.",
    ),
    "picks": (
        "Nothing was picked as yet",
        "Are there particles? Then look at the settings diameter, in Å, pixel_size, contrast and threshold.",
    ),
}


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, and what helps."""

    level: Literal["fault", "warning"]
    """A fault stops picking; a warning does not."""
    says: str
    todo: str


def find_troubles(samples: Mapping[str, float], standing: Standing | None, now: float) -> list[Trouble]:
    """What is wrong now.

    Args:
        samples: the metrics, as ``name{label=value}``.
        standing: what the ledger says; None where it cannot be read.
        now: in seconds of Unix time.
    """
    faults, warnings = [], []

    def fault(says: str, todo: str) -> None:
        faults.append(Trouble(level="fault", says=says, todo=todo))

    def warn(says: str, todo: str) -> None:
        warnings.append(Trouble(level="warning", says=says, todo=todo))

    if samples.get("frazil_watch_fault"):
        fault("The watched directory cannot be seen", "Look whether its mount is there. Picking goes on by itself.")
    if samples.get("frazil_output_blocked"):
        fault(
            "Results cannot be written, and picking waits",
            "Make room on the disk of the output directory, or mend its permissions. Picking goes on by itself.",
        )
    if standing is None:
        fault("The ledger cannot be read", "Look at the log.")
        return faults

    waiting = samples.get("frazil_queue_depth{queue=read}", 0)
    last = samples.get("frazil_last_micrograph_timestamp_seconds", 0)
    if last and now - last > _QUIET_SECONDS and not waiting:
        warn(
            f"No new micrograph for {(now - last) / 60:.0f} minutes",
            "If the microscope still collects, look whether its files arrive in the watched directory, "
            "and whether their names match the setting include.",
        )
    if waiting > _BACKLOG:
        warn(
            f"{waiting:.0f} micrographs wait to be picked",
            "Micrographs come faster than they are picked, or lay there at the start. "
            "Where the number grows, see on what the model runs.",
        )
    failed = standing.counts.get("quarantined", 0) + standing.counts.get("failed", 0)
    if failed >= _FAILED_LEAST and failed > _FAILED_SHARE * (failed + standing.counts.get("picked", 0)):
        warn(f"{failed} micrographs could not be picked", "See the reasons under Failures.")
    for (quantity, direction), says in _DRIFTS.items():
        if samples.get(f"frazil_drift{{direction={direction},quantity={quantity}}}"):
            warn(says, "Look at the newest pictures: ice, defocus, astigmatism, carbon. Then tune the threshold.")
    for about, (says, todo) in _DOUBTS.items():
        if samples.get(f"frazil_doubt{{about={about}}}"):
            warn(says, todo)
    if standing.changes and (newest := standing.changes[0]).event != "loaded":
        what = "was refused" if newest.event == "refused" else "serves again: the newer one was withdrawn"
        warn(f"The model {newest.model} {what}", newest.reason or "See the log.")
    return faults + warnings
