"""The process that a temporary file belongs to, as a part of the file's name.

A process that is killed leaves its temporary files behind. With the owner in its name, a file can be told from those of
running processes and of other computers that see the same folder.
"""

from __future__ import annotations

import os
import platform
import zlib

import psutil

__all__ = ["TAG", "has_ended", "is_of_this_computer", "nobody", "own_tag"]

TAG = r"[0-9a-f]{8}-\d{1,10}-\d{1,12}"
"""Regular expression of a tag: computer, process id, and start of the process in seconds."""

# Adjusting the clock moves the start times of running processes.
_SECONDS_OF_CLOCK = 10


def own_tag() -> str:
    """Return the tag of this process."""
    return f"{_computer()}-{os.getpid()}-{int(psutil.Process().create_time())}"


def nobody() -> str:
    """Return a tag of this computer whose process has ended."""
    return f"{_computer()}-0-0"


def has_ended(tag: str) -> bool:
    """Return True if the process of a tag ran on this computer and has ended; False if that is not certain.

    Parameters
    ----------
    tag : str
        As :data:`TAG` describes it.
    """
    _, pid, start = tag.split("-")
    return is_of_this_computer(tag) and not _is_running(int(pid), int(start))


def is_of_this_computer(tag: str) -> bool:
    """Return True if the process of a tag runs or ran on this computer."""
    return tag.split("-")[0] == _computer()


def _computer() -> str:
    """Return a number for this computer and, in a container, for its own set of process ids."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return f"{zlib.crc32(f'{platform.node()} {processes}'.encode()):08x}"


def _is_running(pid: int, start: int) -> bool:
    if pid == 0:
        return False
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - start) <= _SECONDS_OF_CLOCK
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.Error:  # of another user
        return True
