"""Training data, from files to labelled micrographs; needs no torch.

- ``files`` finds and reads micrographs, pictures among them.
- ``labelled`` joins a micrograph with its labels, as the picker will see it.
- ``check`` measures whether the labels lie on particles.
- ``load`` reads the data of a whole recipe, and refuses data that cannot be trained on.
"""
