"""ONNX Runtime: which options its sessions get, and what it raises."""

from __future__ import annotations

import pytest

from frazil.model import runtime
from frazil.model.runtime import RUNTIME_ERRORS, ort
from frazil.picking.device import graphs


def test_what_it_raises_is_caught() -> None:
    with pytest.raises(RUNTIME_ERRORS):
        ort.InferenceSession(b"no model", providers=["CPUExecutionProvider"])
    session = ort.InferenceSession(graphs.tiles_graph(), providers=["CPUExecutionProvider"])
    with pytest.raises(RUNTIME_ERRORS):
        session.run(None, {})


def test_pixels_are_prepared_in_full_precision_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Session:
        def __init__(self, _: bytes, options: ort.SessionOptions, providers: list[object]) -> None:
            told.append(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    preloaded = []
    monkeypatch.setattr(runtime.ort, "InferenceSession", Session)
    monkeypatch.setattr(runtime.ort, "preload_dlls", lambda: preloaded.append(print("noise")), raising=False)
    runtime._preload_libraries.cache_clear()
    session = runtime.open_graph(b"", "cuda", 2)
    runtime.open_graph(b"", "cuda", 2)
    assert runtime.device_of(session) == "cuda"
    assert len(preloaded) == 1
    (name, options), fallback = told[0]
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["use_tf32"] == "0"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    runtime._preload_libraries.cache_clear()


def test_a_graph_that_cannot_run_on_cuda_says_so() -> None:
    content = graphs.tiles_graph()
    if "CUDAExecutionProvider" in ort.get_available_providers() and runtime.cuda_problem() is None:
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError, match="expected a session on cuda, found CPUExecutionProvider"):
        runtime.open_graph(content, "cuda", 1)
