"""A repick: an archive read and picked again by the workers of a cluster, and written by one process, this one.

It holds the ledger and the output directory as a daemon does, and commits and delivers by the same outbox; or it hands
results over to the daemon that holds them. Where the run began is remembered. So after a kill at any moment, of
whatever part, the next run does what is missing: a micrograph has its result once its document is committed, and not
before.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.cluster.engine import Engine
from frazil.cluster.results import open_results
from frazil.cluster.run import RepickRun, Tally, watched_by
from frazil.cluster.tasks import hand_out
from frazil.cluster.work import Failed, Job, JunkJob, NotYet, Outcome, Picked, Scored
from frazil.documents import now_rfc3339
from frazil.errors import MicrographError
from frazil.faults import backoff_seconds, failure_of
from frazil.limits import ChoiceBasis
from frazil.micrograph_names import Names, Source
from frazil.model import ModelIdentity, load_model, locate_model
from frazil.outputs import OutputFolder
from frazil.paths import is_utf8
from frazil.picking import Picker, PickingSettings
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.passed_over import Inventory
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import (
    CHOICE_KEY,
    INVENTORY_KEY,
    TUNED_KEY,
    Handled,
)
from frazil.session.outbox.outbox import Stopped
from frazil.session.retune import Chooser, LimitsChange, RevisionProgress
from frazil.settings import ServeSettings

__all__ = ["Repick"]

_AT_ONCE = 8
"""Most micrographs in one task: so the cluster's own messages are few for each."""
_TASKS_AHEAD = 4
"""The last tasks of a small archive are smaller, so that no worker is idle long before the end: there are at least so
many times as many as may be under way."""
_ASKED_AT_ONCE = 256
"""Names of which the ledger is asked at once, whether they are done."""
_SAMPLES = (20, 40)
"""Numbers of micrographs from which the threshold is chosen: if it is not held after the first, the others follow."""
_LOOK_SECONDS = 1.0


class Repick:
    """Picks an archive again. `open` first, then `run`, `close` at last.

    Args:
        given: a directory, a glob pattern or a STAR file.
        settings: as of a daemon that would watch it.
        threads: CPU threads of each worker.
        resume: whether an earlier run goes on; else all is picked.
        say: is told in one line what the user should know, such as a failure.
        show: called when the tally has changed.

    Attributes:
        tally: what has come of it so far.
        model: that picks.
        threshold: lowest figure of merit of a pick, once it is known.
        chosen: how frazil chose it; None where it did not.
        inventory: names that were taken and passed over.
    """

    def __init__(
        self,
        given: str,
        settings: ServeSettings,
        *,
        threads: int,
        resume: bool,
        say: Callable[[str], None],
        show: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._resume = resume
        self._say = say
        self._show = show
        self._closing = contextlib.ExitStack()
        self._next_look = 0.0
        self._engine: Engine[list[str]] | None = None
        self.tally = Tally()
        out = settings.out.expanduser().resolve()
        self._outputs = OutputFolder(out)
        self._ledger_file = settings.ledger_file.expanduser().resolve()
        self.source = Source.of(given, watched_by(self._ledger_file))
        self._picking = PickingSettings(
            diameter_angstrom=settings.needed_diameter_angstrom,
            pixel_size_angstrom=settings.pixel_size_angstrom,
            unusual_diameter=settings.unusual_diameter,
            contrast=settings.contrast,
            **settings.limits.given(),
        )
        file, _, version = locate_model(settings.model.expanduser())
        place = file.parent if version else file  # another version may be promoted meanwhile
        loaded = load_model(place, "cpu", 1)  # to check it, and for its thresholds; it picks elsewhere
        self._picker = Picker(loaded, self._picking)
        self._job = Job(
            root=str(self.source.root),
            model=str(place),
            sha256=self.model.sha256,
            device=settings.device,
            precision=settings.precision,
            threads=threads,
            settings=self._picking,
            change=LimitsChange().for_model(self.model.sha256),
            junk=_check_junk_model(settings) if settings.find_junk else None,
            shows_holes=FileSystem.of(self.source.root.resolve()).shows_holes,
            largest_bytes=settings.max_micrograph_bytes,
            timeout_seconds=settings.read_timeout_seconds,
            stall_seconds=settings.stall_seconds,
            keep_score_maps=settings.keep_score_maps,
        )

    @property
    def model(self) -> ModelIdentity:
        """The model that picks."""
        return self._picker.model.identity

    @property
    def threshold(self) -> float:
        """Lowest figure of merit of a pick."""
        return self._picker.with_limits(self._job.change).threshold

    @property
    def chosen(self) -> ChoiceBasis | None:
        """How frazil chose it; None where it did not."""
        return self._job.chosen

    @property
    def inventory(self) -> Inventory:
        """Names that were taken and passed over; empty of a STAR file."""
        return self._names.inventory

    # --- begin ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Claim the output directory and the ledger, count the names, and note where the run begins.

        Where a daemon has them, results are handed over to it.

        Raises:
            OutputError: another process has them, or they are of another directory.
            FrazilError: there is no such archive, or an earlier run is to go on with other settings.
        """
        watch = self.source.root.resolve()
        self._results = open_results(
            self._ledger_file, self._outputs.path, watch, self.source.root, sink=self, beat=self._beat
        )
        self._closing.callback(self._results.close)
        if self._results.is_live:
            self._say(f"{self._ledger_file} is a running daemon's: it takes the results, and picks what is new itself")
        with self._faults():
            self._open()

    def _open(self) -> None:
        results = self._results
        earlier = Inventory.decode(results.recall(INVENTORY_KEY)) or Inventory()
        self._names = Names(
            source=self.source,
            selection=Selection.of(self._settings, earlier.layout, self.source.include),
            link_roots=[Path(place).expanduser() for place in self._settings.link_roots if place],
        )
        self.tally.total = self._names.count()
        self._begin()
        self._given_up = results.given_up()
        self._failed: set[str] = set()
        """Of these, those that this process has given up, and counted."""

    def _begin(self) -> None:
        results = self._results
        run = RepickRun(
            since=now_rfc3339(),
            after_seq=results.head,
            sha256=self.model.sha256,
            settings=self._picking,
            target_precision=self._settings.target_precision,
            junk="" if self._job.junk is None else f"{self._job.junk.sha256} {self._job.junk.picks}",
            beside_daemon=results.is_live,
        )
        earlier = results.earlier()
        if self._resume and earlier is not None:
            run = earlier.resume(run)
        kept = RevisionProgress.decode(results.recall(TUNED_KEY))
        self._change = kept.change if kept is not None and kept.settings == self._picking else LimitsChange()
        if results.is_live:  # its daemon makes the picks within the limits in force then
            self._job = msgspec.structs.replace(self._job, keep_score_maps=True)
        self._take_limits()
        results.begin(run, self._picker)

    def _take_limits(self) -> None:
        """Pick within the limits that hold: those tuned or chosen for the session, else the settings'."""
        sha256 = self.model.sha256
        chosen = self._change.chosen_for(sha256)
        self._job = msgspec.structs.replace(
            self._job, change=self._change.for_model(sha256), chosen=None if chosen is None else chosen.basis
        )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """What an error of the ledger means for the user, where no waiting helps."""
        try:
            yield
        except (Stopped, sqlite3.Error) as error:
            raise self._results.fault(error) from error

    def is_done(self) -> bool:
        """Whether nothing is left to do; a pass over the names tells."""
        found = Tally()
        with self._faults():
            if self._results.waiting or next(self._missing(found), None) is not None:
                return False
        self.tally.already, self.tally.held, self.tally.new = found.already, found.held, found.new
        return True

    # --- run ------------------------------------------------------------------------------------------------------

    def run(self, engine: Engine[list[str]]) -> None:
        """Pick what is missing, in as many passes over the names as it takes.

        What may succeed another time is tried again in the next pass, at most `max_attempts` times.

        Raises:
            FrazilError: the cluster has gone, no worker can do the work, or the ledger can no longer be written.
        """
        self._engine = engine
        with self._faults():
            self._run_passes(engine)

    def _run_passes(self, engine: Engine[list[str]]) -> None:
        sha256 = self.model.sha256
        lets_choose = self._change.lets_choose(sha256, by_default=self._settings.chooses_threshold)
        if lets_choose and self.chosen is None and not self._results.is_live:  # a daemon chooses by itself
            self._choose(engine)
        for attempt in range(1, self._settings.max_attempts + 1):
            self.tally.left = 0
            self._hand_out(engine, self._missing(self.tally if attempt == 1 else Tally()), self._job, self._take)
            self._results.finish()
            if not self.tally.left or attempt == self._settings.max_attempts:
                # Where a part of the tree cannot be seen any more, as of a mount that is away, it is not done.
                self.tally.left = max(self.tally.left, self.tally.total - self.tally.done)
                return
            deadline = time.monotonic() + backoff_seconds(attempt)
            while time.monotonic() < deadline:
                time.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
                self._beat()

    def close(self) -> None:
        """Let others have ledger and output directory."""
        self._closing.close()

    def _missing(self, before: Tally) -> Iterator[str]:
        """The names that are not done, asked of the ledger as they are needed. What is done counts as such."""
        names = iter(self._names)
        while some := list(islice(names, _ASKED_AT_ONCE)):
            ours = [key for key in some if self._is_possible(key)]
            done = self._results.done(ours)
            alone = self._results.left_alone(ours, holds=self._settings.unlike == "hold")
            for key in ours:
                if key in alone and self._results.is_live:
                    before.new += 1
                elif key in alone:
                    before.held += 1
                elif key in self._results.waiting:
                    continue
                elif key in done or key in self._given_up:
                    before.already += key not in self._failed
                else:
                    yield key

    def _is_possible(self, key: str) -> bool:
        """Whether a micrograph can have a pick file of its name; else that is its failure."""
        if key in self._given_up:
            return is_utf8(key)
        path = self.source.root / key
        try:
            self._outputs.check_name(path, key)
        except MicrographError as error:
            self._fail(error, key, Handled(stamp=FileStamp(-1, 0), fingerprint=""), max_attempts=1)
            return False
        return True

    def _hand_out(
        self, engine: Engine[list[str]], keys: Iterator[str], job: Job, take: Callable[[Outcome], None]
    ) -> None:
        """Have micrographs picked, some in each task, and take what comes of them."""
        size = max(1, min(_AT_ONCE, self.tally.total // (_TASKS_AHEAD * engine.room)))
        hand_out(engine, keys, job, size, take=take, give_up=self._give_up, say=self._say, beat=self._beat)

    def _beat(self, doing: str = "", *, more_seconds: float = 0.0) -> None:  # noqa: ARG002 - those of a `Beat`
        """Show what is so, and see each second that ledger and outputs are still this run's.

        Raises:
            OutputError: they are not.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        self._results.look()
        self.tally.waits_for = self._results.waits_for
        if self._engine is not None and not self.tally.waits_for:
            self.tally.waits_for = self._engine.waits_for
        self._show()

    # --- the threshold --------------------------------------------------------------------------------------------

    def _choose(self, engine: Engine[list[str]]) -> None:
        """Choose the threshold as a daemon does, from micrographs spread over the archive; the ledger remembers it."""
        chooser = Chooser(self._results.recall(CHOICE_KEY), target_precision=self._settings.target_precision)
        sha256, most = self.model.sha256, sum(_SAMPLES)
        picker = self._picker.with_limits(self._change.for_model(sha256))
        spread = list(islice(self._names, 0, None, max(1, self.tally.total // most)))[:most]
        every = most // _SAMPLES[0]
        rounds = (spread[::every], [key for number, key in enumerate(spread) if number % every])
        for key, scores in chain.from_iterable(self._score(engine, keys) for keys in rounds):
            chosen = chooser.weigh(picker, self._change, str(self.source.root / key), scores)
            self._change = msgspec.structs.replace(self._change, chosen={**self._change.chosen, sha256: chosen})
            if chosen.held:
                break
        self._take_limits()
        if self.chosen is None:
            return  # nothing could be read: the model's own threshold holds
        self._say(f"threshold {self.threshold:g}, {self.chosen.describe()}")
        if (news := chooser.news()) is not None:
            self._results.remember(CHOICE_KEY, news)
        progress = RevisionProgress(settings=self._picking, change=self._change, since=now_rfc3339(), until_seq=0)
        self._results.remember(TUNED_KEY, progress.encode())

    def _score(self, engine: Engine[list[str]], keys: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The scores of the low peaks of some micrographs, in their order; none of those that cannot be picked."""
        scored: dict[str, bytes] = {}

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, Scored):
                scored[outcome.key] = outcome.peaks

        job = msgspec.structs.replace(self._job, only_scores=True)
        self._hand_out(engine, (key for key in keys if is_utf8(key)), job, take)
        for key in keys:
            if key in scored:
                yield key, np.frombuffer(scored[key], np.float32)

    # --- results --------------------------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        """Commit and deliver what has become of a micrograph, unless it is done, as one that is named twice."""
        key, path = outcome.key, self.source.root / outcome.key
        if key in self._given_up or key in self._results.waiting or self._results.done([key]):
            self.tally.already += 1
            return
        match outcome:
            case Picked():
                try:
                    self._results.write(outcome, path)
                except (MicrographError, sqlite3.Error) as error:  # this one's alone; the outbox retries all others
                    self._fail(failure_of(path, "writing", error), key, outcome.handled)
            case Failed():
                if outcome.handled.stamp.size < 0 and not _is_there(path):
                    self.tally.gone += 1
                else:
                    self._fail(outcome.error(path), key, outcome.handled)
            case NotYet():
                self.tally.left += 1
                self._say(f"{path}: {outcome.why}")

    def written(self, key: str, picks: int) -> None:  # noqa: ARG002 - that of a `Sink`
        """Count a result that is in the ledger."""
        self.tally.picked += 1
        self.tally.picks += picks

    def refused(self, key: str, why: str) -> None:
        """Count a result that the daemon did not take."""
        self.tally.left += 1
        self._say(f"{self.source.root / key}: {why}; it is tried again")

    def _give_up(self, key: str, why: str) -> None:
        path = self.source.root / key
        error = MicrographError(path, "internal", f"expected a worker to pick it: {why}, perhaps for too little memory")
        self._fail(error, key, Handled(stamp=FileStamp(-1, 0), fingerprint=""), max_attempts=1)

    def _fail(self, error: MicrographError, key: str, handled: Handled, max_attempts: int | None = None) -> None:
        def committed(attempt: int, is_retried: bool) -> None:
            if is_retried:
                self.tally.left += 1
                self._say(f"{error} (attempt {attempt}; it is tried again)")
            else:
                self.tally.failed[error.reason] += 1
                self._failed.add(key)
                self._given_up.add(key)
                self._say(str(error))

        self._results.fail(
            error, key, handled, max_attempts=max_attempts or self._settings.max_attempts, on_commit=committed
        )


def _check_junk_model(settings: ServeSettings) -> JunkJob:
    """Check the model that finds junk, and which version that is.

    Raises:
        ModelError: it cannot serve.
    """
    file, _, version = locate_model(settings.junk_model.expanduser())
    place = file.parent if version else file
    loaded = load_model(place, "cpu", 1, finds="junk")
    return JunkJob(model=str(place), sha256=loaded.identity.sha256, picks=settings.junk_picks)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True
