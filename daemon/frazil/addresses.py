"""Addresses of the stream's sockets and of the page: their syntax, and whether other machines can reach them."""

from __future__ import annotations

import ipaddress
import re

from frazil.errors import AddressError

__all__ = ["check_address", "check_page_address", "check_page_url", "replay_address"]

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/]+):(?P<port>\d+|\*)")
_IPC = "ipc://"
_PAGE = re.compile(
    r"(?P<scheme>https?)://(?P<authority>(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?)/?", re.ASCII
)
_LARGEST_PORT = 65535
_PORTS = {"http": 80, "https": 443}


def check_address(address: str, *, allow_others: bool) -> None:
    """Check an address before it is bound.

    Raises:
        AddressError: the address is malformed, or other machines could reach it and may not.
    """
    if address.startswith(_IPC) and len(address) > len(_IPC):
        return
    parts = _TCP.fullmatch(address)
    if parts is None:
        raise AddressError(f"{address}: expected an address such as tcp://127.0.0.1:5556")
    if not (_is_local(parts["host"].strip("[]")) or allow_others):
        raise AddressError(
            f"{address}: expected an address of this machine alone (127.0.0.1), found one that others reach; "
            'give `curve_key = "FILE"` and `curve_clients = "FOLDER"` (see frazil keys), '
            "or `publish_unencrypted = true` if everybody may read it"
        )


def check_page_address(address: str, *, allow_others: bool) -> tuple[str, int]:
    """Check the address of the page before it is bound.

    Returns:
        Host and port.

    Raises:
        AddressError: the address is malformed, or other machines could reach it and may not.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise AddressError(f"{address}: expected an address such as 127.0.0.1:9457")
    if not (_is_local(host) or allow_others):
        raise AddressError(
            f"{address}: expected an address of this machine alone (127.0.0.1), found one that others reach; "
            "give `http_unencrypted = true` if everybody there may see the page"
        )
    return host, int(port)


def check_page_url(url: str) -> tuple[str, str, int]:
    """Check the URL of a daemon's page before it is asked.

    Returns:
        The URL as far as its first slash, host and port.

    Raises:
        AddressError: it is none, or has more than scheme, host and port.
    """
    parts = _PAGE.fullmatch(url)
    port = 0 if parts is None else int(parts["port"] or _PORTS[parts["scheme"]])
    if parts is None or not 0 < port <= _LARGEST_PORT:
        raise AddressError(f"{url}: expected the address of a daemon's page, such as http://titan1:9457/")
    return f"{parts['scheme']}://{parts['authority']}", parts["host"].strip("[]"), port


def _is_local(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def replay_address(publish: str) -> str:
    """The default address for replays: the port after the stream's, or port 0 if that is 0 or ``*``."""
    parts = _TCP.fullmatch(publish)
    if parts is None:
        return f"{publish}-replay"
    port = 0 if parts["port"] == "*" else int(parts["port"])
    return f"tcp://{parts['host']}:{port + 1 if port else 0}"
