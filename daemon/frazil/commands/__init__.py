"""The command line: ``frazil ...``."""
