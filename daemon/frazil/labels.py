"""Labels: the picks of a session, corrected or not, exchanged with programs in which people pick by hand.

What is read becomes edits: the difference to the picks that there are.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.documents import Mark, MicrographDocument
from frazil.errors import FrazilError, MicrographError, OutputError
from frazil.picking import (
    Picks,
    YAxis,
    darkness,
    match_picks,
    micrograph_stem,
    named_micrographs,
    read_coordinates,
    read_micrograph,
)
from frazil.session.correct import AddPick, DeletePick, Edit
from frazil.session.correct.applying import REACH_DIAMETERS, apply, uncorrected_picks
from frazil.session.outbox.ledger import LedgerReader, leave_edits, whole_edits
from frazil.session.retune.repick import read_document

__all__ = ["LabelFormat", "LabelImport", "import_labels", "labelled_documents"]

LabelFormat = Literal["star", "box", "cbox", "topaz", "csv"]
"""Formats in which picks are exchanged: RELION, EMAN, crYOLO, Topaz, plain table."""

_ENDINGS: dict[LabelFormat, tuple[str, ...]] = {
    "star": ("_picks.star", "_autopick.star", "_manualpick.star", ".star"),
    "box": (".box",),
    "cbox": (".cbox",),
    "topaz": (".txt", ".tsv"),
    "csv": (".csv",),
}
"""Of a micrograph's file, after its stem."""
_EDITS_AT_ONCE = 5000
_MICROGRAPHS_TRIED = 30
"""Looked at to tell whether y is upside down, before any edit is left."""
_PICTURES_TRIED = 3
_CLEAR_ERRORS = 4.0
_CLEARLY = 1.5
_FEW_KNOWN = 0.3
"""Fraction of labels on the model's picks below which these say too little of the labels."""
_SMALL_DIAMETER_PX = 16.0
_LARGEST_FRACTION_OUTSIDE = 0.05
_FEW_OUTSIDE = 5
_LARGEST_FILE_BYTES = 512 * 2**20


# --- out of the ledger ------------------------------------------------------------------------------------------


def labelled_documents(
    reader: LedgerReader,
    paths: Iterable[str] | None = None,
    *,
    mark: Mark = "",
    only_corrected: bool = False,
) -> Iterator[MicrographDocument]:
    """The newest result of each micrograph; what is damaged or archived is left out.

    Args:
        reader: of the session's ledger.
        paths: the ledger's names of the micrographs. Default: all that have a result.
        mark: only those with this mark; all if it is empty.
        only_corrected: only those that people corrected.
    """
    for path in reader.results() if paths is None else paths:
        record = reader.micrograph(path)
        stored = None if record is None or record.seq is None else reader.document(record.seq)
        document = None if stored is None else stored.decode()
        if not isinstance(document, MicrographDocument):
            continue
        corrections = None if isinstance(document.corrections, msgspec.UnsetType) else document.corrections
        has_mark = not mark or (corrections is not None and corrections.mark == mark)
        if has_mark and (corrections is not None or not only_corrected):
            yield document


# --- into the ledger --------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class LabelImport:
    """What became of label files."""

    micrographs: int = 0
    """Whose labels were compared with their picks."""
    changed: int = 0
    """Of them, those that differed."""
    added: int = 0
    deleted: int = 0
    passed_over: list[str] = field(default_factory=list)
    """Files, or parts of them, that were not taken, and why, in a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """Which particles of which file are those of a micrograph."""

    file: Path
    key: str
    """The ledger's name of the micrograph."""
    stem: str | None
    """Name of the micrograph in the file; None where the file names none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Present:
    """A micrograph as it is in the ledger."""

    document: MicrographDocument
    of_model: Picks
    """Without edits."""
    picks: Picks
    """With all of them, also those that wait."""
    is_bad: bool

    @property
    def reach_px(self) -> float:
        return REACH_DIAMETERS * self.document.diameter_px


def import_labels(
    reader: LedgerReader,
    given: Sequence[Path],
    *,
    y_axis: YAxis = "down",
    file_format: LabelFormat | None = None,
    by: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> LabelImport:
    """Leave edits in the ledger that make the picks of a session what label files say.

    A label within a quarter of the diameter of a pick is that pick, and one of another label is the same. A file
    without particles deletes all picks of its micrograph. Micrographs of which there is no file stay as they are.

    Args:
        reader: of the session's ledger.
        given: files, and folders whose tree may mirror the watched one.
        y_axis: which way y grows in them.
        file_format: only files of this one. Default: all that are known.
        by: who made the labels.
        progress: is told the micrograph that is done.

    Raises:
        FrazilError: nothing is there to be read, a micrograph has two files, or y is upside down.
        OutputError: the ledger cannot be read or written.
    """
    done = LabelImport()
    found = list(_find(reader, given, file_format, done))
    if not found:
        raise FrazilError(
            f"{given[0]}: expected label files of micrographs that {reader.file} knows, found none"
            + (f"; {done.passed_over[0]}" if done.passed_over else "")
        )
    _check_alone(found)
    _check_y(reader, found[:: max(1, len(found) // _MICROGRAPHS_TRIED)][:_MICROGRAPHS_TRIED], y_axis)
    edits: list[Edit] = []
    for one in found:
        try:
            changes = _compare(reader, one, y_axis, done)
        except OutputError:
            raise
        except FrazilError as error:
            done.passed_over.append(str(error))
            continue
        edits += changes
        if len(edits) >= _EDITS_AT_ONCE:
            _leave(reader, edits, by, done)
            edits = []
        progress(one.key)
    _leave(reader, edits, by, done)
    return done


def _find(
    reader: LedgerReader, given: Sequence[Path], file_format: LabelFormat | None, done: LabelImport
) -> Iterator[_Labels]:
    by_place: dict[tuple[str, str], str] = {}
    by_stem: dict[str, list[str]] = {}
    for key in reader.results():
        below = PurePosixPath(key)
        stem = micrograph_stem(below.name)
        by_place[str(below.parent), stem] = key
        by_stem.setdefault(stem, []).append(key)
    for folder, file in _files(given, file_format):
        try:
            if (size := file.stat().st_size) > _LARGEST_FILE_BYTES:
                raise FrazilError(f"{file}: expected at most {_LARGEST_FILE_BYTES} bytes of labels, found {size}")
            named = named_micrographs(file)
        except (FrazilError, OSError) as error:
            done.passed_over.append(str(error))
            continue
        own = _stem_of(file)
        for stem in sorted(named & by_stem.keys()) if named else [own]:
            is_own = stem == own or len(named) == 1
            keys = by_stem.get(stem, [])
            if is_own and (folder, stem) in by_place:
                keys = [by_place[folder, stem]]
            if len(keys) == 1:
                yield _Labels(file=file, key=keys[0], stem=stem if named else None)
            elif keys:
                done.passed_over.append(f"{file}: {stem} stands for {keys[0]} and {keys[1]}")
        if not any(stem in by_stem for stem in named or [own]):
            done.passed_over.append(f"{file}: expected labels of a micrograph with a result in the ledger, found none")


def _files(given: Sequence[Path], file_format: LabelFormat | None) -> Iterator[tuple[str, Path]]:
    """Label files, each with its folder below the one that was given; ``.`` for a file that was given itself."""
    kinds = _ENDINGS.values() if file_format is None else [_ENDINGS[file_format]]
    endings = tuple(ending for kind in kinds for ending in kind)
    for place in given:
        if place.is_dir():
            for file in sorted(place.rglob("*")):
                if file.name.lower().endswith(endings) and not file.name.startswith(".") and file.is_file():
                    yield str(file.relative_to(place).parent), file
        elif place.name.lower().endswith(endings) and place.is_file():
            yield ".", place
        else:
            raise FrazilError(f"{place}: expected a folder, or a file ending in {', '.join(endings)}; found neither")


def _stem_of(file: Path) -> str:
    """The stem of the micrograph that a file is named after."""
    name = file.name
    endings = [ending for kind in _ENDINGS.values() for ending in kind if name.lower().endswith(ending)]
    return name[: -len(max(endings, key=len))]


def _check_alone(found: Sequence[_Labels]) -> None:
    files: dict[str, Path] = {}
    for one in found:
        if (other := files.setdefault(one.key, one.file)) != one.file:
            raise FrazilError(
                f"{one.key}: expected one file of labels, found {other} and {one.file}: choose one with --format"
            )


def _look_up(reader: LedgerReader, key: str) -> _Present:
    """A micrograph as it is.

    Raises:
        FrazilError: its result is damaged, or was archived.
    """
    kept = reader.result(key)
    if kept is None:
        raise FrazilError(
            f"{key}: expected a result in {reader.file}, found none: it was archived; pick it again first"
        )
    document = read_document(kept)
    y, x, score = uncorrected_picks(document, reader.uncorrected(kept.seq)).arrays()
    of_model = Picks(y=y, x=x, score=score)
    corrected = apply(whole_edits(reader.edits(key)), of_model, document.diameter_px, document.shape)
    return _Present(document=document, of_model=of_model, picks=corrected.picks, is_bad=corrected.mark == "bad")


def _read(one: _Labels, document: MicrographDocument, y_axis: YAxis) -> Picks:
    h, w = document.shape
    labels = read_coordinates(
        one.file,
        stem=one.stem,
        y_axis=y_axis,
        height_px=h,
        width_px=w,
        pixel_size_angstrom=document.pixel_size_angstrom,
        may_be_empty=True,
    )
    y, x = labels.y, labels.x
    inside = (y >= -0.5) & (y <= h - 0.5) & (x >= -0.5) & (x <= w - 0.5)
    outside = int((~inside).sum())
    if outside > max(_FEW_OUTSIDE, _LARGEST_FRACTION_OUTSIDE * len(labels)):
        raise FrazilError(
            f"{one.file}: expected particles in a picture of {w} x {h} px, found {outside} of {len(labels)} out of it: "
            "are they of this micrograph, and in its pixels?"
        )
    return labels.select(inside)


def _compare(reader: LedgerReader, one: _Labels, y_axis: YAxis, done: LabelImport) -> list[Edit]:
    """The edits that turn the picks of a micrograph into its labels."""
    present = _look_up(reader, one.key)
    if present.is_bad:
        raise FrazilError(f"{one.file}: {one.key} is marked bad (frazil reject --undo takes the mark away)")
    labels = _read(one, present.document, y_axis)
    _Fit.of(labels, present).check(one.file, y_axis)
    document = present.document
    matched = match_picks(present.picks, labels, present.reach_px)

    def at(picks: Picks, i: int) -> dict[str, Any]:
        place = {"y": float(picks.y[i]), "x": float(picks.x[i])}
        return {"id": uuid.uuid4().hex, "path": one.key, "seq": document.seq, **place}

    deletions: list[Edit] = [DeletePick(**at(present.picks, i)) for i in np.flatnonzero(matched < 0).tolist()]
    unmatched = np.setdiff1d(np.arange(len(labels)), matched)
    additions: list[Edit] = [AddPick(**at(labels, i)) for i in unmatched.tolist()]
    # Of a pick that stays, and of another label, a second label adds nothing: it needs no edit.
    after = apply(additions, present.picks.select(matched >= 0), document.diameter_px, document.shape)
    new = {(float(after.picks.y[i]), float(after.picks.x[i])) for i in after.added}
    additions = [edit for edit in additions if isinstance(edit, AddPick) and (edit.y, edit.x) in new]
    done.micrographs += 1
    done.changed += bool(deletions or additions)
    done.added += len(additions)
    done.deleted += len(deletions)
    return [*deletions, *additions]


def _leave(reader: LedgerReader, edits: Sequence[Edit], by: str, done: LabelImport) -> None:
    if edits:
        left = leave_edits(reader.file, edits, by=by)
        done.passed_over += [f"one edit: {why}" for _, why in left.refused]


# --- which way y grows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """How many labels lie on the model's picks, as given and turned upside down."""

    labels: int = 0
    given: int = 0
    flipped: int = 0

    @classmethod
    def of(cls, labels: Picks, present: _Present) -> _Fit:
        turned = Picks(y=(present.document.shape[0] - 1) - labels.y, x=labels.x, score=labels.score)
        given, flipped = (
            int((match_picks(one, present.of_model, present.reach_px) >= 0).sum()) for one in (labels, turned)
        )
        return cls(labels=len(labels), given=given, flipped=flipped)

    def __add__(self, other: _Fit) -> _Fit:
        return _Fit(
            labels=self.labels + other.labels,
            given=self.given + other.given,
            flipped=self.flipped + other.flipped,
        )

    @property
    def says_little(self) -> bool:
        """Whether too few labels lie on picks, either way, to tell."""
        return max(self.given, self.flipped) < _FEW_KNOWN * self.labels

    def check(self, file: Path, y_axis: YAxis) -> None:
        """Refuse labels that fit much better upside down.

        Raises:
            FrazilError: they do.
        """
        clear = _CLEAR_ERRORS * (self.given + self.flipped + 1) ** 0.5
        if self.flipped - self.given > clear and self.flipped > _CLEARLY * self.given:
            raise _upside_down(
                file, y_axis, f"{self.given} of {self.labels} on picks, and {self.flipped} with y flipped"
            )


def _upside_down(file: Path, y_axis: YAxis, figures: str) -> FrazilError:
    other = "down" if y_axis == "up" else "up"
    return FrazilError(f"{file}: the labels fit much better with y flipped ({figures}): give --y-axis {other}")


def _check_y(reader: LedgerReader, some: Sequence[_Labels], y_axis: YAxis) -> None:
    """Refuse labels that are upside down: by the model's picks, or where these say little, by the pictures."""
    total = _Fit()
    seen: list[tuple[Picks, _Present]] = []
    for one in some:
        try:
            present = _look_up(reader, one.key)
            labels = _read(one, present.document, y_axis)
        except OutputError:
            raise
        except FrazilError:
            continue  # it is passed over, with its reason, when its turn comes
        total += _Fit.of(labels, present)
        if len(seen) < _PICTURES_TRIED and len(labels):
            seen.append((labels, present))
    total.check(some[0].file, y_axis)
    if not total.says_little:
        return
    contrasts = [np.empty((2, 0)), *(_contrasts(labels, present.document) for labels, present in seen)]
    given, flipped = np.concatenate(contrasts, axis=1)
    if given.size == 0:
        return
    clear = _CLEAR_ERRORS * float(given.std()) / given.size**0.5
    strength, turned = abs(float(given.mean())), abs(float(flipped.mean()))
    if turned > max(strength + clear, 2 * strength):
        raise _upside_down(some[0].file, y_axis, f"contrast {strength:.2f}, with y flipped {turned:.2f}")


def _contrasts(labels: Picks, document: MicrographDocument) -> NDArray[np.float64]:
    """(2, n) contrast of a small picture at the labels, as given and with y flipped; n is 0 where it cannot be read."""
    try:
        pixels = read_micrograph(Path(document.path)).pixels
    except (MicrographError, OSError):
        return np.empty((2, 0))
    if pixels.shape != document.shape:
        return np.empty((2, 0))
    scale = min(1.0, _SMALL_DIAMETER_PX / document.diameter_px)
    small = np.asarray(
        cv2.resize(np.asarray(pixels, np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32
    )
    dark = darkness(small, document.diameter_px * scale)
    dark = (dark - dark.mean()) / max(float(dark.std()), 1e-30)
    h, w = dark.shape
    y = np.rint((labels.y + 0.5) * scale - 0.5).astype(np.intp).clip(0, h - 1)
    x = np.rint((labels.x + 0.5) * scale - 0.5).astype(np.intp).clip(0, w - 1)
    return np.stack([dark[y, x], dark[h - 1 - y, x]]).astype(np.float64)
