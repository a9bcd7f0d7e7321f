"""``frazil page``: one page that lists several microscopes."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from frazil.commands import named
from frazil.errors import FrazilError, SettingsError

__all__ = ["page"]

_LOOK_SECONDS = 1.0


def page(
    of: Annotated[
        list[str],
        typer.Option(
            "--of",
            metavar="[NAME=]URL",
            help="Name and page of a microscope: titan1=http://titan1:9457; may be given again.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Address of this page; port 0 takes a free one.")
    ] = "127.0.0.1:9450",
    allow_others: Annotated[
        bool,
        typer.Option(
            "--http-unencrypted",
            metavar="",
            help="Allow the page on an address that other machines can reach, readable by all of them.",
        ),
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--http-names",
            metavar="NAME",
            help="Another name under which browsers reach this machine; may be given again.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a page that lists several microscopes, each with a link to its daemon's own page, until Ctrl-C.

    It asks each daemon every 5 seconds how things are, and changes nothing there.
    """
    from frazil.health.logs import configure_logging
    from frazil.page.microscopes import MicroscopesPage
    from frazil.page.server import PageServer

    urls = dict(named(one) for one in of)
    if len(urls) < len(of):
        raise SettingsError(f"expected every microscope once, with a name of its own, found {' '.join(of)}")
    configure_logging("info")
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which must not take them
    server = PageServer(address, MicroscopesPage(urls, names=names or []), allow_others=allow_others)
    try:
        typer.echo(server.url)
        while signal.sigtimedwait(ends, _LOOK_SECONDS) is None:
            if server.dead_thread():
                raise FrazilError("the page's server has ended by itself, which it should not: see what it logged")
    finally:
        server.close()
