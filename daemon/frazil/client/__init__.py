"""The client for subscribers: the pick stream as an iterator of typed documents.

It loads without ONNX Runtime and OpenCV. Every document comes once, in order, and none is missed, even if the
subscriber was late, slow, or cut off: it requests the documents that it lacks from the daemon.

    import frazil

    with frazil.PickStream("tcp://127.0.0.1:5556", since=1) as stream:
        for document in stream:
            y, x, score = document.picks.arrays()
            print(document.seq, document.micrograph, len(score))

``frazil.AsyncPickStream`` is the same for asyncio. Both follow several daemons if they are given several addresses.
"""

from frazil.client.streams import AsyncPickStream, PickStream

__all__ = ["AsyncPickStream", "PickStream"]
