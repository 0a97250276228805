"""Where to compute."""

from __future__ import annotations

import torch

from napari_uflow.errors import ConfigError

__all__ = ["choose_device"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    name : str
        "auto" takes a CUDA GPU where there is one, then Apple's, then the CPU; or a name as torch knows it.

    Raises
    ------
    ConfigError
        If the name is unknown or there is no such device on this computer.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}") from error
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there.get(device.type, False):
        raise ConfigError(f"this computer has no device {name!r} that torch can use; choose auto or cpu")
    return device
