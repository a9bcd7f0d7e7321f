"""Imports micrographs and picks them in a project of Scipion, whose Python runs this; prints coordinates as JSON."""

import json
import os
import sys
from pathlib import Path

home, micrographs, model = map(Path, sys.argv[1:])
(home / "config").mkdir(parents=True)
(home / "config" / "hosts.conf").write_text(
    "[localhost]\nPARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d %_(COMMAND)s\nMANDATORY = 0\n"
)
os.environ.update(SCIPION_HOME=str(home), SCIPION_USER_DATA=str(home / "data"), SCIPION_DOMAIN="pwem")

import pyworkflow  # noqa: E402 - it reads the environment
from pwem.protocols import ProtImportMicrographs  # noqa: E402
from pyworkflow.project import Manager  # noqa: E402

FrazilPicking = pyworkflow.Config.getDomain().importFromPlugin("scipion_frazil.protocols", "FrazilPicking")
project = Manager().createProject("test")
os.chdir(project.path)
imported = project.newProtocol(
    ProtImportMicrographs, filesPath=str(micrographs), filesPattern="*.mrc", samplingRate=2.0, voltage=300
)
project.launchProtocol(imported, wait=True)
picking = project.newProtocol(FrazilPicking, diameter=48, model=str(model), streamingBatchSize=2)
picking.inputMicrographs.set(imported.outputMicrographs)
project.launchProtocol(picking, wait=True)
found = {}
for coordinate in picking.outputCoordinates:
    found.setdefault(Path(coordinate.getMicName()).stem, []).append(coordinate.getPosition())
box = picking.outputCoordinates.getBoxSize()
print(json.dumps({"status": picking.getStatus(), "box": box, "coordinates": found}))
