"""CURVE keys: a pair of files for each daemon and each client, in the format of ZeroMQ's own certificates.

``NAME.key`` is public; ``NAME.key_secret`` holds both halves and is for its owner alone.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from frazil.errors import SettingsError

__all__ = ["PUBLIC_ENDING", "SECRET_ENDING", "KeyPair", "new_keys", "read_key_pair", "read_public_key"]

PUBLIC_ENDING = ".key"
SECRET_ENDING = ".key_secret"  # noqa: S105 - no password, but the ending of such files

_MAX_BYTES = 4096
_Z85 = r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"
_LINE = re.compile(rf'^\s*(public|secret)-key\s*=\s*"({_Z85})"\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both halves of a key, as Z85 text."""

    public: bytes
    secret: bytes = field(repr=False)


def new_keys(directory: Path, name: str = "frazil") -> tuple[Path, Path]:
    """Make a pair of keys, and write each to a file of its own. Only its owner may read the secret one.

    Args:
        directory: directory of the files, made if missing.
        name: name of the files, before their endings.

    Returns:
        The files of the public and of the secret key.

    Raises:
        SettingsError: the name cannot be a file's, a file exists already, or cannot be written.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise SettingsError(f"{name!r}: expected a name of letters, digits, '.', '_' and '-'")
    public, secret = zmq.curve_keypair()
    files = directory / f"{name}{PUBLIC_ENDING}", directory / f"{name}{SECRET_ENDING}"
    lines = f'    public-key = "{public.decode()}"\n', f'    secret-key = "{secret.decode()}"\n'
    texts = (
        "# A frazil key. This half may be given to anybody.\ncurve\n" + lines[0],
        "# A frazil key. Keep this file to yourself.\ncurve\n" + "".join(lines),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = next((file for file in files if file.exists()), None)
        if taken is not None:
            raise SettingsError(f"{taken}: expected a new file, found one (keys are never overwritten)")
        for file, text, mode in zip(files, texts, (0o644, 0o600), strict=True):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as out:
                os.fchmod(out.fileno(), mode)  # despite the umask: a daemon of another user reads public keys
                out.write(text)
    except OSError as error:
        raise SettingsError(f"{directory}: keys cannot be written there: {error.strerror}") from error
    return files


def read_key_pair(file: Path) -> KeyPair:
    """Read both halves of a key from a ``.key_secret`` file.

    Raises:
        SettingsError: the file cannot be read, others may read it, or it holds no pair.
    """
    found = _read(file)
    if set(found) != {"public", "secret"}:
        raise SettingsError(f"{file}: expected a {SECRET_ENDING} file with both halves of a key, found otherwise")
    if file.stat().st_mode & 0o077 and not _is_credential(file):
        raise SettingsError(f"{file}: expected a file that only its owner may read (chmod 600), found otherwise")
    return KeyPair(public=found["public"], secret=found["secret"])


def read_public_key(file: Path) -> bytes:
    """Read the public half of a key from a ``.key`` file.

    Raises:
        SettingsError: the file cannot be read, or holds no public key.
    """
    found = _read(file)
    if "public" not in found:
        raise SettingsError(f"{file}: expected a {PUBLIC_ENDING} file with a public key, found otherwise")
    return found["public"]


def _is_credential(file: Path) -> bool:
    """Whether systemd keeps a file for this service alone. It does so by an ACL, which the mode does not show."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and file.parent == Path(str(folder))


def _read(file: Path) -> dict[str, bytes]:
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise SettingsError(f"{file}: expected a key, cannot read it: {error.strerror}") from error
    return {half: key.encode("ascii") for half, key in _LINE.findall(text)}
