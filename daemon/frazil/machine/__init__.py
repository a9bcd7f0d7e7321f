"""This machine: is it fit for frazil, does picking work on it, and how does the service start on it.

- ``doctor``: what is right and wrong here, and what to do.
- ``selftest``: a known micrograph picked and compared with the truth.
- ``bench``: how fast it is here, beside the floor.
- ``service_files``: what systemd needs.
"""

from frazil.machine.bench import STAGES, Bench
from frazil.machine.doctor import DoctorResult, examine
from frazil.machine.pick_comparison import PickComparison, compare_picks
from frazil.machine.selftest import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH, Outcome, run_selftest
from frazil.machine.service_files import Installation, plan_installation

__all__ = [
    "KNOWN_DIAMETER_ANGSTROM",
    "KNOWN_MICROGRAPH",
    "STAGES",
    "Bench",
    "DoctorResult",
    "Installation",
    "Outcome",
    "PickComparison",
    "compare_picks",
    "examine",
    "plan_installation",
    "run_selftest",
]
