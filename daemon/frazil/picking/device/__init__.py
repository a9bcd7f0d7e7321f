"""Preparation on the device that runs the model: ONNX graphs of rescaling, normalisation and tiling.

- ``PreparationOnDevice(model)`` is given to a picker; it leaves to the CPU what the device cannot do.
- ``Accelerator(session, contract, threads)`` prepares, tiles and scores there, by I/O binding.
- ``compare_with_cpu(accelerator, model)`` compares it with the path over the CPU, which stays the one that is right.
"""

from frazil.picking.device.accelerator import Accelerator, PictureOnDevice
from frazil.picking.device.preparation import Preparation, PreparationOnDevice, compare_with_cpu

__all__ = ["Accelerator", "PictureOnDevice", "Preparation", "PreparationOnDevice", "compare_with_cpu"]
