"""The engine: a Dask cluster, started here or on Slurm, or joined, and the handing out of work to its workers.

What is started here talks by TLS with certificates made for this run, on loopback alone unless workers are on other
machines: Dask unpickles what it is sent, so whoever reaches an open scheduler runs programs as its workers do. It
serves no dashboard. A worker's own files lie on its machine and are few; nothing is spilled to disk.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from frazil.cluster.slurm import LOGS, SlurmJobs, slurm_cluster
from frazil.errors import AddressError, FrazilError, SettingsError
from frazil.model import available_cores
from frazil.settings import ClusterSettings

if TYPE_CHECKING:
    from distributed import Client, Future, Security

__all__ = ["LOCAL", "SLURM", "Engine", "Lost", "open_engine"]

LOCAL, SLURM = "local", "slurm"
_JOINED = ("tcp://", "tls://")

_TASKS_PER_WORKER = 2
"""One that it works at, and one that lies ready."""
_TICK_SECONDS = 0.5
_LOOK_SECONDS = 5.0
"""Between looks for workers that came or went."""
_JOIN_SECONDS = 60.0
"""Also to find one again that was lost. A machine that does much else takes its time."""
_REACH_SECONDS = 10.0
_FETCH_SECONDS = 60.0
"""To fetch an answer, or to have it once more where its worker has died with it. Then the call is made again."""
_CLOSE_SECONDS = 10.0
_DEATHS_ALLOWED = 2
"""A task whose worker died more often is given back."""

_DASK: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": _DEATHS_ALLOWED,
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # A daemon's memory behaves as the system has it; to give back each freed picture at once costs time.
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "OMP_WAIT_POLICY": "PASSIVE"},
    "distributed.comm.timeouts.connect": "60s",
}

Call = TypeVar("Call")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A call without an answer."""

    why: str
    """In one line."""
    killed: bool
    """Whether each worker that worked at it has died, so that it may be the cause."""


class Engine(Generic[Call]):
    """Hands calls of a function to workers, a few ahead for each of them.

    Args:
        client: of the cluster.
        workers: number of workers; None where they are somebody else's, and as many as are there.
        keep: has the cluster start what is missing of its workers.
        description: where the workers are, for people.

    Attributes:
        workers: number of workers that are there, as of the last look.
        description: where the workers are, for people.
    """

    def __init__(self, client: Client, workers: int | None, keep: Callable[[], None], description: str) -> None:
        self._client = client
        self._asked = workers
        self._keep = keep
        self._next_look = 0.0
        self.workers = 0
        self.description = description
        self.look()

    def run(
        self,
        function: Callable[..., bytes],
        next_call: Callable[[], Call | None],
        arguments: Callable[[Call], tuple[Any, ...]],
        beat: Callable[[], None],
    ) -> Generator[tuple[Call, bytes | Lost], None, None]:
        """Have calls answered, in whatever order; at an answer, another call may be made.

        Args:
            function: of a module, which workers import. What it is given and returns is best bytes.
            next_call: the next call; None where there is none before one that is under way is answered.
            arguments: of a call.
            beat: called every second or so.

        Raises:
            FrazilError: the function has raised it, or the cluster has gone.
        """
        from distributed.client import ClosedClientError

        under_way: dict[Future, Call] = {}
        done: SimpleQueue[Future] = SimpleQueue()
        try:
            while True:
                while len(under_way) < self.room and (call := next_call()) is not None:
                    try:
                        future = self._client.submit(function, *arguments(call), pure=False)
                    except ClosedClientError as error:  # between two looks
                        raise self._gone() from error
                    under_way[future] = call
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                beat()
                self.look()
                with contextlib.suppress(Empty):
                    future = done.get(timeout=_TICK_SECONDS)
                    call = under_way.pop(future)
                    deadline = time.monotonic() + _FETCH_SECONDS
                    while (answer := self._answer_of(future)) is None and time.monotonic() < deadline:
                        beat()
                        self.look()
                    del future  # the worker forgets it, too
                    if answer is None:
                        answer = Lost(why="its answer was lost with its worker", killed=False)
                    yield call, answer
        finally:
            if under_way:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(under_way), force=True)

    @property
    def waits_for(self) -> str:
        """What keeps work from going on, in one line; empty while there are workers."""
        return "" if self.workers else f"no worker as yet: {self.description}"

    @property
    def room(self) -> int:
        """Number of calls that may be under way."""
        return _TASKS_PER_WORKER * max(1, self.workers if self._asked is None else self._asked)

    def look(self) -> None:
        """Look, now and then, how many workers there are, and have the missing ones started.

        Raises:
            FrazilError: the scheduler has gone, or the cluster cannot give workers.
        """
        if self._client.status not in ("running", "connecting"):
            raise self._gone()
        now = time.monotonic()
        if now < self._next_look or self._client.status == "connecting":
            return
        self._next_look = now + _LOOK_SECONDS
        with contextlib.suppress(OSError, TimeoutError):
            self.workers = len(self._client.nthreads())
            if self._asked is not None and self.workers < self._asked:
                self._keep()

    def _gone(self) -> FrazilError:
        return FrazilError(f"{self.description}: expected the scheduler to answer, found that it has gone")

    def retire(self, worker: str) -> None:
        """Send away a worker, by its address, which cannot do the work."""
        with contextlib.suppress(OSError, TimeoutError):
            self._client.retire_workers([worker], close_workers=True)

    def _answer_of(self, future: Future) -> bytes | Lost | None:
        """The answer of a call that is done; None where it is not there, as another worker has yet to make it again."""
        from distributed import CancelledError, KilledWorker

        try:
            answer: bytes = future.result(timeout=_TICK_SECONDS)
        except KilledWorker as error:
            return Lost(
                why=f"the worker died {error.allowed_failures + 1} times, at last {error.last_worker.address}",
                killed=True,
            )
        except TimeoutError:
            return None
        except (CancelledError, OSError) as error:  # the scheduler, or a worker with the answer, has gone
            return Lost(why=str(error), killed=False)
        except FrazilError:
            raise
        except Exception as error:
            raise FrazilError(
                f"{self.description}: a worker cannot run the work: {type(error).__name__}: {error}"
            ) from error
        return answer


@contextlib.contextmanager
def open_engine(where: str, settings: ClusterSettings, folder: Path) -> Iterator[Engine[Any]]:
    """Start a cluster, or join one; what was started ends with it.

    Args:
        where: ``local``, ``slurm``, or the address of a scheduler, such as ``tcp://head:8786``.
        settings: of the cluster.
        folder: directory that a cluster's machines share, for certificates and the logs of jobs.

    Raises:
        SettingsError: the cluster is none of these.
        AddressError: nobody answers at the address.
        FrazilError: Dask is not installed, or the cluster cannot be started.
    """
    if where not in (LOCAL, SLURM) and not where.startswith(_JOINED):
        raise SettingsError(f"--cluster: expected local, slurm, or an address such as tcp://head:8786, found {where!r}")
    _check_installed(where)
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # Of a version that differs somewhere, or a port that is taken: nobody here can do anything about it.
    with warnings.catch_warnings(), contextlib.ExitStack() as closing:
        warnings.simplefilter("ignore")
        closing.enter_context(dask.config.set(_DASK))
        workers: int | None = None
        keep: Callable[[], None] = _nothing
        if where == LOCAL:
            workers = settings.workers or max(1, available_cores() // settings.threads_per_worker)
            cluster = closing.enter_context(_local_cluster(workers, settings))
            security, address, description = cluster.security, cluster.scheduler_address, "this machine"
        elif where == SLURM:
            workers = settings.workers or 1
            cluster = closing.enter_context(slurm_cluster(settings, folder))
            keep = SlurmJobs(cluster, workers, folder / LOGS).keep
            security, address, description = cluster.security, cluster.scheduler_address, "Slurm"
        else:
            _check_reachable(where)
            security, address, description = _joined_security(where, settings), where, where
        try:
            client = Client(address, timeout=_JOIN_SECONDS, security=security, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise AddressError(
                f"{where}: expected a Dask scheduler, found none that answers: {_line_of(error)}"
            ) from error
        closing.callback(_close, client)
        yield Engine(client, workers, keep, description)


def _check_reachable(address: str) -> None:
    """Check that somebody listens at an address: Dask would try for long."""
    host, _, port = address.partition("://")[2].rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        raise AddressError(f"{address}: expected the address of a Dask scheduler, such as tcp://head:8786")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise AddressError(f"{address}: expected a Dask scheduler, found none: {_line_of(error)}") from error


def _nothing() -> None:
    pass


def _close(client: Client) -> None:
    with contextlib.suppress(Exception):  # what cannot be closed in order ends with the process
        client.close(timeout=_CLOSE_SECONDS)


def _check_installed(where: str) -> None:
    try:
        import distributed  # noqa: F401

        if where == SLURM:
            import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise FrazilError(
            f"expected Dask, which hands out the work, found no {error.name}: pip install 'frazil[cluster]'"
        ) from error


def _line_of(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _local_cluster(workers: int, settings: ClusterSettings) -> Iterator[Any]:
    from distributed import LocalCluster, Security

    try:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,  # a worker picks one micrograph at a time, with threads of its own
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=Security.temporary(),
            dashboard_address=None,
            memory_limit=settings.memory or 0,
            local_directory=None if settings.scratch is None else str(settings.scratch),
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise FrazilError(f"{workers} workers cannot be started on this machine: {_line_of(error)}") from error
    try:
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            cluster.close(timeout=_CLOSE_SECONDS)


def _joined_security(address: str, settings: ClusterSettings) -> Security | None:
    if address.startswith("tcp://"):
        return None
    from distributed import Security

    files = {"tls_ca_file": settings.tls_ca, "tls_client_cert": settings.tls_cert, "tls_client_key": settings.tls_key}
    return Security(require_encryption=True, **{name: str(file) for name, file in files.items() if file is not None})
