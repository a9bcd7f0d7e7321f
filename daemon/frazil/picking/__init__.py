"""Pure picking: a micrograph in, picks out. No sockets, no clock; one thread, which rescales what is being read.

- ``read_micrograph(path)`` reads and checks an MRC or TIFF file.
- ``Picker(model, settings).pick(micrograph)`` returns ``Picks``: arrays y, x, score.
- ``write_star(path, picks)`` and ``read_star(path)`` speak RELION.
- ``read_coordinates(path)`` reads what RELION, cryoSPARC, EMAN, crYOLO and Topaz write, and plain CSV.
- ``try_diameters(micrograph, model)`` and ``estimate_diameter(tried)`` measure the particle's diameter.
- ``draw_picks(pixels, picks, diameter_px)`` makes a picture of it.

>>> from frazil.model import load_model
>>> from frazil.picking import Picker, PickingSettings
>>> from frazil.settings import default_model_path
>>> picker = Picker(load_model(default_model_path()), PickingSettings(diameter_angstrom=191))
>>> picker.model.contract.architecture
'fcn'
"""

from frazil.picking.choice import (
    LOWEST_PEAK,
    PeakScores,
    ThresholdChoice,
    assess_threshold,
    choose_threshold,
    find_low_peaks,
)
from frazil.picking.contrast import ContrastEvidence, darkness, weigh_contrast
from frazil.picking.coordinates import (
    CoordinateEnding,
    GrowingStar,
    YAxis,
    box_text,
    cbox_text,
    coordinate_list,
    csv_text,
    may_be_together,
    named_micrographs,
    particles_star,
    read_coordinates,
    read_star,
    star_source,
    star_text,
    topaz_text,
    write_box,
    write_cbox,
    write_csv,
    write_star,
    write_topaz,
)
from frazil.picking.device import PreparationOnDevice
from frazil.picking.formats import MICROGRAPH_ENDINGS, micrograph_stem
from frazil.picking.junk import JunkFinder, JunkMask, Outlines, lie_inside
from frazil.picking.matching import HitCount, hits_gained, match_picks
from frazil.picking.measure import (
    TRIED_ANGSTROM,
    DiameterEstimate,
    DiameterPeak,
    TriedDiameter,
    estimate_diameter,
    try_diameters,
)
from frazil.picking.micrograph import (
    LARGEST_MICROGRAPH_BYTES,
    ChooseRescaling,
    ImageClaims,
    Micrograph,
    PixelMemory,
    check_complete,
    read_micrograph,
)
from frazil.picking.overlay import contrast_range, draw_curve, draw_picks, grey_picture, small_picture
from frazil.picking.picker import Picker, PickingSettings
from frazil.picking.picks import SCORE_STEPS, Picks, ScoreMap, find_peaks, find_picks
from frazil.picking.picture import BlankArea, Picture, find_blank, make_picture
from frazil.picking.rescale import Rescaling

__all__ = [
    "LARGEST_MICROGRAPH_BYTES",
    "LOWEST_PEAK",
    "MICROGRAPH_ENDINGS",
    "SCORE_STEPS",
    "TRIED_ANGSTROM",
    "BlankArea",
    "ChooseRescaling",
    "ContrastEvidence",
    "CoordinateEnding",
    "DiameterEstimate",
    "DiameterPeak",
    "GrowingStar",
    "HitCount",
    "ImageClaims",
    "JunkFinder",
    "JunkMask",
    "Micrograph",
    "Outlines",
    "PeakScores",
    "Picker",
    "PickingSettings",
    "Picks",
    "Picture",
    "PixelMemory",
    "PreparationOnDevice",
    "Rescaling",
    "ScoreMap",
    "ThresholdChoice",
    "TriedDiameter",
    "YAxis",
    "assess_threshold",
    "box_text",
    "cbox_text",
    "check_complete",
    "choose_threshold",
    "contrast_range",
    "coordinate_list",
    "csv_text",
    "darkness",
    "draw_curve",
    "draw_picks",
    "estimate_diameter",
    "find_blank",
    "find_low_peaks",
    "find_peaks",
    "find_picks",
    "grey_picture",
    "hits_gained",
    "lie_inside",
    "make_picture",
    "match_picks",
    "may_be_together",
    "micrograph_stem",
    "named_micrographs",
    "particles_star",
    "read_coordinates",
    "read_micrograph",
    "read_star",
    "small_picture",
    "star_source",
    "star_text",
    "topaz_text",
    "try_diameters",
    "weigh_contrast",
    "write_box",
    "write_cbox",
    "write_csv",
    "write_star",
    "write_topaz",
]
