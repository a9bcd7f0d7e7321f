"""Models on disk: the repository that trainer, daemon and operator share.

- ``ModelFolder(path)`` adds, promotes, rolls back and prunes versions, each in one atomic step.
- ``prove_model(path)`` tries a model in a process of its own, which may crash, hang or run out of memory.
- ``Standing`` says where a daemon stands with a model: what it serves, what it has refused, and why.
"""

from frazil.models.memory import held_bytes
from frazil.models.proof import Proof, prove_model
from frazil.models.repository import ModelFolder, current_stamp, find_model_folders
from frazil.models.standing import Refusal, Standing, post_standing, read_standings

__all__ = [
    "ModelFolder",
    "Proof",
    "Refusal",
    "Standing",
    "current_stamp",
    "find_model_folders",
    "held_bytes",
    "post_standing",
    "prove_model",
    "read_standings",
]
