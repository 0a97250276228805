"""Devices to compute on, and their memory."""

from __future__ import annotations

import ctypes
import gc
import sys

import psutil
import torch

from napari_uflow.errors import ConfigError
from napari_uflow.system.memory import MOST_OF_PROCESSOR

__all__ = ["choose_device", "free_memory", "is_out_of_memory", "memory_for_tiles"]

# Fractions of the free memory.
_FRACTION_OF_PROCESSOR, _FRACTION_OF_GPU = 0.25, 0.5


def memory_for_tiles(device: torch.device) -> float:
    """Return the bytes that a detection may use for its tiles: a fraction of the free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _FRACTION_OF_GPU * (free + kept)
    if device.type == "mps":
        most = getattr(torch.mps, "recommended_max_memory", None)  # not in older versions of torch
        if most is not None:
            return float(_FRACTION_OF_GPU * (most() - torch.mps.driver_allocated_memory()))
    return min(MOST_OF_PROCESSOR, _FRACTION_OF_PROCESSOR * float(psutil.virtual_memory().available))


# Of torch's allocators, of the C++ library, and of oneDNN, which says nothing else if it finds no memory.
_SIGNS_OF_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
    "could not create a memory object",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error reports a lack of memory of the computer or its GPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_NO_MEMORY)


def free_memory(device: torch.device) -> None:
    """Release memory that torch and the C library keep for later use; allocating it again takes time."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # of glibc
        trim(0)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    name : str
        Name of the device in torch; "auto" selects a CUDA GPU, else an Apple GPU, else the CPU.

    Raises
    ------
    ConfigError
        If the name is unknown or the computer has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}") from error
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there.get(device.type, False):
        raise ConfigError(f"this computer has no device {name!r} that torch can use; choose auto or cpu")
    if name == "cuda":  # older versions of torch require a number
        device = torch.device("cuda", torch.cuda.current_device())
    return device
