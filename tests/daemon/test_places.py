"""Where micrographs were taken, as EPU and SerialEM write it down; whatever the files hold, nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.epu_tree import exposure_path, write_exposure
from frazil.documents import Place
from frazil.grid import PlaceFinder

MDOC = """PixelSpacing = 0.83
Voltage = 300
[T = SerialEM: Digitized on K3]

[ZValue = 0]
StagePosition = -125.5 310.25
ImageShift = 1.5 -2.25
TargetDefocus = -1.8
NavigatorLabel = 12
MultishotHoleAndPosition = 5 1
DateTime = 28-Nov-26  10:15:00
"""
NAVIGATOR = """AdocVersion = 2.00

[Item = 7-A]
Type = 2
MapID = 9001

[Item = 12]
Type = 0
DrawnID = 9001
"""
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    "]><MicroscopeImage>&b;</MicroscopeImage>"
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><MicroscopeImage>&e;</MicroscopeImage>'
)


def test_an_exposure_of_epu_has_its_square_hole_and_stage_position(tmp_path: Path) -> None:
    base = exposure_path(tmp_path, 7000012, 345)
    write_exposure(base, stage_um=(-125.5, 310.25), shift_um=(1.5, -2.25), defocus_um=1.8)
    expected = Place(
        square="7000012",
        hole="345",
        stage_x_um=-125.5,
        stage_y_um=310.25,
        image_shift_x_um=1.5,
        image_shift_y_um=-2.25,
        asked_defocus_um=1.8,
        taken_at="2026-11-28T09:15:00.123+00:00",
    )
    assert PlaceFinder().find(base.with_suffix(".mrc")) == expected


def test_micrographs_in_another_tree_are_found_in_epus_by_their_names(tmp_path: Path) -> None:
    epu, averages = tmp_path / "epu", tmp_path / "MotionCorr"
    for square, hole in ((7000012, 345), (7000013, 346), (7000013, 347)):
        write_exposure(exposure_path(epu, square, hole), stage_um=(hole, 1.0))
    finder = PlaceFinder(epu)
    for square, hole in ((7000012, 345), (7000013, 346), (7000013, 347), (7000012, 345)):
        found = finder.find(averages / f"{exposure_path(epu, square, hole).name}_fractions_DW.mrc")
        assert found is not None
        assert (found.square, found.hole, found.stage_x_um) == (str(square), str(hole), hole)


def test_names_alone_say_square_and_hole(tmp_path: Path) -> None:
    found = PlaceFinder().find(exposure_path(tmp_path, 7000012, 345).with_suffix(".mrc"))
    assert found == Place(square="7000012", hole="345")
    assert PlaceFinder().find(tmp_path / "a.mrc") is None


def test_an_exposure_of_serialem_has_its_place_and_the_square_of_its_map(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "grid1_0042.tif.mdoc").write_text(MDOC)
    (tmp_path / "grid1.nav").write_text(NAVIGATOR)
    found = PlaceFinder(tmp_path / "frames").find(tmp_path / "aligned" / "grid1_0042_aligned.mrc")
    assert found == Place(
        square="7-A",
        hole="12:5",
        stage_x_um=-125.5,
        stage_y_um=310.25,
        image_shift_x_um=1.5,
        image_shift_y_um=-2.25,
        asked_defocus_um=1.8,
    )


@pytest.mark.parametrize(
    "content",
    [
        BOMB.encode(),
        OUTSIDE.encode(),
        b"",
        b"no XML",
        b"<MicroscopeImage><open>",
        b"<?xml version='1.0' encoding='klingon'?><MicroscopeImage/>",
        b"<Other/>",
        b"\xff\xfe<",
        b"<MicroscopeImage>" + b"<a/>" * 60_000 + b"</MicroscopeImage>",
        b"<MicroscopeImage>" + b"<a>" * 100 + b"</a>" * 100 + b"</MicroscopeImage>",
        b" " * ((1 << 20) + 1),
    ],
    ids=["bomb", "outside", "empty", "text", "cut", "encoding", "other", "bytes", "many", "deep", "large"],
)
def test_a_damaged_or_hostile_file_leaves_what_the_name_says(tmp_path: Path, content: bytes) -> None:
    base = exposure_path(tmp_path, 7000012, 345)
    write_exposure(base, stage_um=(0, 0)).write_bytes(content)
    doubts: list[str] = []
    found = PlaceFinder(doubt=doubts.append).find(base.with_suffix(".mrc"))
    assert found == Place(square="7000012", hole="345")
    assert len(doubts) == 1
    assert "expected" in doubts[0]


def test_an_older_epus_movie_has_the_xml_without_the_number_of_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "Images-Disc1" / "GridSquare_7" / "Data"
    write_exposure(folder / "FoilHole_345_Data_11_12_20170223_0231", stage_um=(3.0, 4.0))
    found = PlaceFinder().find(folder / "FoilHole_345_Data_11_12_20170223_0231-3020.mrc")
    assert found is not None
    assert (found.square, found.hole, found.stage_x_um, found.stage_y_um) == ("7", "345", 3.0, 4.0)


@pytest.mark.parametrize("taken_at", ["2026-11-28T10:15:00.1234567", "0001-01-01T00:00:00+02:00", ""])
def test_a_time_without_a_zone_or_before_all_times_is_not_known(tmp_path: Path, taken_at: str) -> None:
    base = exposure_path(tmp_path, 7000012, 345)
    write_exposure(base, stage_um=(1.0, 2.0), taken_at=taken_at)
    found = PlaceFinder().find(base.with_suffix(".mrc"))
    assert found is not None
    assert (found.stage_x_um, found.taken_at) == (1.0, "")


@pytest.mark.parametrize(("written", "hole"), [("5 1", "12:5"), ("2 -3 1", "12:2,-3"), ("", "12")])
def test_holes_of_a_pattern_of_serialem_are_told_apart(tmp_path: Path, written: str, hole: str) -> None:
    (tmp_path / "a.mrc.mdoc").write_text(MDOC.replace("= 5 1", f"= {written}"))
    found = PlaceFinder().find(tmp_path / "a.mrc")
    assert found is not None
    assert found.hole == hole


def test_numbers_that_are_no_positions_are_left_out(tmp_path: Path) -> None:
    base = exposure_path(tmp_path, 7000012, 345)
    file = write_exposure(base, stage_um=(1.0, 2.0), taken_at="yesterday")
    text = file.read_text().replace("<X>1e-06</X>", "<X>NaN</X>").replace("<Y>2e-06</Y>", "<Y>1e300</Y>")
    assert "NaN" in text
    assert "1e300" in text
    file.write_text(text)
    found = PlaceFinder().find(base.with_suffix(".mrc"))
    assert found is not None
    assert (found.stage_x_um, found.stage_y_um, found.taken_at) == (None, None, "")
    assert found.asked_defocus_um == 1.5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_or_changed_the_place_is_known_or_not(tmp_path: Path, data: st.DataObject) -> None:
    xml = write_exposure(exposure_path(tmp_path / "epu", 7000012, 345), stage_um=(1.0, 2.0))
    mdoc = tmp_path / "a.mrc.mdoc"
    mdoc.write_text(MDOC)
    (tmp_path / "a.nav").write_text(NAVIGATOR)
    file, micrograph = data.draw(
        st.sampled_from(
            [(xml, xml.with_suffix(".mrc")), (mdoc, tmp_path / "a.mrc"), (tmp_path / "a.nav", tmp_path / "a.mrc")]
        )
    )
    content = bytearray(file.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = PlaceFinder().find(micrograph)
    assert found is None or all(
        value is None or abs(value) <= 5_000 for value in (found.stage_x_um, found.stage_y_um, found.asked_defocus_um)
    )
