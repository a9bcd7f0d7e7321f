"""This machine: is it fit for frazil, does picking work on it, and how does the service start on it.

- ``doctor``: what is right and wrong here, and what to do.
- ``selftest``: a known micrograph picked and compared with the truth.
- ``service_files``: what systemd needs.
"""

from frazil.machine.doctor import Finding, examine
from frazil.machine.selftest import Outcome, run_selftest
from frazil.machine.service_files import Installation, plan_installation

__all__ = ["Finding", "Installation", "Outcome", "examine", "plan_installation", "run_selftest"]
