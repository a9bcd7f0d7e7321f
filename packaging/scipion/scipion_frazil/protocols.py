"""The protocol: micrographs in, also while they come; coordinates out."""

import json
import shlex
from pathlib import Path

import pyworkflow.utils as pwutils
from pwem.objects import Coordinate
from pwem.protocols import ProtParticlePickingAuto
from pyworkflow.protocol import params

from scipion_frazil import Plugin

_THRESHOLD = "threshold.json"


class FrazilPicking(ProtParticlePickingAuto):
    """Picks particles with frazil, whose model needs no training for a new particle.

    Only the diameter of the particle is needed. Without a threshold, frazil chooses one from the first batch, and it
    holds for all others.
    """

    _label = "frazil picking"

    def _defineParams(self, form):
        ProtParticlePickingAuto._defineParams(self, form)
        form.addParam(
            "diameter",
            params.FloatParam,
            label="Particle diameter (Å)",
            validators=[params.Positive],
            help="Diameter of the particle, in Å.",
        )
        form.addParam(
            "boxSize",
            params.IntParam,
            default=0,
            label="Box size (px)",
            help="Side of the boxes that are extracted later, in pixels. 0: one and a half diameters.",
        )
        form.addParam(
            "threshold",
            params.FloatParam,
            allowsNull=True,
            default=None,
            label="Threshold",
            help="Lowest figure of merit of a pick, 0 to 1. Empty: frazil chooses it from the first batch.",
        )
        form.addParam(
            "model",
            params.PathParam,
            allowsNull=True,
            default=None,
            expertLevel=params.LEVEL_ADVANCED,
            label="Model",
            help="Folder of a model, or an .onnx file. Empty: the one that comes with frazil.",
        )
        form.addParam(
            "contrast",
            params.EnumParam,
            choices=["dark", "bright"],
            default=0,
            expertLevel=params.LEVEL_ADVANCED,
            label="Contrast",
            help="How particles look in the micrographs.",
        )
        self._defineStreamingParams(form)
        form.getParam("streamingBatchSize").setDefault(16)
        form.addParallelSection(threads=1, mpi=0)

    def _getPickArgs(self):
        return []

    def _pickMicrograph(self, mic, *args):
        self._pickMicrographList([mic])

    def _pickMicrographList(self, micList, *args):
        if not micList:
            return
        pwutils.makePath(self.getCoordsDir())
        options = [
            *("--diameter", self.diameter.get()),
            *("--pixel-size", self.getInputMicrographs().getSamplingRate()),
            *("--contrast", self.getEnumText("contrast")),
            *("--format", "json", "--out", self.getCoordsDir()),
        ]
        if self.model.get():
            options += ["--model", self.model.get()]
        threshold = self._threshold()
        if threshold is not None:
            options += ["--threshold", threshold]
        names = [self._link(mic) for mic in micList]
        try:
            self.runJob(Plugin.program(), shlex.join(["pick", *map(str, [*names, *options])]), numberOfMpi=1)
        except Exception:  # where none was picked, there is something wrong with more than a file
            if not any(self._document(mic).exists() for mic in micList):
                raise
        if threshold is None:
            self._keep_threshold(micList)

    def readCoordsFromMics(self, outputDir, micDoneList, outputCoords):
        """Add the picks of some micrographs to a set."""
        outputCoords.setBoxSize(self.boxSize.get() or self._usual_box_size())
        for mic in micDoneList:
            if not self._document(mic).exists():
                continue  # frazil could not pick it, and said why
            picks = json.loads(self._document(mic).read_text())["picks"]
            for y, x in zip(picks["y"], picks["x"]):  # noqa: B905 - Scipion may run with Python 3.8
                coordinate = Coordinate()
                coordinate.setPosition(round(x), round(y))
                coordinate.setMicrograph(mic)
                outputCoords.append(coordinate)

    def getCoordsDir(self):
        """Where frazil's documents are."""
        return self._getExtraPath("picks")

    def _usual_box_size(self):
        return 2 * round(0.75 * self.diameter.get() / self.getInputMicrographs().getSamplingRate())

    def _threshold(self):
        """The one that was given, or else that of the first batch; None before it."""
        kept = Path(self._getExtraPath(_THRESHOLD))
        if self.threshold.get() is None and kept.exists():
            return json.loads(kept.read_text())
        return self.threshold.get()

    def _keep_threshold(self, batch):
        for mic in batch:
            document = json.loads(self._document(mic).read_text()) if self._document(mic).exists() else None
            if document and document["picks"]["score"]:  # empty micrographs say nothing about the others
                Path(self._getExtraPath(_THRESHOLD)).write_text(json.dumps(document["threshold"]))
                return

    def _link(self, mic):
        """A name of its own for each micrograph, whatever folders they come from."""
        folder = self._getTmpPath("micrographs")
        pwutils.makePath(folder)
        link = Path(folder, self._stem(mic) + Path(mic.getFileName()).suffix)
        pwutils.createAbsLink(str(Path(mic.getFileName()).absolute()), str(link))
        return link

    def _stem(self, mic):
        return f"mic_{mic.getObjId():06d}"

    def _document(self, mic):
        return Path(self.getCoordsDir(), self._stem(mic) + ".json")

    def _validate(self):
        return [] if self.diameter.get() else ["Expected the diameter of the particle, in Å."]
