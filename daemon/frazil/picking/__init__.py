"""Pure picking: a micrograph in, picks out. No threads, no sockets, no clock.

- ``read_micrograph(path)`` reads and checks an MRC or TIFF file.
- ``load_model(path, device)`` loads an ONNX model and checks it against its contract and card.
- ``Picker(model, settings).pick(micrograph)`` returns ``Picks``: arrays y, x, score.
- ``write_star(path, picks)`` and ``read_star(path)`` speak RELION.
- ``read_coordinates(path)`` reads what RELION, EMAN, crYOLO and Topaz write, and plain CSV.
- ``draw_picks(pixels, picks, diameter_px)`` makes a picture of it.

>>> from frazil.picking import Picker, PickingSettings, load_model
>>> from frazil.settings import default_model_path
>>> picker = Picker(load_model(default_model_path()), PickingSettings(diameter_angstrom=191))
>>> picker.model.contract.architecture
'fcn'
"""

from frazil.picking.blank import BlankArea, find_blank
from frazil.picking.card import CARD_NAME, Card, Reference, Twin, TwinScores, read_card, write_card
from frazil.picking.contract import ModelContract
from frazil.picking.contrast import ContrastEvidence, darkness, weigh_contrast
from frazil.picking.coordinates import (
    CoordinateEnding,
    GrowingStar,
    YAxis,
    coordinate_list,
    named_micrographs,
    particles_star,
    read_coordinates,
    read_star,
    write_box,
    write_cbox,
    write_csv,
    write_star,
)
from frazil.picking.formats import MICROGRAPH_ENDINGS, micrograph_stem
from frazil.picking.matching import hits_gained, match_picks
from frazil.picking.micrograph import (
    LARGEST_MICROGRAPH_BYTES,
    ChooseRescaling,
    Micrograph,
    check_complete,
    read_micrograph,
)
from frazil.picking.model import Model, Preparation, load_model
from frazil.picking.model_files import (
    CURRENT_NAME,
    MODEL_NAME,
    ModelIdentity,
    identify_model,
    locate_model,
    read_contract,
    read_current,
)
from frazil.picking.overlay import draw_picks, grey_picture
from frazil.picking.peaks import SCORE_STEPS, ScoreMap, find_peaks, find_picks
from frazil.picking.picker import Picker, PickingSettings
from frazil.picking.picks import Picks
from frazil.picking.picture import Picture, make_picture
from frazil.picking.pixel_memory import PixelMemory
from frazil.picking.precision import TWIN_NAME, has_twin, int8_instructions
from frazil.picking.provider import available_cores
from frazil.picking.rescale import Rescaling
from frazil.picking.tiling import Batches

__all__ = [
    "CARD_NAME",
    "CURRENT_NAME",
    "LARGEST_MICROGRAPH_BYTES",
    "MICROGRAPH_ENDINGS",
    "MODEL_NAME",
    "SCORE_STEPS",
    "TWIN_NAME",
    "Batches",
    "BlankArea",
    "Card",
    "ChooseRescaling",
    "ContrastEvidence",
    "CoordinateEnding",
    "GrowingStar",
    "Micrograph",
    "Model",
    "ModelContract",
    "ModelIdentity",
    "Picker",
    "PickingSettings",
    "Picks",
    "Picture",
    "PixelMemory",
    "Preparation",
    "Reference",
    "Rescaling",
    "ScoreMap",
    "Twin",
    "TwinScores",
    "YAxis",
    "available_cores",
    "check_complete",
    "coordinate_list",
    "darkness",
    "draw_picks",
    "find_blank",
    "find_peaks",
    "find_picks",
    "grey_picture",
    "has_twin",
    "hits_gained",
    "identify_model",
    "int8_instructions",
    "load_model",
    "locate_model",
    "make_picture",
    "match_picks",
    "micrograph_stem",
    "named_micrographs",
    "particles_star",
    "read_card",
    "read_contract",
    "read_coordinates",
    "read_current",
    "read_micrograph",
    "read_star",
    "weigh_contrast",
    "write_box",
    "write_card",
    "write_cbox",
    "write_csv",
    "write_star",
]
