"""The trainer of frazil: simulate, train, export, evaluate.

Importing this package, and ``frazil_trainer.simulate``, needs no torch.
"""
