"""CTF fits of other programs: what each of them writes, whose micrograph it is, and what else such a file may hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.documents import CtfFit
from frazil.quality import facility
from frazil.quality.facility import FacilityTables, find_facility_ctf

# As CTFFIND 4.1.14 and 5.0.2 write it.
CTFFIND4 = """\
# Output from CTFFind version 4.1.14, run on 2026-11-28 15:13:07
# Input file: a.mrc ; Number of micrographs: 1
# Pixel size: 1.340 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; \
amplitude contrast: 0.07
# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; \
max. def. 50000.0 um
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; #5 - \
additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF rings were fit \
successfully
1.000000 14231.062500 13932.010742 -37.245815 0.000000 0.113147 3.863123
"""
CTFFIND5 = (
    CTFFIND4.replace("4.1.14", "5.0.2")
    .replace(
        "fit successfully", "fit successfully; #8 - Estimated tilt axis angle; #9 - Estimated tilt angle ; #10 Est"
    )
    .replace("-37.245815 0.000000 0.113147 3.863123", "45.9 1.570796 0.446317 inf 221.9 12.25 1619.77")
)

RELION = """
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
opticsGroup1            1     0.885000   300.000000     2.700000     0.100000     0.885000
opticsGroup2            2     1.100000   200.000000     1.400000     0.070000     1.100000


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
_rlnPhaseShift #10
MotionCorr/job002/Movies/a.mrc  1 CtfFind/job003/a_PS.ctf:mrc 10863.8574 10575.7227 288.1347 78.0 0.131144 4.809192 0.0
MotionCorr/job002/Movies/b.mrc  2 CtfFind/job003/b_PS.ctf:mrc 9836.4756 9586.7188 249.7568 -108.0 0.156125 3.619148 90.5
MotionCorr/job002/Movies/c.mrc  2 CtfFind/job003/Movies/c_PS.ctf:mrc nan nan 0.0 0.0 0.0 inf 0.0

"""

# RELION 3.0 has one table, and optics in each row.
RELION_30 = """
data_

loop_
_rlnMicrographName #1
_rlnCtfImage #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnVoltage #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
_rlnMagnification #9
_rlnDetectorPixelSize #10
_rlnCtfFigureOfMerit #11
_rlnCtfMaxResolution #12
MotionCorr/job002/Movies/a.mrc CtfFind/job003/a.ctf:mrc 10864.1 10575.7 78.3 200.0 1.4 0.1 10000.0 0.885 0.13 4.87
"""

# As Warp 1.0.9 writes it, in UTF-16; Deltas are in µm, phase shifts in π.
WARP = """\
<?xml version="1.0" encoding="utf-16"?>
<Movie CTFResolutionEstimate="3.4000001" MeanFrameMovement="0.48" UnselectFilter="False" UnselectManual="null">
  <OptionsCTF>
    <Param Name="Window" Value="512" />
    <Param Name="Voltage" Value="200" />
  </OptionsCTF>
  <CTF>
    <Param Name="PixelSize" Value="0.885" />
    <Param Name="PixelSizeDelta" Value="0" />
    <Param Name="PixelSizeAngle" Value="0" />
    <Param Name="Cs" Value="2.7" />
    <Param Name="Cc" Value="2.7" />
    <Param Name="Voltage" Value="300" />
    <Param Name="Defocus" Value="1.25" />
    <Param Name="DefocusDelta" Value="0.04" />
    <Param Name="DefocusAngle" Value="-17.5" />
    <Param Name="Amplitude" Value="0.07" />
    <Param Name="PhaseShift" Value="0.5" />
    <Param Name="Bfactor" Value="0" />
    <Param Name="Scale" Value="1" />
  </CTF>
  <GridCTF Width="1" Height="1" Depth="1"><Node X="0" Y="0" Z="0" Value="9.99" /></GridCTF>
</Movie>
"""

UIDS = (14810031491354839884, 10952247516538852012)


def exposures(**more: object) -> dict[str, object]:
    """Fields of two exposures, of the types of cryoSPARC 4."""
    return {
        "uid": np.array(UIDS, "<u8"),
        "ctf/type": np.array([b"spline"] * 2, "S9"),
        "ctf/accel_kv": np.array([300, 300], "<f4"),
        "ctf/cs_mm": np.array([2.7, 2.7], "<f4"),
        "ctf/amp_contrast": np.array([0.1, 0.1], "<f4"),
        "ctf/df1_A": np.array([15301.0, 9000.0], "<f4"),
        "ctf/df2_A": np.array([14916.0, 9500.0], "<f4"),
        "ctf/df_angle_rad": np.array([np.pi / 4, -np.pi / 3], "<f4"),
        "ctf/phase_shift_rad": np.array([0, np.pi / 2], "<f4"),
        "ctf_stats/cross_corr": np.array([0.62, 0], "<f4"),
        "ctf_stats/ctf_fit_to_A": np.array([3.25, 0], "<f4"),
        **more,
    }


def paths(names: tuple[str, str] = ("a", "b")) -> dict[str, object]:
    """What a passthrough file says of them, in another order."""
    made = [f"J2/motioncorrected/{uid:021d}_{name}_patch_aligned.mrc" for uid, name in zip(UIDS, names, strict=True)]
    return {"uid": np.array(UIDS[::-1], "<u8"), "micrograph_blob/path": np.array(made[::-1], "S90")}


def save_cs(path: Path, fields: dict[str, object]) -> Path:
    columns = {name: np.asarray(values) for name, values in fields.items()}
    made = np.zeros(len(columns["uid"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        made[name] = values
    with path.open("wb") as file:
        np.save(file, made, allow_pickle=False)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding)
    return path


def tables(*files: Path) -> FacilityTables:
    return FacilityTables(paths=files)


def fault(micrograph: Path, *files: Path) -> str:
    """Why no fit is found, in words."""
    state = tables(*files)
    assert find_facility_ctf(micrograph, state) is None
    (words,) = state.faults.values()
    return words


def found(micrograph: Path, *files: Path) -> CtfFit:
    fit = find_facility_ctf(micrograph, tables(*files))
    assert fit is not None
    return fit


# --- what each program writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a_ctf.txt", "a_ctffind4.txt", "a_PS.txt", "a_diagnostic.txt", "a.ctf"])
def test_ctffinds_text_lies_beside_the_micrograph(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, CTFFIND4)
    assert found(tmp_path / "a.mrc") == CtfFit(
        defocus_u_angstrom=14231.0625,
        defocus_v_angstrom=13932.010742,
        defocus_angle_deg=180 - 37.245815,
        resolution_angstrom=3.863123,
        correlation=0.113147,
        voltage_kv=300.0,
        cs_mm=2.7,
        amplitude_contrast=0.07,
        source="ctffind",
    )


def test_what_ctffind_5_adds_is_passed_over_and_a_fit_to_no_ring_is_doubted(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", CTFFIND5)
    fit = found(tmp_path / "a.mrc")
    assert fit.defocus_angle_deg == pytest.approx(45.9)
    assert fit.phase_shift_deg == pytest.approx(90, abs=1e-3)
    assert fit.resolution_angstrom is None
    assert not fit.is_reliable
    assert "no ring" in fit.doubt


def test_relions_table_with_its_optics_groups(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION)
    a, b = found(tmp_path / "a.mrc", star), found(tmp_path / "b.mrc", star)
    assert a.source == b.source == "relion"
    assert (a.defocus_u_angstrom, a.defocus_v_angstrom, a.defocus_angle_deg) == (10863.8574, 10575.7227, 78.0)
    assert (a.correlation, a.resolution_angstrom, a.phase_shift_deg) == (0.131144, 4.809192, 0.0)
    assert (a.voltage_kv, a.cs_mm, a.amplitude_contrast) == (300.0, 2.7, 0.1)
    assert (b.voltage_kv, b.cs_mm, b.amplitude_contrast) == (200.0, 1.4, 0.07)
    assert (b.phase_shift_deg, b.defocus_angle_deg) == (90.5, 72.0)


def test_relions_table_of_version_3_0(tmp_path: Path) -> None:
    fit = found(tmp_path / "a.mrc", write(tmp_path / "micrographs_ctf.star", RELION_30))
    assert (fit.defocus_u_angstrom, fit.voltage_kv, fit.resolution_angstrom) == (10864.1, 200.0, 4.87)
    assert fit.phase_shift_deg == 0


def test_cryosparcs_exposures_with_the_names_in_another_file(tmp_path: Path) -> None:
    files = save_cs(tmp_path / "exposures.cs", exposures()), save_cs(tmp_path / "passthrough_exposures.cs", paths())
    a, b = found(tmp_path / "a.mrc", *files), found(tmp_path / "b.mrc", *files)
    assert a.source == "cryosparc"
    assert (a.defocus_u_angstrom, a.defocus_v_angstrom) == (15301, 14916)
    assert a.defocus_angle_deg == pytest.approx(45)
    assert (a.correlation, a.resolution_angstrom) == (pytest.approx(0.62), 3.25)
    # The larger defocus comes first, whichever the file has there; what was not filled in is 0.
    assert (b.defocus_u_angstrom, b.defocus_v_angstrom) == (9500, 9000)
    assert b.defocus_angle_deg == pytest.approx(30)
    assert b.phase_shift_deg == pytest.approx(90, abs=1e-4)
    assert (b.correlation, b.resolution_angstrom) == (None, None)


def test_cryosparcs_exposures_in_one_file(tmp_path: Path) -> None:
    whole = exposures(**{"micrograph_blob/path": np.array(["J2/a_patch_aligned.mrc", "J2/b_patch_aligned.mrc"], "S60")})
    assert found(tmp_path / "a.mrc", save_cs(tmp_path / "all.cs", whole)).defocus_u_angstrom == 15301


@pytest.mark.parametrize(("micrograph", "encoding"), [("a.mrc", "utf-16"), ("average/a.mrc", "utf-16")])
def test_warps_xml_beside_the_movie(tmp_path: Path, micrograph: str, encoding: str) -> None:
    write(tmp_path / "a.xml", WARP, encoding)
    fit = found(tmp_path / micrograph)
    assert fit.source == "warp"
    assert (fit.defocus_u_angstrom, fit.defocus_v_angstrom) == (pytest.approx(12700), pytest.approx(12300))
    assert (fit.defocus_angle_deg, fit.phase_shift_deg) == (162.5, 90)
    assert (fit.voltage_kv, fit.cs_mm, fit.amplitude_contrast) == (300, 2.7, 0.07)
    assert fit.resolution_angstrom == pytest.approx(3.4)
    assert fit.correlation is None


@pytest.mark.parametrize(
    "text",
    [
        '<MicroscopeImage xmlns="http://schemas.datacontract.org/x"><name>a</name></MicroscopeImage>',
        '<Movie UnselectFilter="False"><CTF><Param Name="Defocus" Value="1" /></CTF></Movie>',
        '<TiltSeries CTFResolutionEstimate="5"><CTF><Param Name="Defocus" Value="1" /></CTF></TiltSeries>',
    ],
    ids=["EPU's", "not fitted yet", "of a tilt series"],
)
def test_other_xml_is_no_fit(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.xml", text)
    assert find_facility_ctf(tmp_path / "a.mrc", tables()) is None


def test_other_text_and_a_picture_are_no_fit(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "image_name\tx_coord\ty_coord\na\t1\t2\n")
    (tmp_path / "a.ctf").write_bytes(os.urandom(1 << 18))
    assert find_facility_ctf(tmp_path / "a.mrc", tables()) is None


# --- whose it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("a.mrc", "a.mrc.gz", "a.tif", "a_DW.mrc", "a-DW.mrc", "a_fractions_DW.mrc", "a_noDW.mrc"),
        *("a_patch_aligned_doseweighted.mrc", f"{UIDS[0]:021d}_a_patch_aligned.mrc", "a_EER.mrc"),
    ],
)
def test_a_micrograph_is_found_by_the_name_of_its_movie(tmp_path: Path, name: str) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION)
    assert found(tmp_path / name, star).defocus_u_angstrom == 10863.8574
    write(tmp_path / "a_ctf.txt", CTFFIND4)
    assert found(tmp_path / name).defocus_u_angstrom == 14231.0625


@pytest.mark.parametrize("name", ["aa.mrc", "a_1.mrc", "A.mrc", "xa_DW.mrc", "_DW.mrc"])
def test_another_micrograph_is_not_taken_for_it(tmp_path: Path, name: str) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION)
    write(tmp_path / "a_ctf.txt", CTFFIND4)
    assert find_facility_ctf(tmp_path / name, tables(star)) is None


def test_of_two_with_one_name_the_folder_decides(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION.replace("Movies/b.mrc", "Other/a.mrc"))
    assert found(tmp_path / "Other" / "a.mrc", star).defocus_u_angstrom == 9836.4756
    assert found(tmp_path / "Movies" / "a.mrc", star).defocus_u_angstrom == 10863.8574
    assert find_facility_ctf(tmp_path / "elsewhere" / "a.mrc", tables(star)) is None


def test_the_exact_name_goes_before_one_without_endings(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION.replace("Movies/b.mrc", "Movies/a_DW.mrc"))
    assert found(tmp_path / "a.mrc", star).defocus_u_angstrom == 10863.8574
    assert found(tmp_path / "a_DW.mrc", star).defocus_u_angstrom == 9836.4756


def test_what_lies_beside_goes_before_a_table(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION)
    assert found(tmp_path / "a.mrc", star).source == "relion"
    write(tmp_path / "a.txt", CTFFIND4)
    assert found(tmp_path / "a.mrc", star).source == "ctffind"
    assert find_facility_ctf(tmp_path / "d.mrc", tables(star)) is None


# --- as a session goes on ---------------------------------------------------------------------------------------


def test_a_table_is_read_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = facility._of_relion

    def counted(path: Path) -> Iterator[tuple[str, CtfFit]]:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(facility, "_of_relion", counted)
    star = tmp_path / "micrographs_ctf.star"
    state = tables(star)
    assert find_facility_ctf(tmp_path / "a.mrc", state) is None  # not there yet
    write(star, RELION)
    for name in ("a.mrc", "b.mrc", "d.mrc"):
        find_facility_ctf(tmp_path / name, state)
    assert len(reads) == 1
    write(star, RELION.replace("Movies/b.mrc", "Movies/later.mrc"))
    assert find_facility_ctf(tmp_path / "later.mrc", state) is not None
    assert len(reads) == 2


def test_the_names_of_exposures_may_come_later(tmp_path: Path) -> None:
    files = save_cs(tmp_path / "exposures.cs", exposures()), tmp_path / "passthrough_exposures.cs"
    state = tables(*files)
    assert find_facility_ctf(tmp_path / "a.mrc", state) is None
    assert "passthrough_exposures.cs" in state.faults[files[0]]
    save_cs(files[1], paths())
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    assert not state.faults


def test_while_a_table_is_half_written_what_it_said_before_holds(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION)
    state = tables(star)
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    write(star, RELION[: RELION.index("10863.8574") + 4])
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    assert re.search(r"micrographs_ctf.star: cannot be read as a STAR file .*expected 10", state.faults[star])
    write(star, RELION + "\n")
    assert find_facility_ctf(tmp_path / "b.mrc", state) is not None
    assert not state.faults


# --- what else a file may hold ----------------------------------------------------------------------------------


def test_a_row_that_is_no_fit_concerns_its_micrograph_alone(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION.replace("9836.4756", "*********"))
    state = tables(star)
    for name in ("b.mrc", "c.mrc"):
        assert find_facility_ctf(tmp_path / name, state) is None
    assert find_facility_ctf(tmp_path / "a.mrc", state) is not None
    assert not state.faults


def test_a_table_of_no_fits_is_a_fault(tmp_path: Path) -> None:
    star = write(tmp_path / "micrographs_ctf.star", RELION_30.replace("10864.1", "*******"))
    assert re.search(r"expected a number as rlnDefocusU, found '\*+'", fault(tmp_path / "a.mrc", star))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CTFFIND4[: CTFFIND4.index(" 0.113147")], "expected one row of at least 7 values, found 5 values"),
        (CTFFIND4 + "2.0 1 1 0 0 0 5\n", "found 2 rows"),
        (CTFFIND4[: CTFFIND4.index("1.000000 14231")], "found 0 rows"),
        (CTFFIND4.replace("14231.062500", "********"), "expected numbers, found"),
        (CTFFIND4.replace("14231.062500", "1e300"), "expected a defocus of at most 100 µm"),
        (CTFFIND4.replace("300.0 keV", "keV"), "expected a line with voltage"),
    ],
)
def test_a_damaged_text_of_ctffind(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path / "a.txt", text)
    assert re.search(rf"a\.txt: .*{words}", fault(tmp_path / "a.mrc"))


BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><Movie>&b;</Movie>'
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Movie>&a;</Movie>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, "<Movie>", "", '<?xml version="1.0" encoding="x"?><Movie/>'])
def test_a_hostile_or_damaged_xml(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.xml", text)
    assert re.search(r"a\.xml: cannot be read as XML", fault(tmp_path / "a.mrc"))


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    for name, words in (("a.xml", "16 MiB"), ("t.star", "64 MiB")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
        assert words in fault(tmp_path / "a.mrc", *([tmp_path / "t.star"] if "t." in name else []))
        (tmp_path / name).unlink()


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a_ctf.txt", "t.star", "t.cs"):
        os.mkfifo(tmp_path / name)
    assert find_facility_ctf(tmp_path / "a.mrc", tables()) is None
    for name in ("t.star", "t.cs"):
        assert "expected a regular file, found a named pipe" in fault(tmp_path / "a.mrc", tmp_path / name)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"uid": np.array(UIDS, "<u8")}, "expected a field ctf/df1_A, found none"),
        (exposures(), "expected a field micrograph_blob/path, found none: give the file"),
        ({name: values for name, values in exposures().items() if name != "ctf/cs_mm"}, "expected a field ctf/cs_mm"),
        (exposures(**{"ctf/df1_A": np.array([b"x", b"y"])}), "expected numbers in ctf/df1_A"),
    ],
)
def test_a_cs_file_that_says_too_little(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    assert words in fault(tmp_path / "a.mrc", save_cs(tmp_path / "exposures.cs", fields))


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"uid": 1}], object), allow_pickle=True)
    (tmp_path / "x.npy").rename(tmp_path / "x.cs")
    assert re.search("never unpickled", fault(tmp_path / "a.mrc", tmp_path / "x.cs"))


def test_a_table_without_ctf_says_which_one_to_give(tmp_path: Path) -> None:
    star = write(tmp_path / "corrected.star", RELION.replace("_rlnDefocusU", "_rlnSomething"))
    assert re.search(
        r"expected a table with .* and rlnDefocusU, found none: give the micrographs_ctf\.star",
        fault(tmp_path / "a.mrc", star),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_a_file_the_error_has_words(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    name = data.draw(st.sampled_from(["a.txt", "a.xml", "t.star", "t.cs"]))
    whole = {"a.txt": CTFFIND4.encode(), "a.xml": WARP.encode("utf-16"), "t.star": RELION.encode()}
    if name == "t.cs":
        save_cs(folder / name, exposures(**paths()))
        whole[name] = (folder / name).read_bytes()
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    state = tables(folder / name) if name.startswith("t") else tables()
    fit = find_facility_ctf(folder / "a.mrc", state)
    assert all(name in words and words.isprintable() for words in state.faults.values())
    assert fit is None or fit.defocus_u_angstrom >= fit.defocus_v_angstrom
