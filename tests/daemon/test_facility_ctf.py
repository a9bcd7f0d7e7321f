"""Fits of the CTF as CTFFIND, Warp, RELION and cryoSPARC write them."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from frazil.quality.facility import FacilityTables, find_facility_ctf

CTFFIND = """\
# Output from CTFFind version 4.1.14, run on 2025-02-04 19:51:33
# Input file: /raw/a.mrc ; Number of micrographs: 1
# Pixel size: 0.395 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; amplitude contrast: 0.07
# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; max. def. 50000.0 um
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; #5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF rings were fit successfully
1.000000 5881.591797 5851.229004 -21.575969 0.500000 0.242603 4.598205
"""  # noqa: E501

WARP = """\
<?xml version="1.0" encoding="utf-8"?>
<Movie UnselectFilter="False" UnselectManual="null" CTFResolutionEstimate="4.2" MeanFrameMovement="0.61">
  <OptionsCTF><Param Name="Voltage" Value="200" /></OptionsCTF>
  <CTF>
    <Param Name="PixelSize" Value="1.35" />
    <Param Name="Cs" Value="2.7" />
    <Param Name="Voltage" Value="300" />
    <Param Name="Defocus" Value="1.5" />
    <Param Name="DefocusDelta" Value="0.1" />
    <Param Name="DefocusAngle" Value="40" />
    <Param Name="Amplitude" Value="0.07" />
    <Param Name="PhaseShift" Value="0.25" />
  </CTF>
</Movie>
"""

RELION_31 = """\

# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnMicrographPixelSize #7
opticsGroup1            1     0.885000   200.000000     1.400000     0.100000     0.885000
opticsGroup2            2     0.885000   300.000000     2.700000     0.070000     0.885000


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnCtfImage #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnCtfAstigmatism #6
_rlnDefocusAngle #7
_rlnCtfFigureOfMerit #8
_rlnCtfMaxResolution #9
MotionCorr/job002/Movies/a.mrc            1 CtfFind/job003/Movies/a_PS.ctf:mrc 10863.857422 10575.721680   288.135742    77.967194     0.131144     4.809192
MotionCorr/job002/Movies/b.mrc            2 CtfFind/job003/Movies/b_PS.ctf:mrc  9836.475586  9586.718750   249.756836    71.291290     0.139761     4.619272
"""  # noqa: E501

RELION_30 = """\

data_

loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnPhaseShift #8
_rlnCtfMaxResolution #9
MotionCorr/job002/Movies/a.mrc 10000.0 10200.0 20.0 300.0 2.7 0.1 65.0 inf
"""


def exposures(path: Path, **changes: object) -> None:
    row = {
        "uid": 7,
        "micrograph_blob/path": b"J12/motioncorrected/012345678901234567890_a_patch_aligned_doseweighted.mrc",
        "ctf/accel_kv": 300.0,
        "ctf/cs_mm": 2.7,
        "ctf/amp_contrast": 0.1,
        "ctf/df1_A": 15000.0,
        "ctf/df2_A": 14000.0,
        "ctf/df_angle_rad": -0.5,
        "ctf/phase_shift_rad": 0.0,
        "ctf_stats/ctf_fit_to_A": 3.9,
    } | changes
    kinds = {"uid": "<u8", "micrograph_blob/path": "S120"}
    dtype = [(name, kinds.get(name, "<f4")) for name in row]
    with path.open("wb") as file:
        np.save(file, np.array([tuple(row.values())], dtype))


def find(tmp_path: Path, name: str = "a.mrc", *tables: Path):
    state = FacilityTables(paths=tables)
    return find_facility_ctf(tmp_path / name, state), state


@pytest.mark.parametrize("name", ["a.txt", "a_PS.txt", "a_ctffind4.txt", "a_ctf.txt", "a.ctf"])
def test_ctffind_beside_the_micrograph(tmp_path, name):
    (tmp_path / name).write_text(CTFFIND)
    found, state = find(tmp_path)
    assert (found.defocus_u_angstrom, found.defocus_v_angstrom) == (5881.591797, 5851.229004)
    assert found.defocus_angle_deg == pytest.approx(180 - 21.575969)
    assert found.phase_shift_deg == pytest.approx(math.degrees(0.5))
    assert (found.correlation, found.resolution_angstrom) == (0.242603, 4.598205)
    assert (found.voltage_kv, found.cs_mm, found.amplitude_contrast) == (300.0, 2.7, 0.07)
    assert found.source == "ctffind"
    assert found.is_reliable
    assert not state.faults


def test_what_aligning_a_movie_adds_to_a_name_does_not_matter(tmp_path):
    (tmp_path / "a.txt").write_text(CTFFIND)
    for name in ("a_DW.mrc", "a_fractions.mrc", "a_patch_aligned_doseweighted.mrc", "a.tif"):
        assert find(tmp_path, name)[0] is not None
    assert find(tmp_path, "ab.mrc")[0] is None


def test_the_defocus_that_is_larger_is_u(tmp_path):
    (tmp_path / "a.txt").write_text(CTFFIND.replace("5881.591797 5851.229004 -21.5", "5851.0 5881.0 20.5"))
    found, _ = find(tmp_path)
    assert (found.defocus_u_angstrom, found.defocus_v_angstrom) == (5881.0, 5851.0)
    assert found.defocus_angle_deg == pytest.approx(110.575969)


def test_another_program_s_text_and_ctffind_s_picture_are_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("12 13 14\n")
    (tmp_path / "a.ctf").write_bytes(bytes(2_000_000))
    assert find(tmp_path) == (None, FacilityTables())


def test_warp_beside_the_micrograph(tmp_path):
    (tmp_path / "a.xml").write_text(WARP)
    found, _ = find(tmp_path)
    assert (found.defocus_u_angstrom, found.defocus_v_angstrom) == pytest.approx((15500, 14500))
    assert (found.defocus_angle_deg, found.phase_shift_deg) == (40, 45)
    assert (found.resolution_angstrom, found.voltage_kv, found.source) == (4.2, 300.0, "warp")


def test_epu_s_xml_is_passed_over(tmp_path):
    (tmp_path / "a.xml").write_text("<MicroscopeImage xmlns='http://x'><name>a</name></MicroscopeImage>")
    assert find(tmp_path) == (None, FacilityTables())


def test_relion_3_1_with_optics_groups(tmp_path):
    star = tmp_path / "micrographs_ctf.star"
    star.write_text(RELION_31)
    a, _ = find(tmp_path, "a.mrc", star)
    b, _ = find(tmp_path, "b_DW.mrc", star)
    assert (a.defocus_u_angstrom, a.voltage_kv, a.cs_mm) == (10863.857422, 200.0, 1.4)
    assert (b.defocus_v_angstrom, b.voltage_kv, b.resolution_angstrom) == (9586.71875, 300.0, 4.619272)
    assert a.correlation == 0.131144
    assert find(tmp_path, "c.mrc", star)[0] is None


def test_relion_3_0(tmp_path):
    star = tmp_path / "micrographs_ctf.star"
    star.write_text(RELION_30)
    found, _ = find(tmp_path, "a.mrc", star)
    assert (found.defocus_u_angstrom, found.defocus_angle_deg, found.phase_shift_deg) == (10200.0, 110.0, 65.0)
    assert found.resolution_angstrom is None


def test_cryosparc_s_exposures(tmp_path):
    exposures(tmp_path / "exposures.cs")
    found, _ = find(tmp_path, "a_fractions.mrc", tmp_path / "exposures.cs")
    assert (found.defocus_u_angstrom, found.defocus_v_angstrom) == (15000, 14000)
    assert found.defocus_angle_deg == pytest.approx(180 - math.degrees(0.5))
    assert found.resolution_angstrom == pytest.approx(3.9)
    assert found.source == "cryosparc"


def test_a_fit_that_failed_is_none(tmp_path):
    exposures(tmp_path / "exposures.cs", **{"ctf/df1_A": math.nan})
    found, state = find(tmp_path, "a.mrc", tmp_path / "exposures.cs")
    assert found is None
    assert not state.faults


def test_a_table_is_read_again_only_when_it_changed(tmp_path, monkeypatch):
    star = tmp_path / "micrographs_ctf.star"
    state = FacilityTables(paths=[star])
    assert find_facility_ctf(tmp_path / "a.mrc", state) is None  # it is not there yet
    star.write_text(RELION_31)
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    status = star.stat()
    star.write_text(RELION_31.replace("10863.857422", "20863.857422"))
    os.utime(star, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find_facility_ctf(tmp_path / "a.mrc", state).defocus_u_angstrom == 10863.857422  # the same stamp
    os.utime(star, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert find_facility_ctf(tmp_path / "a.mrc", state).defocus_u_angstrom == 20863.857422


def test_a_table_that_is_half_written_leaves_what_was_read_before(tmp_path):
    star = tmp_path / "micrographs_ctf.star"
    star.write_text(RELION_31)
    state = FacilityTables(paths=[star])
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    star.write_text(RELION_31[:-40])
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    assert "last row" in state.faults[star]
    star.write_text(RELION_31)
    os.utime(star, ns=(1, 1))
    assert find_facility_ctf(tmp_path / "b.mrc", state) is not None
    assert not state.faults


def test_of_two_micrographs_of_one_name_that_of_the_folder_is_taken(tmp_path):
    star = tmp_path / "micrographs_ctf.star"
    star.write_text(RELION_31.replace("Movies/a.mrc", "grid1/x.mrc").replace("Movies/b.mrc", "grid2/x.mrc"))
    assert find(tmp_path, "grid1/x.mrc", star)[0].defocus_u_angstrom == 10863.857422
    assert find(tmp_path, "grid2/x.mrc", star)[0].defocus_u_angstrom == 9836.475586
    assert find(tmp_path, "x.mrc", star)[0] is None


def bomb() -> str:
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{entities}]><Movie><CTF>&e9;</CTF></Movie>'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", CTFFIND.replace("5881.591797", "much"), "expected numbers"),
        ("a.txt", CTFFIND.replace(" 0.242603 4.598205", ""), "at least 7 values, found 5"),
        ("a.txt", CTFFIND + CTFFIND.splitlines()[-1] + "\n", "one row of at least 7 values, found 2 rows"),
        ("a.txt", CTFFIND.replace("acceleration", "no"), "expected a line with voltage"),
        ("a.txt", CTFFIND.replace("5881.591797", "1e30"), "expected a defocus of at most"),
        ("a.xml", WARP[:200], "cannot be read as XML"),
        ("a.xml", bomb(), "cannot be read as XML"),
        ("a.xml", WARP.replace('Value="1.5"', 'Value="x"'), "expected a number as Defocus"),
        ("a.xml", WARP.replace('"Cs"', '"Sc"'), "expected a number as Cs, found none"),
        ("a.xml", "<Movie>" + " " * (1 << 24) + "</Movie>", "16 MiB of XML"),
    ],
)
def test_a_damaged_file_beside_the_micrograph_is_told_in_words(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    found, state = find(tmp_path)
    assert found is None
    (fault,) = state.faults.values()
    assert words in fault
    assert str(tmp_path / name) in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.star", RELION_31.replace("_rlnVoltage", "_rlnVolt"), "expected a column rlnVoltage"),
        ("t.star", RELION_31.replace("10863.857422", "far"), "expected a number as rlnDefocusU, found 'far'"),
        ("t.star", "hello\n", "cannot be read as a STAR file"),
        ("t.star", "data_\nloop_\n_rlnX #1\n1\n", "expected a table with rlnMicrographName"),
        ("t.cs", "hello", "expected cryoSPARC's records"),
    ],
)
def test_a_damaged_table_is_told_in_words(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    found, state = find(tmp_path, "a.mrc", tmp_path / name)
    assert found is None
    assert words in state.faults[tmp_path / name]


def test_a_table_that_is_too_large_is_not_read(tmp_path):
    star = tmp_path / "t.star"
    with star.open("wb") as file:
        file.truncate(1 << 29)
    assert "at most 256 MiB" in find(tmp_path, "a.mrc", star)[1].faults[star]


def test_python_objects_in_a_table_are_never_unpickled(tmp_path):
    with (tmp_path / "t.cs").open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    assert "never unpickled" in find(tmp_path, "a.mrc", tmp_path / "t.cs")[1].faults[tmp_path / "t.cs"]


def test_a_named_pipe_beside_the_micrograph_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert find(tmp_path)[0] is None
