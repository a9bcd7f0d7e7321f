"""``python -m frazil_trainer`` is ``frazil-train``: torchrun starts modules."""

from frazil_trainer.cli import main

main()
