"""Pre-trained weights of backbones: from a file, the weights folder, a package, or through timm from the model hub."""

from __future__ import annotations

import os
import pickle
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_uflow.errors import BackboneUnavailableError
from napari_uflow.model.backbone import Backbone
from napari_uflow.model.packaged import PACKAGED, WeightsPackage

__all__ = ["WEIGHTS_FOLDER_VARIABLE", "check_weights", "load_pretrained", "weights_folder"]

WEIGHTS_FOLDER_VARIABLE = "NAPARI_UFLOW_WEIGHTS"
"""Environment variable with the path of the weights folder."""

# The square of a larger number is infinite in float32.
_LARGEST = 1e18

# Raised by readers for a file that is damaged or holds no weights.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, LookupError, OSError, EOFError, AttributeError,
    TypeError,
)  # fmt: skip


def weights_folder() -> Path:
    """Return the folder that is searched for pre-trained weights.

    It is ``$NAPARI_UFLOW_WEIGHTS`` if that is set, otherwise ``~/.cache/napari-uflow``.
    """
    chosen = os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "napari-uflow"


def load_pretrained(backbone: Backbone, weights: str | Path | None = None) -> str:
    """Fill a backbone with its ImageNet weights.

    Parameters
    ----------
    backbone : Backbone
        Its weights are replaced.
    weights : path, optional
        A file of weights in timm's or torchvision's naming (``.safetensors``, ``.pth``), or a folder with one such
        file per network. Without it the weights folder is searched, then the packages with weights that are installed,
        then timm asks the model hub.

    Returns
    -------
    str
        Origin of the weights: the file's name, name and version of the package, or the name at the hub; "" for a
        backbone without.

    Raises
    ------
    BackboneUnavailableError
        If there is no such file, if it does not fit the network, if the file of a package is damaged, or if the hub
        cannot be reached; the message names the file to download and the place for it.
    """
    sources = []
    parts = list(backbone.pretrained_parts())
    for name, network in parts:
        path = _local_file(name, weights, single=len(parts) == 1)
        if path is not None:
            _load_file(network, path, name)
            sources.append(path.name)
        elif (package := PACKAGED.get(name)) is not None and (packaged := package.path()) is not None:
            _load_package(network, package, packaged, name)
            sources.append(package.origin)
        else:
            _load_hub(network, name)
            sources.append(name)
    backbone.freeze()
    return ", ".join(sources)


def check_weights(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, exact_type: bool) -> None:
    """Raise if tensors cannot be the trained weights of a network.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights by name.
    wanted : mapping of str to Tensor
        Tensors of the network, with names, shapes and types; their values do not count.
    exact_type : bool
        True for weights that must be of the type of the network's; otherwise other floating-point types, such as
        float16, serve as well.

    Raises
    ------
    ValueError
        If a tensor is of another type; if a number is not finite, or so large that its square is not; if a variance is
        negative; or if a kernel of the backbone is all zeros.
    """
    for name, values in state.items():
        dtype = wanted[name].dtype
        if values.dtype != dtype and (exact_type or not (values.is_floating_point() and dtype.is_floating_point)):
            raise ValueError(f"its weights {name} are of the type {_plain(values.dtype)}, not {_plain(dtype)}")
        if not values.numel() or not values.is_floating_point():
            continue
        low, high = (float(x) for x in torch.aminmax(values))
        if not (low > -_LARGEST and high < _LARGEST):  # False for NaN, too
            raise ValueError(f"its weights {name} are not finite, or too large to compute with")
        if name.endswith("running_var") and low < 0:
            raise ValueError(f"its weights {name} are variances but below zero")
        is_kernel = values.ndim > 1 and name.endswith("weight") and not name.startswith(("flow.", "coarser."))
        if is_kernel and low == high == 0:
            raise ValueError(f"its weights {name} are all zero: they were never trained, or were lost")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _candidates(name: str) -> Sequence[str]:
    architecture = name.split(".", maxsplit=1)[0]
    return [f"{stem}{end}" for stem in (name, architecture) for end in (".safetensors", ".pth")]


def _local_file(name: str, weights: str | Path | None, *, single: bool) -> Path | None:
    if weights is not None:
        path = Path(weights).expanduser()
        if os.path.isfile(path) and single:
            return path
        if os.path.isdir(path):
            for candidate in _candidates(name):
                if (path / candidate).is_file():
                    return path / candidate
            raise _to_download(name, f"the folder {path} does not contain {_candidates(name)[0]}")
        if os.path.isfile(path):
            raise BackboneUnavailableError(
                f"this backbone needs a file for each of its networks: give a folder, not {path}"
            )
        raise BackboneUnavailableError(f"there is no file of weights {path}")
    for candidate in _candidates(name):
        if (weights_folder() / candidate).is_file():
            return weights_folder() / candidate
    return None


def _load_file(network: nn.Module, path: Path, name: str) -> None:
    try:
        state = _read_state(path)
    except _UNREADABLE as error:
        raise _unreadable(path, name, error) from error
    _fill(network, state, path, name)


def _load_package(network: nn.Module, package: WeightsPackage, path: Path, name: str) -> None:
    try:
        state = package.read(path)
    except _UNREADABLE as error:
        raise _unreadable(path, name, error) from error
    _fill(network, state, path, name)


def _fill(network: nn.Module, state: Mapping[str, Any], path: Path, name: str) -> None:
    """Set every weight of a network, by its name; the counters of batch norms may be missing."""
    wanted = network.state_dict()
    chosen = {key: state[key] for key in wanted if _shape(state.get(key)) == wanted[key].shape}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(chosen) - counters)
    if missing:
        raise BackboneUnavailableError(
            f"{path} does not contain the weights of {name}: {missing[0]} and {len(missing) - 1} more are missing"
        )
    try:
        check_weights(chosen, wanted, exact_type=False)
        network.load_state_dict(chosen, strict=False)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sparse or quantised tensors
        raise BackboneUnavailableError(f"{path} cannot be used as weights of {name}: {_first_line(error)}") from error


def _read_state(path: Path) -> dict[str, Any]:
    """Read a state dict; timm's own reader runs the code in a pickle in its older versions."""
    state: Any
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return {key.removeprefix("module."): value for key, value in state.items()}


def _unreadable(path: Path, name: str, error: BaseException) -> BackboneUnavailableError:
    return BackboneUnavailableError(f"{path} cannot be read as weights of {name}: {_first_line(error)}")


def _shape(value: object) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _load_hub(network: nn.Module, name: str) -> None:
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise BackboneUnavailableError(f"timm {timm.__version__} knows no weights called {name}")
    absent = f"the weights {name} are not on this computer"
    if (package := PACKAGED.get(name)) is not None:
        absent = f"the package {package.origin} with the weights {name} is not installed"
    if not _is_cached(config.hf_hub_id) and not _is_hub_near():
        raise _to_download(name, f"{absent} and the model hub cannot be reached")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pretrained = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises whatever its transport raises
        raise _to_download(name, f"{absent} and the model hub did not send them ({_first_line(error)})") from error
    state = pretrained.state_dict()
    wanted = network.state_dict()
    network.load_state_dict({key: state[key] for key in wanted})


def _is_cached(repository: str | None) -> bool:
    return repository is not None and isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def _is_hub_near() -> bool:
    """Find out in seconds whether the hub answers; its client alone retries for most of a minute."""
    if getproxies():
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((host.hostname or "", host.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _to_download(name: str, reason: str) -> BackboneUnavailableError:
    """Return an error that names the file to download and its place in the weights folder."""
    return BackboneUnavailableError(
        reason,
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        path=weights_folder() / f"{name}.safetensors",
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
