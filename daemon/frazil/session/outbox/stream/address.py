"""Binding the stream's sockets."""

from __future__ import annotations

import re

import zmq

from frazil.errors import AddressError

__all__ = ["bind"]


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind a socket; the address that it got, port 0 being a free one.

    Raises:
        AddressError: the address is taken, or none of this machine.
    """
    try:
        socket.bind(re.sub(r":0$", ":*", address))
    except zmq.ZMQError as error:
        raise AddressError(f"{address}: cannot publish there: {error.strerror or error}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
