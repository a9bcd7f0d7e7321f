"""Export: from a trained network to files in the model repository.

- ``version`` writes a network as ONNX, checks it, and adds it as the next version of a model.
- ``quantise`` and ``int8`` make a twin in integers, and admit it if it picks as well.
- ``half`` writes a copy that computes in float16.
"""
