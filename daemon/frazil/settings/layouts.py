"""Layouts: how the programs at a microscope name what they write, so that one exposure gives one result."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

__all__ = ["ANY", "COMPANIONS", "LAYOUTS", "LAYOUT_NAMES", "Layout", "LayoutName", "LayoutSetting"]

LayoutName = Literal["relion-project", "relion", "cryosparc", "warp", "motioncor", "leginon", "serialem", "epu", "any"]
LayoutSetting = Literal[
    "auto", "relion-project", "relion", "cryosparc", "warp", "motioncor", "leginon", "serialem", "epu", "any"
]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)

_COPIES = ("_DW", "_doseweighted", "_fractions")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The names in the tree of one program. Patterns are those of the settings."""

    name: LayoutName
    program: str
    """Its name for people."""
    signs: tuple[str, ...] = ()
    """A file or folder that matches one of these is written by this program alone."""
    takes: tuple[str, ...] = ("*.mrc",)
    """Micrographs, unless the setting `include` says otherwise."""
    companions: tuple[str, ...] = ()
    """Files and folders that it writes beside micrographs."""
    movies: tuple[str, ...] = ()
    """Movies whose names would do for micrographs."""
    copies: tuple[str, ...] = _COPIES
    """Endings of a stem that mark the same exposure as the file without the ending, if both are in one folder."""


ANY = Layout(name="any", program="no known program")

_DIGITS = "[0-9]" * 5

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="relion-project",
        program="a RELION project",
        # A project has maps and masks as well; of its jobs only MotionCorr writes micrographs.
        signs=tuple(
            f"MotionCorr/job*/{name}"
            for name in ("job.star", "run.out", "corrected_micrographs.star", "**/*_PS.mrc", "**/*_noDW.mrc")
        ),
        takes=("MotionCorr/**/*.mrc",),
    ),
    Layout(
        name="relion",
        program="RELION's MotionCorr",
        signs=("corrected_micrographs.star", "*_PS.mrc", "*_noDW.mrc"),
        companions=("*_noDW.*", "*_DWS.*", "*_EVN.*", "*_ODD.*", "*_PS.*", "*_ctf.*"),
    ),
    Layout(
        name="cryosparc",
        program="cryoSPARC",
        signs=("*_patch_aligned.mrc", "*_rigid_aligned.mrc", "*_aligned_doseweighted.mrc"),
        takes=("*_aligned.mrc", "*_aligned_doseweighted.mrc"),
        companions=("*_background.mrc", "*_background_estimate.mrc", "*_ctf_diag_*", "thumbnails"),
    ),
    Layout(
        name="warp",
        program="Warp",
        # Folders: what is in them is passed over unseen.
        signs=("powerspectrum", *(f"**/average/{folder}" for folder in ("even", "odd", "denoised"))),
        takes=("**/average/*.mrc",),
        companions=("even", "odd", "deconv", "denoised", "mask", "masks", "powerspectrum"),
    ),
    Layout(
        name="motioncor",
        program="MotionCor2 or 3",
        signs=("*_DW.mrc", "*_DWS.mrc", "*-Patch-Full.log", "*-Patch-Patch.log", "*-Full.log"),
    ),
    Layout(
        name="leginon",
        program="Leginon",
        # Presets are named by the operator; gr, sq and hl are everybody's for grid, square and hole, e... for exposures
        signs=(f"*_{_DIGITS}gr.mrc", f"*_{_DIGITS}sq.mrc", f"*_{_DIGITS}sq_*.mrc"),
        takes=(f"*_{_DIGITS}e*.mrc",),
        movies=("*.frames.mrc",),
        copies=(*_COPIES, "-a", "-a-DW", "-DW"),
    ),
    Layout(
        name="serialem",
        program="SerialEM",
        signs=("*.nav", "*.mrc.mdoc", "*.tif.mdoc", "*.eer.mdoc", "*.st.mdoc"),
        companions=("CountRef*.mrc", "SuperRef*.mrc", "LMM*.mrc", "MMM*.mrc"),
    ),
    Layout(
        name="epu",
        program="EPU",
        # Motion correction keeps the names of Data and of the folders, and none of these.
        signs=("EpuSession.dm", "FoilHoles", *(f"GridSquare_*.{ending}" for ending in ("mrc", "xml", "jpg", "dm"))),
        takes=("FoilHole_*_Data_*.mrc",),
        companions=(
            *("FoilHoles", "GridSquares", "GridSquare_*.mrc", "Atlas", "Atlas_*.mrc", "Tile_*.mrc"),
            *("gain.mrc", "gain_*.mrc", "*_gain.mrc", "*gainref*", "*gain-ref*"),
            *("gain.tif*", "gain_*.tif*", "*_gain.tif*"),
        ),
        movies=("*_fractions.mrc", "*_EER.mrc"),
    ),
)
"""Where a tree looks like several, the first counts: averages after motion correction before those of the camera."""

COMPANIONS: tuple[str, ...] = tuple(dict.fromkeys(p for layout in LAYOUTS for p in layout.companions))
"""Patterns of companions: files that other programs write beside micrographs."""
