"""This machine: checks of it, a test and a measurement of picking on it, and its systemd service.

- ``doctor``: checks of the machine and of the directories in the settings, with advice.
- ``selftest``: picks a known micrograph, and compares the picks with the truth.
- ``bench``: measures the speed of picking, in comparison with the floor, and compares picks with the CPU's.
- ``service_files``: the files that systemd needs.
- ``deployment``: the files for Prometheus and Grafana that travel with frazil.
"""

from frazil.machine.bench import STAGES, Bench, PickComparison, compare_picks
from frazil.machine.deployment import Deployed, Program, deploy
from frazil.machine.doctor import DoctorResult, examine
from frazil.machine.selftest import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH, Outcome, run_selftest
from frazil.machine.service_files import Installation, plan_installation

__all__ = [
    "KNOWN_DIAMETER_ANGSTROM",
    "KNOWN_MICROGRAPH",
    "STAGES",
    "Bench",
    "Deployed",
    "DoctorResult",
    "Installation",
    "Outcome",
    "PickComparison",
    "Program",
    "compare_picks",
    "deploy",
    "examine",
    "plan_installation",
    "run_selftest",
]
