"""What a program downstream imports: the pick stream as an iterator of typed documents.

It loads without ONNX Runtime and OpenCV. Every document comes once, in order, and none is missed, whether the
subscriber was late, slow, or cut off: what it lacks, it asks the daemon for.

    import frazil

    with frazil.PickStream("tcp://127.0.0.1:5556", since=1) as stream:
        for document in stream:
            y, x, score = document.picks.arrays()
            print(document.seq, document.micrograph, len(score))

``frazil.AsyncPickStream`` is the same for asyncio.
"""

from frazil.client.streams import AsyncPickStream, PickStream

__all__ = ["AsyncPickStream", "PickStream"]
