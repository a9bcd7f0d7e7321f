"""``frazil relion-job`` as RELION runs it: its coordinates are extracted; it ends, is aborted, and goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.picking.coordinates.star import read_tables

pytestmark = pytest.mark.system

STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnMicrographOriginalPixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
opticsGroup1 1 2.0 2.0 300.0 2.7 0.1

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
"""
FRAZIL = Path(sys.executable).parent / "frazil"


@pytest.fixture
def project(tmp_path: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]) -> Path:
    """A project of RELION with three imported micrographs."""
    (tmp_path / "Micrographs").mkdir()
    for seed in range(3):
        add_micrograph(tmp_path, f"Micrographs/m{seed}.mrc", seed, write_mrc, make_scene)
    return tmp_path


def add_micrograph(
    project: Path, name: str, seed: int, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> None:
    # A header without a pixel size: that of the STAR file counts.
    write_mrc(project / name, make_scene(seed=seed).pixels, 0.0)  # type: ignore[attr-defined]
    star = project / "Import" / "job001" / "micrographs.star"
    star.parent.mkdir(parents=True, exist_ok=True)
    star.write_text((star.read_text() if star.exists() else STAR) + f"{name} 1\n")


def run_job(project: Path, model: Path, *options: object) -> subprocess.CompletedProcess[str]:
    arguments = ["relion-job", "--o", "External/job002/", "--in_mics", "Import/job001/micrographs.star"]
    arguments += ["--diameter", "48", "--model", str(model), *map(str, options), "--j", "1"]
    return subprocess.run([FRAZIL, *arguments], cwd=project, capture_output=True, text=True, timeout=300)


def needs_relion() -> None:
    if shutil.which("relion_preprocess") is None:
        assert os.environ.get("CI") != "true", "RELION is installed for CI"
        pytest.skip("needs RELION (Debian's package relion)")


def ends(job: Path) -> list[str]:
    return sorted(file.name for file in job.glob("RELION_JOB_*"))


def test_relion_extracts_what_a_job_picked(project: Path, blob_model: Path) -> None:
    done = run_job(project, blob_model)
    assert done.returncode == 0, done.stderr
    job = project / "External" / "job002"
    assert ends(job) == ["RELION_JOB_EXIT_SUCCESS"]
    nodes = read_tables(job / "RELION_OUTPUT_NODES.star")[0].columns
    assert nodes == {
        "rlnPipeLineNodeName": ["External/job002/coords_suffix_autopick.star"],
        "rlnPipeLineNodeType": ["2"],
    }
    listed = read_tables(job / "autopick.star")[0].columns
    picked = sum(
        len(read_tables(project / name)[0].columns["rlnCoordinateX"]) for name in listed["rlnMicrographCoordinates"]
    )
    assert picked == 36
    needs_relion()
    command = ["relion_preprocess", "--i", "Import/job001/micrographs.star", "--coord_dir", "External/job002/"]
    command += ["--coord_suffix", "_autopick.star", "--part_star", "Extract/particles.star", "--part_dir", "Extract/"]
    command += ["--extract", "--extract_size", "32"]
    (project / "Extract").mkdir()
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=300)
    particles = next(t for t in read_tables(project / "Extract" / "particles.star") if "rlnImageName" in t.columns)
    assert len(particles.columns["rlnImageName"]) == picked


def test_a_continued_job_picks_what_has_come_since_at_the_threshold_of_before(
    project: Path, blob_model: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> None:
    assert run_job(project, blob_model).returncode == 0
    job = project / "External" / "job002"
    before = {file: file.stat().st_mtime_ns for file in (job / "Micrographs").glob("*_autopick.star")}
    add_micrograph(project, "Micrographs/later.mrc", 7, write_mrc, make_scene)
    done = run_job(project, blob_model)
    assert "4 micrographs, 3 of them picked before" in done.stdout
    assert "as it was chosen in this job before" in done.stdout
    assert (job / "Micrographs" / "later_autopick.star").is_file()
    assert {file: file.stat().st_mtime_ns for file in before} == before
    again = run_job(project, blob_model)
    assert "4 micrographs, 4 of them picked before" in again.stdout
    assert ends(job) == ["RELION_JOB_EXIT_SUCCESS"]


def test_a_job_says_how_it_failed_or_was_aborted(project: Path, blob_model: Path) -> None:
    job = project / "External" / "job002"
    (project / "Micrographs" / "m1.mrc").write_bytes(b"no picture " * 200)
    done = run_job(project, blob_model)  # one bad micrograph is no failure of the job
    assert "failed: " in done.stdout
    assert "2 micrographs picked, 1 failed" in done.stdout
    assert ends(job) == ["RELION_JOB_EXIT_SUCCESS"]

    shutil.rmtree(job)
    job.mkdir()
    (job / "RELION_JOB_ABORT_NOW").touch()
    done = run_job(project, blob_model)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "aborted in RELION" in done.stderr
    assert ends(job) == ["RELION_JOB_EXIT_ABORTED"]

    for name in ("m0", "m2"):
        (project / "Micrographs" / f"{name}.mrc").unlink()
    done = run_job(project, blob_model)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ends(job) == ["RELION_JOB_EXIT_FAILURE"]


@pytest.mark.parametrize(("version", "kind"), [("30001", "MicrographsCoords"), ("50001", "MicrographCoordsGroup")])
def test_later_versions_of_relion_get_the_list_of_coordinate_files(
    project: Path, blob_model: Path, version: str, kind: str
) -> None:
    (project / "default_pipeline.star").write_text(
        f"\n# version {version}\n\ndata_pipeline_nodes\n\nloop_\n"
        "_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n"
        "Import/job001/micrographs.star MicrographGroupMetadata.star.relion\n"
    )
    assert run_job(project, blob_model, "--threshold", 0.5).returncode == 0
    nodes = read_tables(project / "External" / "job002" / "RELION_OUTPUT_NODES.star")[0].columns
    assert nodes == {
        "rlnPipeLineNodeName": ["External/job002/autopick.star"],
        "rlnPipeLineNodeTypeLabel": [f"{kind}.star.relion"],
    }


SCHEDULE = """
# version 30001

data_schedule_general

_rlnScheduleName                       Schedules/live/
_rlnScheduleCurrentNodeName            import

data_schedule_operators

loop_
_rlnScheduleOperatorName #1
_rlnScheduleOperatorType #2
_rlnScheduleOperatorOutput #3
_rlnScheduleOperatorInput1 #4
_rlnScheduleOperatorInput2 #5
EXIT exit exit undefined undefined

data_schedule_jobs

loop_
_rlnScheduleJobNameOriginal #1
_rlnScheduleJobName #2
_rlnScheduleJobMode #3
_rlnScheduleJobHasStarted #4
import import new 0
pick pick new 0
extract extract new 0

data_schedule_edges

loop_
_rlnScheduleEdgeInputNodeName #1
_rlnScheduleEdgeOutputNodeName #2
_rlnScheduleEdgeIsFork #3
_rlnScheduleEdgeOutputNodeNameIfTrue #4
_rlnScheduleEdgeBooleanVariable #5
import pick 0 undefined undefined
pick extract 0 undefined undefined
extract EXIT 0 undefined undefined
"""
SCHEDULED_PIPELINE = """
# version 30001

data_pipeline_general

_rlnPipeLineJobCounter                       4

data_pipeline_processes

loop_
_rlnPipeLineProcessName #1
_rlnPipeLineProcessAlias #2
_rlnPipeLineProcessType #3
_rlnPipeLineProcessStatus #4
Schedules/live/import/ None 0 1
Schedules/live/pick/ None 99 1
Schedules/live/extract/ None 5 1

data_pipeline_nodes

loop_
_rlnPipeLineNodeName #1
_rlnPipeLineNodeType #2
Schedules/live/import/micrographs.star 1
Schedules/live/pick/coords_suffix_autopick.star 2
Schedules/live/extract/particles.star 3

data_pipeline_input_edges

loop_
_rlnPipeLineEdgeFromNode #1
_rlnPipeLineEdgeProcess #2
Schedules/live/import/micrographs.star Schedules/live/pick/
Schedules/live/import/micrographs.star Schedules/live/extract/
Schedules/live/pick/coords_suffix_autopick.star Schedules/live/extract/

data_pipeline_output_edges

loop_
_rlnPipeLineEdgeProcess #1
_rlnPipeLineEdgeToNode #2
Schedules/live/pick/ Schedules/live/pick/coords_suffix_autopick.star
Schedules/live/import/ Schedules/live/import/micrographs.star
Schedules/live/extract/ Schedules/live/extract/particles.star
"""
EMPTY_PIPELINE = """
# version 30001

data_pipeline_general

_rlnPipeLineJobCounter                       1

"""


def test_a_schedule_of_relion_imports_picks_and_extracts(project: Path, blob_model: Path, is_long: bool) -> None:
    if not is_long:
        pytest.skip("with --long only: RELION waits 10 s after each job of a schedule")
    needs_relion()

    def relion(*command: object) -> str:
        done = subprocess.run(
            [f"relion_{command[0]}", *map(str, command[1:])], cwd=project, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (project / "default_pipeline.star").write_text(EMPTY_PIPELINE)
    jobs = {  # an option goes by its words in RELION's window
        "Import": {
            "Raw input files:": "Micrographs/*.mrc",
            "Are these multi-frame movies?": "No",
            "Pixel size (Angstrom):": "2.0",
        },
        "External": {
            "External executable:": f"{FRAZIL} relion-job",
            "Input micrographs: ": "Schedules/live/import/micrographs.star",
            "Param1 - label:": "diameter",
            "Param1 - value:": "48",
            "Param2 - label:": "model",
            "Param2 - value:": str(blob_model),
            "Number of threads:": "1",
        },
        "Extract": {
            "micrograph STAR file: ": "Schedules/live/import/micrographs.star",
            "Input coordinates: ": "Schedules/live/pick/coords_suffix_autopick.star",
            "Particle box size (pix):": "32",
            "Diameter background circle (pix): ": "24",
        },
    }
    schedule = project / "Schedules" / "live"
    for number, ((kind, options), name) in enumerate(zip(jobs.items(), ("import", "pick", "extract"), strict=True), 1):
        listed = ";".join(f"{option} == {value}" for option, value in options.items())
        relion("pipeliner", "--addJob", kind, "--addJobOptions", listed)
        (schedule / name).mkdir(parents=True)
        shutil.copy(project / kind / f"job{number:03d}" / "job.star", schedule / name)
    (schedule / "schedule.star").write_text(SCHEDULE)
    (schedule / "schedule_pipeline.star").write_text(SCHEDULED_PIPELINE)

    said = relion("scheduler", "--schedule", "live", "--run")

    assert "has reached an exit point" in said, said
    assert ends(project / "External" / "job005") == ["RELION_JOB_EXIT_SUCCESS"]
    particles = next(t for t in read_tables(project / "Extract/job006/particles.star") if "rlnImageName" in t.columns)
    assert len(particles.columns["rlnImageName"]) == 36
