"""Training data, from files to labelled micrographs; needs no torch.

- ``labelled`` finds micrographs and their labels, and joins them as the picker will see them.
- ``simulated`` makes such ones in memory.
- ``check`` measures whether the labels lie on particles.
- ``load`` reads the data of a whole recipe, and refuses data that cannot be trained on.
"""
