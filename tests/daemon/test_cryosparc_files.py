"""cryoSPARC's .cs files: what its jobs write, joined, and what others make of such a file."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from frazil.errors import FrazilError
from frazil.picking import Picks, named_micrographs, read_coordinates
from frazil.picking.coordinates import cryosparc

HEIGHT, WIDTH = 300, 460
UIDS = (14810031491354839884, 10952247516538852012)
NAMES = tuple(f"J331/motioncorrected/{uid:021d}_{name}_patch_aligned.mrc" for uid, name in zip(UIDS, "ab", strict=True))
STEMS = tuple(name.split("/")[-1].removesuffix(".mrc") for name in NAMES)
# Types of fields as cryoSPARC 4 writes them.
TYPES = {
    "uid": "<u8",
    "blob/path": "S60",
    "blob/idx": "<u4",
    "blob/shape": ("<u4", (2,)),
    "blob/psize_A": "<f4",
    "location/micrograph_uid": "<u8",
    "location/exp_group_id": "<u4",
    "location/micrograph_path": "S80",
    "location/micrograph_shape": ("<u4", (2,)),
    "location/micrograph_psize_A": "<f4",
    "location/center_x_frac": "<f4",
    "location/center_y_frac": "<f4",
    "location/min_dist_A": "<f4",
    "pick_stats/ncc_score": "<f4",
    "alignments2D/shift": ("<f4", (2,)),
    "alignments2D/psize_A": "<f4",
    "alignments3D/shift": ("<f4", (2,)),
    "alignments3D/psize_A": "<f4",
    "alignments3D_multi/shift": ("<f4", (3, 2)),
    "alignments_class_0/shift": ("<f4", (2,)),
    "ctf/shift_A": ("<f4", (2,)),
    "micrograph_blob/path": "S80",
    "micrograph_blob/shape": ("<u4", (2,)),
    "micrograph_blob/psize_A": "<f4",
}
Fields = dict[str, object]


def records(fields: Fields) -> NDArray[np.void]:
    """An array of records with cryoSPARC's types; what is no list serves for all of them."""
    (count, *_) = {len(values) for values in fields.values() if isinstance(values, list)}
    made = np.zeros(
        count, [(name, *((t,) if isinstance(t, str) else t)) for name, t in TYPES.items() if name in fields]
    )
    for name, values in fields.items():
        made[name] = values
    return made


def save(path: Path, fields: Fields) -> Path:
    """Write records as a job does."""
    with path.open("wb") as file:
        np.save(file, records(fields), allow_pickle=False)
    return path


def location(**more: object) -> Fields:
    """Places of three particles, two of them in the first micrograph: rows 30, 150, 285, columns 23, 230, 460 / 8."""
    return {
        "uid": [11, 12, 13],
        "location/micrograph_uid": [UIDS[0], UIDS[1], UIDS[0]],
        "location/exp_group_id": 25,
        "location/micrograph_path": [NAMES[0], NAMES[1], NAMES[0]],
        "location/micrograph_shape": (HEIGHT, WIDTH),
        "location/micrograph_psize_A": 2.5,
        "location/center_x_frac": [0.05, 0.5, 0.125],
        "location/center_y_frac": [0.1, 0.5, 0.95],
        "location/min_dist_A": 100,
    } | {name.replace("__", "/"): values for name, values in more.items()}


def without(fields: Fields, *names: str) -> Fields:
    return {name: values for name, values in fields.items() if name not in names}


def rows_of(read: Picks) -> list[tuple[float, float]]:
    return [(round(y, 3), round(x, 3)) for y, x in zip(read.y.tolist(), read.x.tolist(), strict=True)]


# --- what a job writes ---------------------------------------------------------------------------------------------


def test_places_are_fractions_from_the_first_column_and_the_first_row(tmp_path: Path) -> None:
    path = save(tmp_path / "picked_particles.cs", location(pick_stats__ncc_score=[0.5, 0.75, 0.25]))
    read = read_coordinates(path, stem=STEMS[0])
    assert rows_of(read) == [(30, 23), (285, 57.5)]
    assert read.score.tolist() == [0.5, 0.25]
    assert read_coordinates(save(path, location()), stem=STEMS[1]).score.tolist() == [1]


def test_of_a_micrograph_turned_upside_down_they_count_from_the_last_row(tmp_path: Path) -> None:
    """MotionCor and RELION read a TIFF movie from its other end: their micrograph is cryoSPARC's, upside down."""
    path = save(tmp_path / "a.cs", location())
    read = read_coordinates(path, stem=STEMS[0], y_axis="up", height_px=HEIGHT, width_px=WIDTH)
    assert rows_of(read) == [(269, 23), (14, 57.5)]


def test_in_a_binned_micrograph_they_are_the_same_fractions(tmp_path: Path) -> None:
    path = save(tmp_path / "a.cs", location())
    half = {"height_px": HEIGHT // 2, "width_px": WIDTH // 2}
    assert rows_of(read_coordinates(path, stem=STEMS[0], **half)) == [(15, 11.5), (142.5, 28.75)]
    # The factor of the micrographs that were picked is in the fractions already.
    binned = read_coordinates(path, stem=STEMS[0], pixel_size_angstrom=5, binning=4, **half)
    assert rows_of(binned) == [(15, 11.5), (142.5, 28.75)]
    with pytest.raises(FrazilError, match=r"pixels of 2\.5 Å, found location/micrograph_psize_A 5 Å for one of this"):
        read_coordinates(path, stem=STEMS[0], pixel_size_angstrom=2.5, **half)
    with pytest.raises(FrazilError, match=r"micrograph of 230 x 300 px, .* found those in one of 460 x 300 px$"):
        read_coordinates(path, stem=STEMS[0], height_px=HEIGHT, width_px=WIDTH // 2)


def test_without_a_size_in_the_file_the_micrographs_own_serves(tmp_path: Path) -> None:
    for fields in (without(location(), "location/micrograph_shape"), location(location__micrograph_shape=(0, 0))):
        path = save(tmp_path / "a.cs", fields)
        read = read_coordinates(path, stem=STEMS[0], height_px=HEIGHT, width_px=WIDTH)
        assert rows_of(read) == [(30, 23), (285, 57.5)]
        with pytest.raises(FrazilError, match="expected location/micrograph_shape, of which places are fractions"):
            read_coordinates(path, stem=STEMS[0])
    small = location(location__micrograph_shape=(1, 2), location__micrograph_psize_A=0.5)
    assert rows_of(read_coordinates(save(path, small), stem=STEMS[0], pixel_size_angstrom=0.5)) == [
        (0.1, 0.1),
        (0.95, 0.25),
    ]
    save(path, location(location__micrograph_shape=[(300, 460), (300, 460), (150, 230)]))
    with pytest.raises(FrazilError, match=r"expected one size of the micrograph, found 230 x 150 px and 460 x 300"):
        read_coordinates(path, stem=STEMS[0])


def test_a_micrograph_is_known_by_the_name_that_it_had_before_cryosparc(tmp_path: Path) -> None:
    path = save(tmp_path / "a.cs", location())
    assert named_micrographs(path) == {*STEMS, "a_patch_aligned", "b_patch_aligned"}
    assert rows_of(read_coordinates(path, stem="a_patch_aligned")) == [(30, 23), (285, 57.5)]
    imported = [f"J1/imported/{uid:021d}_m.17.tif" for uid in (*UIDS, UIDS[0])]
    save(path, location(location__micrograph_path=imported))
    with pytest.raises(FrazilError, match=r"m\.17 stands for J1/imported/\d{21}_m\.17\.tif and J1/imported/\d"):
        read_coordinates(path, stem="m.17")
    assert len(read_coordinates(path, stem=f"{UIDS[1]:021d}_m.17")) == 1


def test_an_exported_files_names_have_a_mark_before_them_and_may_be_wide(tmp_path: Path) -> None:
    made = records(without(location(), "location/micrograph_path"))
    wide = np.zeros(3, [*made.dtype.descr, ("location/micrograph_path", "<U40")])
    for name in made.dtype.names or ():
        wide[name] = made[name]
    wide["location/micrograph_path"] = [">ä.mrc", ">ä.mrc", "evil\x1b[2J\n.mrc"]
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, wide, allow_pickle=False)
    assert named_micrographs(tmp_path / "a.cs") == {"ä", r"evil\x1b[2J\n"}
    assert len(read_coordinates(tmp_path / "a.cs", stem="ä")) == 2


def test_a_file_of_no_particle_is_read_where_it_may_be_empty(tmp_path: Path) -> None:
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, records(location())[:0], allow_pickle=False)
    assert len(read_coordinates(tmp_path / "a.cs", may_be_empty=True)) == 0
    assert named_micrographs(tmp_path / "a.cs") == frozenset()
    with pytest.raises(FrazilError, match="the table is empty"):
        read_coordinates(tmp_path / "a.cs")


def test_more_records_than_a_block_holds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.cs", location())
    expected = rows_of(read_coordinates(path, stem=STEMS[0]))
    for in_block in (1, 2):
        monkeypatch.setattr(cryosparc, "_BLOCK_BYTES", in_block * records(location()).itemsize)
        os.utime(path, ns=(in_block, in_block))
        assert rows_of(read_coordinates(path, stem=STEMS[0])) == expected


# --- files that say different things of the same particles ------------------------------------------------------------


def test_a_passthrough_file_is_joined_by_uid(tmp_path: Path) -> None:
    fields = location()
    stats = save(
        tmp_path / "a.cs", {"uid": [13, 99, 11], "alignments2D/shift": [(0, 4), (7, 7), (0, 0)], "blob/psize_A": 5}
    )
    whole = save(tmp_path / "b.cs", fields)
    for first, second in ((stats, whole), (whole, stats)):
        assert named_micrographs(first, passthrough=[second]) == {STEMS[0], "a_patch_aligned"}
        read = read_coordinates(first, passthrough=[second], stem=STEMS[0])
        assert rows_of(read) == [(30, 23), (277, 57.5)]
    with pytest.raises(FrazilError) as refused:
        read_coordinates(stats)
    assert str(refused.value) == (
        f"{stats}: expected the fields location/center_x_frac and location/center_y_frac, found none in it: give the "
        "other file of the particles too, such as passthrough_particles.cs beside particles.cs"
    )
    with pytest.raises(FrazilError, match=r"a\.cs: .* found none in 2 files: give"):
        read_coordinates(stats, passthrough=[stats])


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_however_fields_and_particles_are_spread_they_are_put_together(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cs")
    together = records(location())
    expected = read_coordinates(save(folder / "whole.cs", location()), stem=STEMS[0])
    places = ["location/center_x_frac", "location/center_y_frac"]
    fields = [name for name in together.dtype.names or () if name not in ("uid", *places)]
    moved = data.draw(st.lists(st.sampled_from(fields), unique=True))
    paths = []
    for i, names in enumerate(([*places, *(name for name in fields if name not in moved)], moved)):
        order = data.draw(st.permutations(range(3)))
        # numpy's own way to choose fields keeps the gaps between them, which cryoSPARC's files do not have.
        part = np.zeros(3, [(name, together.dtype[name]) for name in ("uid", *names)])
        for name in part.dtype.names or ():
            part[name] = together[name][order]
        paths.append(folder / f"{i}.cs")
        with paths[i].open("wb") as file:
            np.save(file, part, allow_pickle=False)
    first, second = data.draw(st.permutations(paths))
    read = read_coordinates(first, passthrough=[second], stem=STEMS[0], height_px=HEIGHT, width_px=WIDTH)
    assert sorted(rows_of(read)) == rows_of(expected)


def test_names_and_sizes_may_be_in_a_file_of_the_micrographs(tmp_path: Path) -> None:
    particles = save(
        tmp_path / "particles.cs",
        without(location(), *(f"location/micrograph_{one}" for one in ("path", "shape", "psize_A"))),
    )
    exposures = save(
        tmp_path / "exposures.cs",
        {
            "uid": [7, UIDS[0]],
            "micrograph_blob/path": ["x.mrc", NAMES[0]],
            "micrograph_blob/shape": (HEIGHT, WIDTH),
            "micrograph_blob/psize_A": 2.5,
        },
    )
    with pytest.raises(FrazilError, match="expected the field location/micrograph_path, found particles of several"):
        read_coordinates(particles)
    read = read_coordinates(exposures, passthrough=[particles], stem=STEMS[0], pixel_size_angstrom=2.5)
    assert rows_of(read) == [(30, 23), (285, 57.5)]
    assert named_micrographs(particles, passthrough=[exposures]) == {STEMS[0], "a_patch_aligned"}
    with pytest.raises(FrazilError, match=r"found location/micrograph_psize_A 2\.5 Å"):
        read_coordinates(particles, passthrough=[exposures], stem=STEMS[0], pixel_size_angstrom=5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"uid": [1, 2, 3]}, r"expected the particles of a\.cs, found no uid of theirs: give files of one job"),
        ({"uid": [11, 12, 11]}, r"b\.cs: expected each uid once, .* found one twice"),
        ({"blob/idx": [1, 2]}, r"b\.cs: expected a field uid to join it with the other files, found none"),
        (
            {"uid": [7], "micrograph_blob/psize_A": 2},
            r"b\.cs: expected the micrographs of a\.cs, found no uid of theirs",
        ),
        (location(), r"a\.cs: expected one file with location/center_x_frac, found 2 \(a\.cs and b\.cs\)$"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, fields: Fields, says: str) -> None:
    path, other = save(tmp_path / "a.cs", location()), save(tmp_path / "b.cs", fields)
    with pytest.raises(FrazilError, match=says):
        read_coordinates(path, passthrough=[other], stem=STEMS[0])


def test_a_particle_that_is_there_twice_cannot_be_joined(tmp_path: Path) -> None:
    twice, other = save(tmp_path / "a.cs", location(uid=[11, 11, 13])), save(tmp_path / "b.cs", {"uid": [11, 13]})
    with pytest.raises(FrazilError, match=r"a\.cs: expected each uid once, to join it with the other files, found"):
        read_coordinates(twice, passthrough=[other], stem=STEMS[0])
    assert len(read_coordinates(twice, stem=STEMS[0])) == 2


def test_only_cryosparcs_files_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    path = save(tmp_path / "a.cs", location())
    with pytest.raises(FrazilError, match=r"expected one file, or several of cryoSPARC's \(\.cs\), found 2"):
        read_coordinates(path, passthrough=[tmp_path / "a.csv"])


def test_files_of_one_micrograph_need_no_name(tmp_path: Path) -> None:
    fields = without(location(location__micrograph_uid=UIDS[0]), "location/micrograph_path")
    assert len(read_coordinates(save(tmp_path / "m.cs", fields))) == 3


# --- shifts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "moved"),
    [
        ({"alignments2D/shift": (4, -8), "alignments2D/psize_A": 5}, (16, -8)),
        ({"alignments2D/shift": (4, -8), "blob/psize_A": 2.5}, (8, -4)),
        (
            {
                "alignments2D/shift": (4, -8),
                "alignments2D/psize_A": 5,
                "alignments3D/shift": (1, 2),
                "alignments3D/psize_A": 10,
                "alignments_class_0/shift": (9, 9),
            },
            (-8, -4),
        ),
        ({"alignments3D/shift": (0, 0)}, (0, 0)),
        ({"ctf/shift_A": (3, 3)}, (0, 0)),
        ({"alignments3D_multi/shift": np.zeros((3, 3, 2))}, (0, 0)),
    ],
)
def test_aligned_particles_lie_their_shift_before_their_place(
    tmp_path: Path, more: Fields, moved: tuple[float, float]
) -> None:
    """Shifts are x, y in pixels of the aligned images, and signed as RELION's origins."""
    path = save(tmp_path / "a.cs", location() | more)
    y, x = moved
    assert rows_of(read_coordinates(path, stem=STEMS[1])) == [(150 + y, 230 + x)]
    up = read_coordinates(path, stem=STEMS[1], y_axis="up", height_px=HEIGHT, width_px=WIDTH)
    assert rows_of(up) == [(149 - y, 230 + x)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"alignments3D/shift": (1, 0)}, "expected alignments3D/psize_A or blob/psize_A to tell how large"),
        ({"alignments3D/shift": (1, 0), "alignments3D/psize_A": 0}, "expected alignments3D/psize_A or blob/psize_A"),
        ({"alignments3D/shift": (np.nan, 0), "blob/psize_A": 1}, r"found alignments3D/shift \[nan, 0\.0\] in record 1"),
        ({"alignments_class_0/shift": (1, 0)}, r"shifts for each class \(alignments_class_0/shift\): give the"),
        ({"alignments3D_multi/shift": np.ones((3, 3, 2))}, r"shifts for each class \(alignments3D_multi/shift\)"),
    ],
)
def test_shifts_that_cannot_be_applied_are_refused(tmp_path: Path, more: Fields, says: str) -> None:
    path = save(tmp_path / "a.cs", location() | more)
    with pytest.raises(FrazilError, match=says):
        read_coordinates(path, stem=STEMS[0])


# --- what is no such file, or a hostile one ---------------------------------------------------------------------------


def npy(header: str, content: bytes = b"", *, version: bytes = b"\x01\x00") -> bytes:
    """An .npy file with this header, whatever it says."""
    encoded = header.encode("latin-1")
    return (
        b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(encoded)) + encoded + content
    )


DESCR = "[('location/center_x_frac', '<f4'), ('location/center_y_frac', '<f4')]"


def header(descr: str = DESCR, shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


class _Canary:
    """Unpickled, it makes a directory."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self._place),)


@pytest.mark.parametrize("nested", [False, True])
def test_objects_are_refused_and_never_unpickled(tmp_path: Path, nested: bool) -> None:
    types = [("uid", "<u8"), ("location/micrograph_path", "O")]
    made = np.empty(1, [("inside", types)] if nested else types)
    made[made.dtype.names[0]] = (7, _Canary(tmp_path / "made")) if nested else 7
    if not nested:
        made["location/micrograph_path"] = [_Canary(tmp_path / "made")]
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, made, allow_pickle=True)
    assert pickle.dumps(_Canary(tmp_path / "made")) is not None
    with pytest.raises(FrazilError, match=r"a\.cs: expected numbers and text, found Python objects, which are never"):
        read_coordinates(tmp_path / "a.cs")
    assert not (tmp_path / "made").exists()


BAD = {
    "empty": (b"", "found other bytes"),
    "text": (b"data_\nloop_\n", "expected cryoSPARC's records, a NumPy array"),
    "stream": (b"\x95CSDAT\x01\x00", "found cryoSPARC's CSDAT stream: save it as an array"),
    "version": (b"\x93NUMPY\x03\x00\x04\x00\x00\x00{}  ", r"expected version 1\.0 or 2\.0 .* found 3\.0"),
    "no version": (b"\x93NUMPY", "found none"),
    "no header": (b"\x93NUMPY\x01\x00\xff", "found the end of the file"),
    "cut header": (npy(header())[:40], "found the end of the file"),
    "endless header": (
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        "expected a header of at most 262144 bytes, found 4294967295",
    ),
    "code": (npy("__import__('os').mkdir('x')"), "cannot read it"),
    "no dict": (npy("[1, 2]"), "cannot read it"),
    "nested": (npy("(" * 5000), "cannot read it"),
    "signs": (npy("-" * 60000 + "1"), "cannot read it"),
    "sum": (npy("1" + "+1" * 30000), "cannot read it"),
    "no shape": (npy("{'descr': '<f4'}"), "cannot read it"),
    "no type": (npy(header("[('a', 'nonsense')]")), "cannot read it"),
    "vast type": (npy(header(f"[('a', '<f4', ({10**30},))]")), "cannot read it"),
    "names twice": (npy(header("[('a', '<f4'), ('a', '<f4')]")), "cannot read it"),
    "no names": (npy(header("'<f4'"), b"\0" * 4), "expected a list of records with named fields"),
    "table": (npy(header(shape="(1, 1)"), b"\0" * 8), "expected a list of records with named fields"),
    "single": (npy(header(shape="()"), b"\0" * 8), "expected a list of records with named fields"),
    "true": (npy(header(shape="(True,)"), b"\0" * 8), "expected a list of records with named fields"),
    "negative": (npy(header(shape="(-1,)"), b"\0" * 8), "expected at most 20000000 records, found -1"),
    "too many": (npy(header(shape=f"({10**15},)")), "expected at most 20000000 records, found 1000000000000000"),
    "bytes of nothing": (npy(header("[('a', 'S0')]", "(10000000,)")), r"records of 1 to 65536 bytes, found 0 bytes"),
    "vast records": (npy(header("[('a', 'S2000000000')]", "(9,)")), "found 2000000000 bytes"),
    "cut": (npy(header(shape="(20000000,)"), b"\0" * 8), "for 20000000 records, .* the file is cut short"),
    "shapes": (npy(header("[('location/center_x_frac', '<f4', (2,))]"), b"\0" * 8), "expected numbers in location/c"),
    "words": (npy(header("[('location/center_x_frac', 'S4')]"), b"\0" * 4), "expected numbers in .*, found .S4"),
    "complex": (npy(header("[('location/center_x_frac', '<c8')]"), b"\0" * 8), "expected numbers in .*complex64"),
    "uids": (npy(header("[('uid', '<f8')]"), b"\0" * 8), "expected whole numbers in uid, found float64"),
    "paths": (npy(header("[('location/micrograph_path', '<u8')]"), b"\0" * 8), "expected text in location/micro"),
    "long paths": (
        npy(header("[('location/micrograph_path', 'S20000')]"), b"\0" * 20000),
        "expected text in location/m",
    ),
    "no letters, many": (
        npy(header("[('location/micrograph_path', '<U5')]", "(40,)"), b"\xff" * 800),
        "expected text in location/micrograph_path, found something else",
    ),
    "no letters, other end first": (
        npy(header("[('location/micrograph_path', '>U1')]"), b"\x00\x11\x00\x00"),
        "expected text in location/micrograph_path, found something else",
    ),
    "no letters": (npy(header("[('location/micrograph_path', '<U1')]"), b"\xff" * 4), "expected text in location/micr"),
    "shift": (npy(header("[('alignments3D/shift', '<f4')]"), b"\0" * 4), "expected pairs of numbers in alignments3D"),
    "signalling": (
        npy(header(), b"\0\0\0\0\x01\0\x80\x7f"),
        r"expected numbers as coordinates, found location/center_y_frac nan in record 1",
    ),
    "not finite": (
        npy(
            header("[('location/center_x_frac', '<f4'), ('location/center_y_frac', '<f4')]"),
            struct.pack("<ff", 0, np.inf),
        ),
        r"expected numbers as coordinates, found location/center_y_frac inf in record 1",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_such_file_is_refused_in_one_line_and_without_memory(tmp_path: Path, kind: str) -> None:
    content, says = BAD[kind]
    path = tmp_path / "a.cs"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FrazilError, match=says) as refused:
            read_coordinates(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)
    assert most < 32 << 20


def test_a_vast_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.cs", location())
    os.truncate(path, (1 << 34) + 1)
    with pytest.raises(FrazilError, match=r"expected at most 16 GiB, found 16\.0 GiB"):
        read_coordinates(path)
    path.unlink()


def test_more_micrographs_than_there_can_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cryosparc, "_MOST_MICROGRAPHS", 2)
    assert len(named_micrographs(save(tmp_path / "a.cs", location()))) == 4
    monkeypatch.setattr(cryosparc, "_MOST_MICROGRAPHS", 1)
    os.utime(tmp_path / "a.cs", ns=(0, 0))
    with pytest.raises(FrazilError, match="expected at most 1 micrographs in location/micrograph_path, found more"):
        named_micrographs(tmp_path / "a.cs")


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.cs"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(FrazilError, match=r"a\.cs: expected "):
        read_coordinates(path)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, damage: bytes, is_cut: bool
) -> None:
    path = tmp_path_factory.mktemp("cs") / "a.cs"
    content = save(path, location(alignments2D__shift=(1, 1), blob__psize_A=2)).read_bytes()
    place %= len(content)
    path.write_bytes(content[:place] + damage + (b"" if is_cut else content[place + len(damage) :]))
    with contextlib.suppress(FrazilError):
        read = read_coordinates(path, stem=STEMS[0])
        assert np.isfinite(read.y).all()
        assert len(read) <= 3
