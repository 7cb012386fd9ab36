"""One thread of a process stands still, as it does in a call of a device or a driver that never comes back; the others go on, and answer whoever asks."""
from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
from collections.abc import Iterator

import pytest

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # waits for threads, too
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def threads_of(pid: int, name: str) -> list[int]:
    return [int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name]


def trace(request: int, thread: int) -> None:
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def stopped_threads(pid: int, name: str) -> Iterator[None]:
    """All threads of the process that have this name stand still within. Its main thread must be none of them, and the process must not end within. On one thread of the caller.

    Skips the test where the kernel lets nobody trace."""
    stopped = []
    try:
        for thread in threads_of(pid, name):
            try:
                trace(PTRACE_SEIZE, thread)
            except OSError as error:
                if error.errno == errno.EPERM:
                    pytest.skip("SKIPPED: processes may not be traced here")
                raise
            stopped.append(thread)
            trace(PTRACE_INTERRUPT, thread)
            os.waitpid(thread, WALL)
        assert stopped, f"process {pid} has no thread {name}"
        yield
    finally:
        for thread in stopped:
            with contextlib.suppress(ProcessLookupError):
                trace(PTRACE_DETACH, thread)
