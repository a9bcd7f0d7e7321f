"""Which failures are tried again, and when."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from frazil.errors import MicrographError, ModelError
from frazil.faults import backoff_seconds, failure_of, is_transient

PATH = Path("/data/a.mrc")


@pytest.mark.parametrize(
    ("error", "reason", "transient"),
    [
        (MicrographError(PATH, "not_mrc", "text"), "not_mrc", False),
        (MicrographError(PATH, "unreadable", "cannot be read"), "unreadable", True),
        (ModelError("scores are not finite"), "model", False),
        (OSError(errno.EIO, "Input/output error"), "unreadable", True),
        (MemoryError(), "memory", True),
        (
            RuntimeError("[ONNXRuntimeError] : 6 : bfc_arena Failed to allocate memory for requested buffer"),
            "memory",
            True,
        ),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), "memory", True),
        (ValueError("nobody foresaw this"), "internal", True),
    ],
)
def test_what_another_moment_may_change_is_transient(error: Exception, reason: str, transient: bool) -> None:
    failure = failure_of(PATH, "picking", error)
    assert failure.reason == reason
    assert str(PATH) in str(failure)
    assert is_transient(failure) is transient


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModelError("scores are not finite"), "scores are not finite"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
        (OSError("the share is gone"), "cannot be read: the share is gone"),
        (MemoryError(), "picking ran out of memory"),
        (
            RuntimeError("\nCUDA failure 2: out of memory\nat line 7"),
            "picking ran out of memory: CUDA failure 2: out of memory",
        ),
        (ValueError("nobody foresaw this"), "picking failed: nobody foresaw this"),
    ],
)
def test_a_failure_names_the_file_and_what_happened_in_one_line(error: Exception, says: str) -> None:
    said = str(failure_of(PATH, "picking", error))
    assert said == f"{PATH}: {says}"
    assert "\n" not in said


def test_only_the_unforeseen_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    failure_of(PATH, "reading", OSError(errno.EIO, "Input/output error"))
    assert caplog.records == []
    failure_of(PATH, "reading", ValueError("nobody foresaw this"))
    assert caplog.records[0].message == f"reading of {PATH} failed unexpectedly"
    assert caplog.records[0].exc_info
    assert isinstance(caplog.records[0].exc_info[1], ValueError)


def test_waiting_doubles_within_bounds_and_is_never_in_step() -> None:
    for attempt, longest in ((1, 1), (2, 2), (5, 16), (9, 256), (30, 300), (2000, 300)):
        waits = [backoff_seconds(attempt) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 40
