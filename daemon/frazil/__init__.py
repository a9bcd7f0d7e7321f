"""frazil picks particles from a running stream of cryo-EM micrographs.

What is where:

- ``frazil.picking``: a micrograph in, picks out; no threads, no sockets, no clock.
- ``frazil.service``: the daemon behind ``frazil serve``.
- ``frazil.client``: what a program downstream imports; it loads without ONNX Runtime and OpenCV.
- ``frazil.documents``: the typed records that travel on the stream.

This package imports nothing heavy by itself.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
