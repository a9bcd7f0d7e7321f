"""frazil in Scipion. It runs the program that FRAZIL_BIN names, which lives in an environment of its own."""

import pwem

__version__ = "0.1.0"
_references = []

FRAZIL_BIN = "FRAZIL_BIN"


class Plugin(pwem.Plugin):
    """Tells Scipion where frazil is."""

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(FRAZIL_BIN, "frazil", description="Program frazil, such as /opt/frazil/bin/frazil.")

    @classmethod
    def defineBinaries(cls, env):
        """None: frazil is installed with pip, in an environment of its own."""

    @classmethod
    def program(cls):
        """The program frazil."""
        return cls.getVar(FRAZIL_BIN)
