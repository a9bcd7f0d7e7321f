"""The publisher: documents and heartbeats on a ZeroMQ PUB socket."""

from __future__ import annotations

import ipaddress
import re

import zmq

from frazil.documents import HEARTBEAT_TOPIC, PICKS_TOPIC, Heartbeat, encode_document
from frazil.errors import AddressError

__all__ = ["Publisher"]

_HIGH_WATER_MARK = 1000
"""Documents kept for a subscriber that is slow; beyond it drops its own, never ours."""
_LINGER_MS = 1000
_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/]+):(?P<port>\d+|\*)")


class Publisher:
    """A bound PUB socket. Used from one thread at a time.

    Args:
        address: such as ``tcp://127.0.0.1:5556``; port 0 takes a free one.
        allow_unencrypted: allow an address that other machines reach.

    Attributes:
        address: the one really bound.

    Raises:
        AddressError: the address is malformed, taken, or not of this machine alone.
    """

    def __init__(self, address: str, *, allow_unencrypted: bool = False) -> None:
        _check_address(address, allow_unencrypted=allow_unencrypted)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.sndhwm = _HIGH_WATER_MARK
        self._socket.linger = _LINGER_MS
        try:
            self._socket.bind(re.sub(r":0$", ":*", address))
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"{address}: cannot publish there: {error.strerror or error}") from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send_document(self, body: bytes, topic: bytes = PICKS_TOPIC) -> None:
        """Send one encoded document to whoever listens."""
        self._socket.send_multipart([topic, body])

    def send_heartbeat(self, epoch: str, head: int) -> None:
        """Tell listeners that the stream lives, and its newest sequence number."""
        self._socket.send_multipart([HEARTBEAT_TOPIC, encode_document(Heartbeat(epoch=epoch, seq=head))])

    def close(self) -> None:
        """Close the socket; what was sent gets a second to leave."""
        self._socket.close()
        self._context.term()


def _check_address(address: str, *, allow_unencrypted: bool) -> None:
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    parts = _TCP.fullmatch(address)
    if parts is None:
        raise AddressError(f"{address}: expected an address such as tcp://127.0.0.1:5556")
    host = parts["host"].strip("[]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not (local or allow_unencrypted):
        raise AddressError(
            f"{address}: expected an address of this machine alone (127.0.0.1), found one that others reach; "
            "the stream is not encrypted: add --publish-unencrypted if that is meant"
        )
