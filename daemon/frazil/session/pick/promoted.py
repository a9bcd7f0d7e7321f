"""What is promoted for a session: its own model while it has one, else the model of its settings."""

from __future__ import annotations

import contextlib
from pathlib import Path

from frazil.errors import ModelError
from frazil.model import CURRENT_NAME, ModelIdentity, current_token, identify_model, read_current

__all__ = ["Promoted", "identify_promoted"]

_FIXED = "fixed"
"""Token of a setting that names one version, or one file: it promotes that for good."""


class Promoted:
    """Resolves which model a session is to serve. It keeps no state: each call looks at the folders as they are.

    Args:
        setting: a model's folder, one version's folder, or an .onnx file.
        own: the folder of the session's own model, which need not be there. It takes precedence while it has a
            ``CURRENT``.

    Attributes:
        setting: with links resolved.
        own: with links resolved.
    """

    def __init__(self, setting: Path, own: Path) -> None:
        self.setting = setting.expanduser().resolve()
        self.own = own.resolve()
        self.is_fixed = not (self.setting / CURRENT_NAME).exists()
        """Whether the setting names one version, which has no ``CURRENT``."""

    @property
    def folder(self) -> Path:
        """The folder that decides now."""
        return self.own if current_token(self.own) else self.setting

    @property
    def token(self) -> str:
        """A token that changes whenever another model may be promoted; empty while ``CURRENT`` is missing."""
        return current_token(self.own) or self.setting_token

    @property
    def setting_token(self) -> str:
        """The token while the session has no model of its own."""
        return _FIXED if self.is_fixed else current_token(self.setting)

    def knows(self, folder: str) -> bool:
        """Whether a folder is one of these."""
        return folder in (str(self.own), str(self.setting))

    def path_of(self, folder: Path, version: int | None = None) -> Path:
        """The path of a version in one of the folders. Default: of the promoted one.

        Raises:
            ModelError: ``CURRENT`` is missing, or names no version.
        """
        if folder == self.setting and self.is_fixed:
            return folder
        return folder / str(read_current(folder)[0] if version is None else version)

    def folder_of(self, model: ModelIdentity) -> str:
        """The folder that a model is in: its content tells it, since both folders may have the same name."""
        with contextlib.suppress(ModelError):
            if identify_model(self.own / str(model.version)).sha256 == model.sha256:
                return str(self.own)
        return str(self.setting)


def identify_promoted(folder: Path, path: Path | None) -> ModelIdentity:
    """The identity of a version in a folder, as far as it can be told.

    Args:
        folder: of the model.
        path: of the version; None where ``CURRENT`` names none.
    """
    if path is None:
        return ModelIdentity(name=folder.name, version=0, sha256="")
    with contextlib.suppress(ModelError):
        return identify_model(path)
    return ModelIdentity(name=folder.name, version=int(path.name) if path.name.isdecimal() else 0, sha256="")
