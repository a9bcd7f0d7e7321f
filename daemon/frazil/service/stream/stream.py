"""The stream's two sockets, their threads, and who may connect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import zmq

from frazil.addresses import check_address, replay_address
from frazil.errors import LedgerDamagedError
from frazil.replay import MAX_REQUEST_BYTES
from frazil.service.metrics import Metrics
from frazil.service.stream.access import Access
from frazil.service.stream.address import bind
from frazil.service.stream.publisher import HIGH_WATER_MARK, MAX_SUBSCRIPTION_BYTES, Publisher, configure
from frazil.service.stream.replayer import PAGES_WAITING, Replayer

__all__ = ["Stream"]


class Stream:
    """A publisher and a replayer at addresses of their own.

    Args:
        address: where documents are published, such as ``tcp://127.0.0.1:5556``; port 0 takes a free one.
        ledger: file of the ledger.
        epoch: its identity.
        generation: of this run of it; empty where subscribers are not to ask what still holds.
        on_damage: is told when the ledger turns out to be damaged.
        published: sequence number of the newest document that was published before.
        metrics: counts.
        replay: where replays are asked for; the port after the other if not given.
        access: who may connect; everybody who reaches the address if not given.
        allow_unencrypted: allow an address that other machines reach though everybody may connect.

    Attributes:
        address, replay: the addresses really bound.

    Raises:
        AddressError: an address is malformed, taken, or not of this machine alone.
    """

    def __init__(
        self,
        address: str,
        *,
        ledger: Path,
        epoch: str,
        published: int,
        metrics: Metrics,
        generation: str = "",
        on_damage: Callable[[LedgerDamagedError], None] = lambda _: None,
        replay: str | None = None,
        access: Access | None = None,
        allow_unencrypted: bool = False,
    ) -> None:
        allow_others = access is not None or allow_unencrypted
        check_address(address, allow_others=allow_others)
        self._access = access
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        if access is not None:
            access.start(self._context)
        publishing, replaying = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        try:
            configure(publishing, max_message_bytes=MAX_SUBSCRIPTION_BYTES)
            configure(replaying, max_message_bytes=MAX_REQUEST_BYTES)
            publishing.sndhwm = HIGH_WATER_MARK
            replaying.sndhwm = PAGES_WAITING
            replaying.setsockopt(zmq.ROUTER_MANDATORY, 1)
            if access is not None:
                access.protect(publishing)
                access.protect(replaying)
            self.address = bind(publishing, address)
            wanted = replay or replay_address(address)
            check_address(wanted, allow_others=allow_others)
            self.replay = bind(replaying, wanted)
        except BaseException:
            publishing.close(linger=0)
            replaying.close(linger=0)
            self._end()
            raise
        # Whoever reached the one socket finds the other on the same host, whatever that is called from there.
        port = self.replay.rpartition(":")[2]
        announced = f"tcp://*:{port}" if self.replay.startswith("tcp://") else self.replay
        self._publisher = Publisher(
            publishing, metrics, epoch=epoch, generation=generation, published=published, replay=announced
        )
        self._replayer = Replayer(
            replaying,
            metrics,
            ledger=ledger,
            epoch=epoch,
            generation=generation,
            published=lambda: self._publisher.published,
            on_damage=on_damage,
        )
        self._parts = (self._publisher, self._replayer)
        for part in self._parts:
            part.thread.start()

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send a committed document to whoever subscribed to its topic; never waits. In order of `seq`."""
        self._publisher.publish(seq, topic, body)

    def failed_thread(self) -> str | None:
        """Name of a thread that has died, which none should."""
        return next((part.thread.name for part in self._parts if not part.thread.is_alive()), None)

    def close(self) -> None:
        """Close both sockets; what was sent gets a second to leave."""
        if self._context.closed:
            return
        for part in self._parts:
            part.close()
        self._end()

    def _end(self) -> None:
        if self._access is not None:
            self._access.stop()
        self._context.term()
