"""The model: what it says of itself, its files, its checks, and how it runs.

- ``load_model(path, device)`` loads an ONNX model and checks it against its contract and card.
- ``ModelFolder(path)`` adds, promotes, rolls back and prunes versions, each in one atomic step.
- ``check_in_sandbox(path)`` checks a model in a process of its own, which may crash, hang or run out of memory.
- ``ServingRecord`` says which version of a model a daemon serves, which it has refused, and why.

A name's module is loaded when the name is first asked for: whoever reads a contract or a folder needs no ONNX Runtime.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frazil.model.checks import TWIN_NAME, has_twin, int8_instructions, load_model
    from frazil.model.contract import (
        CARD_NAME,
        CONTRACT_VERSION,
        NORMALISATIONS,
        Card,
        Contrast,
        Device,
        ModelContract,
        ModelIdentity,
        Precision,
        Reference,
        Twin,
        TwinScores,
        read_card,
        write_card,
    )
    from frazil.model.files import (
        CURRENT_NAME,
        MODEL_NAME,
        identify_model,
        locate_model,
        read_contract,
        read_current,
    )
    from frazil.model.learned import (
        F1,
        Following,
        KeptOut,
        Training,
        kept_out_of,
        learned_folder,
        read_following,
        read_trainings,
        write_following,
        write_trainings,
    )
    from frazil.model.model import Model
    from frazil.model.repository import (
        ModelFolder,
        Refusal,
        ServingRecord,
        current_token,
        find_model_folders,
        post_serving_record,
        read_serving_records,
    )
    from frazil.model.runtime import Placement, available_cores
    from frazil.model.sandbox import SandboxResult, check_in_sandbox, held_bytes
    from frazil.model.tiling import Batches, MicrographSize

__all__ = [
    "CARD_NAME",
    "CONTRACT_VERSION",
    "CURRENT_NAME",
    "F1",
    "MODEL_NAME",
    "NORMALISATIONS",
    "TWIN_NAME",
    "Batches",
    "Card",
    "Contrast",
    "Device",
    "Following",
    "KeptOut",
    "MicrographSize",
    "Model",
    "ModelContract",
    "ModelFolder",
    "ModelIdentity",
    "Placement",
    "Precision",
    "Reference",
    "Refusal",
    "SandboxResult",
    "ServingRecord",
    "Training",
    "Twin",
    "TwinScores",
    "available_cores",
    "check_in_sandbox",
    "current_token",
    "find_model_folders",
    "has_twin",
    "held_bytes",
    "identify_model",
    "int8_instructions",
    "kept_out_of",
    "learned_folder",
    "load_model",
    "locate_model",
    "post_serving_record",
    "read_card",
    "read_contract",
    "read_current",
    "read_following",
    "read_serving_records",
    "read_trainings",
    "write_card",
    "write_following",
    "write_trainings",
]

_MODULES = ("contract", "files", "learned", "repository", "tiling", "runtime", "sandbox", "model", "checks")
"""In the order in which they are looked through: the light ones first."""

if not TYPE_CHECKING:  # where names are checked, those above are all there are

    def __getattr__(name: str) -> Any:
        """The name, from its module."""
        if name in __all__:
            for module in _MODULES:
                loaded = importlib.import_module(f"frazil.model.{module}")
                if name in loaded.__all__:
                    return getattr(loaded, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
