"""Memory is used again, and never while somebody still holds what lies in it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.picking import Micrograph, PixelMemory

FLOAT32 = np.dtype(np.float32)


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_that_nobody_holds_is_used_again() -> None:
    memory = PixelMemory()
    first = memory.take((30, 40), FLOAT32)
    was = place(first)
    del first
    again = memory.take((40, 30), FLOAT32)
    assert (place(again), again.shape) == (was, (40, 30))
    assert place(memory.take((30, 40), FLOAT32)) != was


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[5:7, ::3],
        lambda array: array.T.view(np.uint32)[1:],
        lambda array: memoryview(array),
        lambda array: Micrograph(path=Path("a.mrc"), pixels=array, pixel_size_angstrom=None),
    ],
    ids=["itself", "a view", "a view of a view", "a buffer", "a micrograph"],
)
def test_memory_that_somebody_holds_is_left_alone(hold) -> None:
    memory = PixelMemory()
    array = memory.take((30, 40), FLOAT32)
    was, held = place(array), hold(array)
    del array
    assert place(memory.take((30, 40), FLOAT32)) != was
    memory.release()
    del held


@given(st.lists(st.tuples(st.sampled_from([(8, 16), (16, 8), (4, 4)]), st.integers(0, 9)), max_size=60))
def test_no_two_arrays_in_use_share_memory(steps: list[tuple[tuple[int, int], int]]) -> None:
    memory = PixelMemory()
    held: list[tuple[np.ndarray, int]] = []
    for number, (shape, drop) in enumerate(steps):
        array = memory.take(shape, FLOAT32)
        array[:] = number
        held.append((array, number))
        del array
        if drop < len(held):
            del held[drop]
        assert all((kept == wrote).all() for kept, wrote in held)


def test_memory_of_another_size_is_given_back() -> None:
    memory = PixelMemory()
    for side in range(1, 200):
        array = memory.take((side, 1000), FLOAT32)
        del array
    gc.collect()
    assert len(memory._free) <= 2
    memory.release()
    assert not memory._free
