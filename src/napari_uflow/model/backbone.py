"""Frozen backbones: images in, a pyramid of features out.

Making a backbone never downloads anything. :func:`load_pretrained` fills one with its ImageNet weights: from a file the
user names, from the weights folder, or through timm from the model hub, in this order.
"""

from __future__ import annotations

import os
import pickle
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_uflow.errors import BackboneUnavailableError, ConfigError
from napari_uflow.model.scattering import Scattering
from napari_uflow.progress import Pieces, at_once

__all__ = ["Backbone", "BackboneInfo", "create_backbone", "load_pretrained", "weights_folder"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# What readers raise for a file that is damaged or not one of weights.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, LookupError, OSError, EOFError, AttributeError,
    TypeError,
)  # fmt: skip

WEIGHTS_FOLDER_VARIABLE = "NAPARI_UFLOW_WEIGHTS"


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """What is known of a backbone before it is made.

    Attributes
    ----------
    networks : tuple of str
        timm's names, with the tag that says which weights are meant; empty where there is nothing to load.
    channels, strides : tuple of int
        Channels and stride of each level, finest first (channels 0 where they depend on the image's).
    halo : int
        Pixels around a position that can influence it, rounded up to a multiple of the coarsest stride.
    fixed_size : int or None
        Side of the only tile size it takes, None where it takes any.
    """

    networks: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    halo: int
    fixed_size: int | None = None


# The halos of the residual networks follow from their kernels: half the receptive field of the last layer used is
# 105 pixels for resnet18 (7, pool 3, then 4 convolutions of 3 per stage) and 133 for wide_resnet50_2.
_INFO: dict[str, BackboneInfo] = {
    "scattering": BackboneInfo((), (0, 0, 0), Scattering.strides, Scattering.halo),
    "resnet18": BackboneInfo(("resnet18.tv_in1k",), (64, 128, 256), (4, 8, 16), 112),
    "wide_resnet50_2": BackboneInfo(("wide_resnet50_2.tv_in1k",), (256, 512, 1024), (4, 8, 16), 144),
    "mcait": BackboneInfo(
        ("cait_m48_448.fb_dist_in1k", "cait_s24_224.fb_dist_in1k"), (768, 384), (16, 32), 64, fixed_size=448
    ),
}


class Backbone(nn.Module):
    """A frozen backbone; always in evaluation mode, no parameter asks for a gradient.

    Parameters
    ----------
    name : str
        One of ``scattering``, ``resnet18``, ``wide_resnet50_2``, ``mcait``.
    n_channels : int
        Channels of the images, 1 to 3. For networks that take three, one channel is repeated, and of two the mean
        is the third.

    Attributes
    ----------
    channels, strides : tuple of int
        Channels and stride of each level, finest first.
    halo : int
        Pixels around a position that can influence its features.
    fixed_size : int or None
        Side of the only tile size it takes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, n_channels: int):
        super().__init__()
        if name not in _INFO:
            raise ConfigError(f"backbone must be one of {', '.join(_INFO)}, not {name!r}")
        info = _INFO[name]
        self.name = name
        self.n_channels = n_channels
        self.strides, self.halo, self.fixed_size = info.strides, info.halo, info.fixed_size
        self.channels = info.channels
        self.networks = nn.ModuleList()
        if name == "scattering":
            scattering = Scattering(n_channels)
            self.channels = scattering.channels
            self.networks.append(scattering)
        elif name == "mcait":
            self.networks.append(_CaitTrunk(info.networks[0], 41))
            self.networks.append(_CaitTrunk(info.networks[1], 21))
        else:
            self.networks.append(
                timm.create_model(info.networks[0], pretrained=False, features_only=True, out_indices=(1, 2, 3))
            )
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None], persistent=False)
        # Channels innermost: on a CPU convolutions take up to 2.5 times less time; on a GPU they want it, too.
        self.networks.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002 - a frozen network has one mode
        """Stay in evaluation mode whatever the model around it does."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute features: what `pieces` returns."""
        return at_once(self.pieces(x))

    def pieces(self, x: Tensor) -> Pieces[tuple[Tensor, ...]]:
        """Compute features, with a pause behind each part of the network.

        Parameters
        ----------
        x : Tensor (B, C, M, N), float32
            Images in the model's intensity range (about 0 to 1); M and N multiples of the coarsest stride.

        Returns
        -------
        tuple of Tensor, each (B, C_l, M / s_l, N / s_l), float32
            Finest level first.
        """
        if self.name == "scattering":
            features: tuple[Tensor, ...] = yield from self.networks[0].pieces(x)  # type: ignore[operator]
            return features
        x = ((_three_channels(x) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.name == "mcait":
            small = F.interpolate(x, size=(224, 224), mode="bicubic", align_corners=True)
            fine = yield from self.networks[0].pieces(x)  # type: ignore[operator]
            coarse = yield from self.networks[1].pieces(small)  # type: ignore[operator]
            return fine, coarse
        return (yield from _levels_of(self.networks[0], x))


def _levels_of(network: Any, x: Tensor) -> Pieces[tuple[Tensor, ...]]:
    """Return the feature maps of a residual network of timm, block by block."""
    levels: list[Tensor] = []
    for name, layer in network.items():
        for block in layer if isinstance(layer, nn.Sequential) else (layer,):
            x = block(x)
            yield
        if name in network.return_layers:
            levels.append(x)
    return tuple(levels)


class _CaitTrunk(nn.Module):
    """The first blocks of a CaiT network and its final norm, as a map of features."""

    def __init__(self, name: str, n_blocks: int):
        super().__init__()
        self.cait = timm.create_model(name, pretrained=False, num_classes=0)
        self.cait.blocks = self.cait.blocks[:n_blocks]
        self.cait.blocks_token_only = nn.ModuleList()

    def pieces(self, x: Tensor) -> Pieces[Tensor]:
        """Return the features of squares, block by block."""
        tokens = self.cait.patch_embed(x)
        tokens = self.cait.pos_drop(tokens + self.cait.pos_embed)
        for block in self.cait.blocks:
            tokens = block(tokens)
            yield
        tokens = self.cait.norm(tokens)
        side = round(tokens.shape[1] ** 0.5)
        grid: Tensor = tokens.transpose(1, 2).reshape(len(x), -1, side, side)
        return grid


def _three_channels(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] == 2:
        return torch.cat((x, x.mean(dim=1, keepdim=True)), dim=1)
    return x


def create_backbone(name: str, n_channels: int) -> Backbone:
    """Make a backbone with random weights; nothing is read or downloaded.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    return Backbone(name, n_channels)


def weights_folder() -> Path:
    """Return the folder that is searched for pre-trained weights.

    It is ``$NAPARI_UFLOW_WEIGHTS`` where that is set, otherwise ``~/.cache/napari-uflow``.
    """
    chosen = os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "napari-uflow"


def load_pretrained(backbone: Backbone, weights: str | Path | None = None) -> str:
    """Fill a backbone with its ImageNet weights.

    Parameters
    ----------
    backbone : Backbone
        As made by :func:`create_backbone`.
    weights : path, optional
        A file of weights in timm's or torchvision's naming (``.safetensors``, ``.pth``), or a folder with one such
        file per network. Without it the weights folder is searched, then timm asks the model hub.

    Returns
    -------
    str
        Where the weights came from: the file's name, or the name at the hub.

    Raises
    ------
    BackboneUnavailableError
        If there is no such file, if it does not fit the network, or if the hub cannot be reached; the message names
        the file to fetch and where to put it.
    """
    sources = []
    for network, name in zip(backbone.networks, _INFO[backbone.name].networks, strict=False):
        target = network.cait if isinstance(network, _CaitTrunk) else network
        path = _local_file(name, weights, single=len(backbone.networks) == 1)
        if path is not None:
            _load_file(target, path, name)
            sources.append(path.name)
        else:
            _load_hub(target, name)
            sources.append(name)
    backbone.requires_grad_(False)
    backbone.train(False)
    return ", ".join(sources)


def _candidates(name: str) -> Sequence[str]:
    architecture = name.split(".", maxsplit=1)[0]
    return [f"{stem}{end}" for stem in (name, architecture) for end in (".safetensors", ".pth")]


def _local_file(name: str, weights: str | Path | None, *, single: bool) -> Path | None:
    if weights is not None:
        path = Path(weights).expanduser()
        if path.is_file() and single:
            return path
        if path.is_dir():
            for candidate in _candidates(name):
                if (path / candidate).is_file():
                    return path / candidate
            raise _to_download(name, f"the folder {path} holds no {_candidates(name)[0]}")
        if path.is_file():
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
        raise BackboneUnavailableError(f"{path} cannot be read as weights of {name}: {_first_line(error)}") from error
    wanted = network.state_dict()
    chosen = {key: state[key] for key in wanted if _shape(state.get(key)) == wanted[key].shape}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(chosen) - counters)
    if missing:
        raise BackboneUnavailableError(
            f"{path} does not hold the weights of {name}: {missing[0]} and {len(missing) - 1} more are missing"
        )
    network.load_state_dict(chosen, strict=False)


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


def _shape(value: object) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _load_hub(network: nn.Module, name: str) -> None:
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        raise BackboneUnavailableError(f"timm {timm.__version__} knows no weights called {name}")
    if not _is_cached(config.hf_hub_id) and not _is_hub_near():
        raise _to_download(name, f"the weights {name} are not on this computer and the model hub cannot be reached")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pretrained = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises whatever its transport raises
        reason = f"the weights {name} are not on this computer and the model hub did not send them"
        raise _to_download(name, f"{reason} ({_first_line(error)})") from error
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
