"""Pieces of ZMTP, the protocol of ZeroMQ, for clients that do not keep to it."""

from __future__ import annotations

import socket
import struct

__all__ = ["GREETING", "connect", "handshake", "leave", "write_command", "write_frame"]

GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 48


def write_command(body: bytes) -> bytes:
    """A command of less than 256 bytes."""
    return b"\x04" + bytes([len(body)]) + body


def write_frame(body: bytes) -> bytes:
    """A message, or a part of one."""
    return (b"\x00" + bytes([len(body)]) if len(body) < 256 else b"\x02" + struct.pack(">Q", len(body))) + body


def handshake(kind: bytes) -> bytes:
    """What a socket of some kind says first."""
    return GREETING + write_command(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


def connect(address: str) -> socket.socket:
    """A bare TCP connection."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def leave(connection: socket.socket) -> None:
    """Go without a word more: the other side gets a reset, whatever is under way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
