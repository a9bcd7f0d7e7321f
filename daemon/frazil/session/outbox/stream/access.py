"""Who may connect: with CURVE, only clients whose public keys lie in a directory."""

from __future__ import annotations

import logging
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from frazil.errors import SettingsError
from frazil.keys import PUBLIC_ENDING, read_key_pair, read_public_key

__all__ = ["Access"]

log = logging.getLogger(__name__)

_DOMAIN = "frazil"
_MAX_CLIENTS = 10_000


class Access:
    """The daemon's key pair and the directory of its clients' public keys.

    The directory is read at each attempt to connect: a key put there or taken away counts at once for whoever
    connects from then on. A client that is connected stays so.

    Args:
        key: ``.key_secret`` file of the daemon.
        clients: directory with a ``.key`` file for each client.

    Attributes:
        key, clients: as given.

    Raises:
        SettingsError: there is no such key, or no such directory.
    """

    def __init__(self, key: Path, clients: Path) -> None:
        self._keys = read_key_pair(key)
        self.key = key
        self.clients = clients
        if not clients.is_dir():
            raise SettingsError(f"{clients}: expected a directory with the clients' {PUBLIC_ENDING} files, found none")
        self._authenticator: ThreadAuthenticator | None = None

    def start(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Decide, in a thread of its own, who connects to this context's sockets."""
        self._authenticator = ThreadAuthenticator(context, log=log.getChild("zap"))
        self._authenticator.start()
        self._authenticator.configure_curve_callback(_DOMAIN, credentials_provider=self)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Let only listed clients connect to a socket, before it is bound."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
        socket.zap_domain = _DOMAIN.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody to ask means nobody gets in

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002 - the authenticator's protocol
        """Whether a client with this public key, as Z85 text, may connect."""
        return key in self._listed()

    def stop(self) -> None:
        """End the thread."""
        if self._authenticator is not None:
            self._authenticator.stop()

    def _listed(self) -> set[bytes]:
        keys: set[bytes] = set()
        try:
            files = sorted(self.clients.glob(f"*{PUBLIC_ENDING}"))[:_MAX_CLIENTS]
        except OSError as error:
            log.warning("%s: the list of clients cannot be read: %s", self.clients, error)
            return keys
        for file in files:
            try:
                keys.add(read_public_key(file))
            except SettingsError as error:
                log.warning("passed over a client: %s", error)
        return keys
