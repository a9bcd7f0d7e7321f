"""Preparation on the device that runs the model: ONNX graphs of rescaling, standardisation and tiling.

- ``Accelerator(session, contract, threads)`` prepares, tiles and scores there, by I/O binding.
- ``find_difference(accelerator, ...)`` compares it with the path over the CPU, which stays the one that is right.
"""

from frazil.picking.device.accelerator import Accelerator, PictureOnDevice, can_prepare
from frazil.picking.device.proof import find_difference

__all__ = ["Accelerator", "PictureOnDevice", "can_prepare", "find_difference"]
