"""Few-shot adaptation: a model and a few labelled micrographs give the model's next version, within minutes.

- ``parent`` reads the network back from the model's ONNX file.
- ``labels`` reads and checks the labelled micrographs, and holds out a part of each.
- ``examples`` draws patches of them, and of a replay set, so that nothing is forgotten.
- ``pace`` fits the updates into the given time.
- ``outcome`` chooses the threshold, and compares before and after.
- ``adaptation`` does it all.
"""
